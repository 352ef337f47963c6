"""Where the work runs does not change what it computes: one device and mirrored, case by case."""

import numpy as np
import pytest

from tests.equivalence.cases import CASES

RUNS = [
    pytest.param(
        replicas, name, id=f"{'one_device' if replicas == 1 else 'mirrored'}{replicas}-{name}"
    )
    for replicas in (1, 2, 4)
    for name, case in CASES.items()
    if replicas in case.replicas
]
pytestmark = pytest.mark.slow
every_run = pytest.mark.parametrize("replicas, name", RUNS)


@every_run
def test_weights_are_those_of_a_plain_loop(outcomes, replicas, name):
    expected, got = outcomes.expected(replicas, name), outcomes.of(replicas, name)

    assert len(got.weights) == len(expected.weights) > 0
    assert largest_difference(got.weights, expected.weights) <= CASES[name].weights


@every_run
def test_optimizer_state_is_that_of_a_plain_loop(outcomes, replicas, name):
    expected, got = outcomes.expected(replicas, name), outcomes.of(replicas, name)

    assert len(got.optimizer) == len(expected.optimizer) > 0
    assert largest_difference(got.optimizer, expected.optimizer) <= CASES[name].weights


@every_run
def test_losses_and_metrics_are_those_of_the_whole_batches(outcomes, replicas, name):
    expected, got = outcomes.expected(replicas, name), outcomes.of(replicas, name)

    assert [at["step"] for at in got.history] == [at["step"] for at in expected.history]
    for mine, plain in zip(
        [*got.history, got.evaluation], [*expected.history, expected.evaluation], strict=True
    ):
        assert set(mine) == set(plain)
        for key, value in plain.items():
            allowed = CASES[name].losses if key.endswith("loss") else CASES[name].metrics
            assert mine[key] == pytest.approx(value, rel=allowed), (key, plain.get("step"))


@every_run
def test_replicas_end_with_the_same_variables(outcomes, replicas, name):
    assert outcomes.of(replicas, name).copies == 0


@pytest.mark.parametrize(
    "replicas, name",
    [
        *((replicas, "float16_infinite_gradient") for replicas in (1, 2, 4)),
        (2, "float16_infinite_gradient_owner"),
        (4, "float16_infinite_gradient_jit_owner"),
    ],
)
def test_an_infinite_gradient_on_one_replica_skips_the_step_on_all(outcomes, replicas, name):
    wrapped_iterations, _, good_steps, scale, iterations, *_ = outcomes.of(replicas, name).optimizer

    # 12 steps; in each of the 3 passes one has the huge example, 2 steps before the pass's end.
    assert iterations == 12 - 3
    assert scale == 2**15 / 2**3
    assert good_steps == 2
    assert wrapped_iterations == 0


def largest_difference(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [a.shape for a in got] == [a.shape for a in expected]
    return max(
        float(np.max(np.abs(a.astype(float) - b), initial=0))
        for a, b in zip(got, expected, strict=True)
    )
