"""Where the work runs does not change what it computes: each placement, case by case.

These tests guard moving_averages, next_scale and scale_variables of tfbig._private_api.
"""

import math

import numpy as np
import pytest

from tests.equivalence.case import Case, Outcome, Where
from tests.equivalence.cases import CASES
from tests.equivalence.grid import all_runs, chosen

_IN_CI = chosen(CASES)
RUNS = [
    pytest.param(
        *run, id=f"{run.where}-{run.name}", marks=[] if run in _IN_CI else pytest.mark.long
    )
    for run in all_runs(CASES)
]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("where", "name"), RUNS)
def test_a_run_ends_with_the_numbers_of_a_plain_loop(outcomes, where, name):
    expected, (got, *others) = outcomes.expected(where, name), outcomes.of_all(where, name)

    found = deviations(CASES[name], expected, got) + deviations_of_workers(where, got, others)
    if name.startswith("float16_infinite_gradient"):
        found += deviations_of_skipped_steps(got)
    assert not found, "\n".join(found)


def deviations(case: Case, expected: Outcome, got: Outcome) -> list[str]:
    """Lists the figures of a run that are not those of the plain loop."""
    found = []
    for what in ("weights", "optimizer"):
        mine, plain = getattr(got, what), getattr(expected, what)
        if [a.shape for a in mine] != [a.shape for a in plain] or not plain:
            found.append(f"{what}: {len(mine)} variables, not {len(plain)}, or of other shapes")
        elif not (largest := largest_difference(mine, plain)) <= case.weights:
            found.append(f"{what} differ by {largest:.3g}, {case.weights:g} is allowed")
    steps, plain_steps = ([at["step"] for at in run.history] for run in (got, expected))
    if steps != plain_steps:
        found.append(f"logged steps are {steps}, not {plain_steps}")
    logs = [
        (f"step {at['step']}", at, mine)
        for at, mine in zip(expected.history, got.history, strict=False)
    ]
    for when, plain, mine in [*logs, ("evaluation", expected.evaluation, got.evaluation)]:
        if set(mine) != set(plain):
            found.append(f"{when}: figures are {sorted(mine)}, not {sorted(plain)}")
        found += [
            f"{when}: {key} is {mine[key]:.9g}, not {value:.9g}"
            for key, value in plain.items()
            if key in mine
            and mine[key]
            != pytest.approx(value, rel=case.losses if key.endswith("loss") else case.metrics)
        ]
    if got.copies != 0:
        found.append(f"the replicas' copies of a variable differ by {got.copies:.3g}")
    return found


def deviations_of_workers(where: Where, first: Outcome, others: list[Outcome]) -> list[str]:
    """Lists in what workers differ from the first one; they have to agree on every bit."""
    expected = where.count - 1 if where.kind == "workers" else 0
    found = [] if len(others) == expected else [f"{1 + len(others)} outcomes of workers"]
    for index, other in enumerate(others, 1):
        for what in ("weights", "optimizer"):
            apart = largest_difference(getattr(other, what), getattr(first, what))
            if apart != 0:
                found.append(f"worker {index}: {what} differ by {apart:.3g} from worker 0")
        if (other.history, other.evaluation) != (first.history, first.evaluation):
            found.append(f"worker {index}: {other.history} {other.evaluation}, not worker 0's")
    return found


def deviations_of_skipped_steps(got: Outcome) -> list[str]:
    """Lists what is wrong where an infinite gradient on one replica skips the step on all.

    Of 12 steps one in each of the 3 passes has the huge example, 2 steps before the pass's end.
    """
    wrapped_iterations, _, good_steps, scale, iterations, *_ = got.optimizer
    figures = {
        "iterations": (iterations, 12 - 3),
        "scale": (scale, 2**15 / 2**3),
        "good steps": (good_steps, 2),
        "iterations of the wrapped optimizer": (wrapped_iterations, 0),
    }
    return [f"{k} is {got}, not {right}" for k, (got, right) in figures.items() if got != right]


def largest_difference(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Gives the largest difference of two elements; infinite if the shapes differ."""
    if [a.shape for a in got] != [a.shape for a in expected]:
        return math.inf
    pairs = zip(got, expected, strict=True)
    return float(np.max([np.max(np.abs(a.astype(float) - b), initial=0) for a, b in pairs]))
