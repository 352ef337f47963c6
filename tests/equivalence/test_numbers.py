"""Where the work runs does not change what it computes: each placement, case by case."""

import numpy as np
import pytest

from tests.equivalence.cases import CASES

# Of the cases on parameter servers, those that are not left to the long runs.
SAMPLE = ("uneven", "last_batch_of_one", "clipnorm", "batch_norm", "model_fn", "tf1_momentum")
RUNS = [
    pytest.param(
        where,
        name,
        id=f"{where}-{name}",
        marks=[pytest.mark.long]
        if where in (("workers", 3), ("servers", 3))
        or (where.kind == "servers" and name not in SAMPLE)
        else [],
    )
    for name, case in CASES.items()
    for where in case.placements
]
pytestmark = pytest.mark.slow
every_run = pytest.mark.parametrize(("where", "name"), RUNS)


@every_run
def test_weights_are_those_of_a_plain_loop(outcomes, where, name):
    expected, got = outcomes.expected(where, name), outcomes.of(where, name)

    assert len(got.weights) == len(expected.weights) > 0
    assert largest_difference(got.weights, expected.weights) <= CASES[name].weights


@every_run
def test_optimizer_state_is_that_of_a_plain_loop(outcomes, where, name):
    expected, got = outcomes.expected(where, name), outcomes.of(where, name)

    assert len(got.optimizer) == len(expected.optimizer) > 0
    assert largest_difference(got.optimizer, expected.optimizer) <= CASES[name].weights


@every_run
def test_losses_and_metrics_are_those_of_the_whole_batches(outcomes, where, name):
    expected, got = outcomes.expected(where, name), outcomes.of(where, name)

    assert [at["step"] for at in got.history] == [at["step"] for at in expected.history]
    for mine, plain in zip(
        [*got.history, got.evaluation], [*expected.history, expected.evaluation], strict=True
    ):
        assert set(mine) == set(plain)
        for key, value in plain.items():
            allowed = CASES[name].losses if key.endswith("loss") else CASES[name].metrics
            assert mine[key] == pytest.approx(value, rel=allowed), (key, plain.get("step"))


@every_run
def test_replicas_end_with_the_same_variables(outcomes, where, name):
    assert outcomes.of(where, name).copies == 0


@every_run
def test_workers_end_with_the_same_results(outcomes, where, name):
    first, *others = outcomes.of_all(where, name)

    assert len(others) == (where.count - 1 if where.kind == "workers" else 0)
    for other in others:
        assert largest_difference(other.weights, first.weights) == 0
        assert largest_difference(other.optimizer, first.optimizer) == 0
        assert other.history == first.history
        assert other.evaluation == first.evaluation


@pytest.mark.parametrize(
    ("where", "name"),
    [run for run in RUNS if run.values[1].startswith("float16_infinite_gradient")],
)
def test_an_infinite_gradient_on_one_replica_skips_the_step_on_all(outcomes, where, name):
    wrapped_iterations, _, good_steps, scale, iterations, *_ = outcomes.of(where, name).optimizer

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
