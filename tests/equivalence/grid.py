"""Picks the runs of the numbers contract that CI needs out of all of them.

The full grid is each case on each of its placements: `make test-long`, together with `make
test-slow`, runs all of it. CI runs a covering array. The reasoning is what each axis can break:

- **The case** (loss, weights, optimizer, layers, masks, metrics). What is special about a case is
  computed in one place for all placements, out of parts of a batch that are summed. A fault shows
  wherever there are two parts: so each case is run once on replicas of one process, with two of
  them or with four, and once on workers if it has state or figures that cross processes. On one
  device there is one part and nothing is summed. There the loop, the logs and the evaluation can
  go wrong, which a few cases show, and so can what depends on the kind of program.
- **The placement** decides how a batch is cut and how sums travel. So each way of cutting (size of
  the batch, size of the last one), each number of micro-batches, each precision and each kind of
  program (Keras, model_fn, model_fn of TensorFlow 1) is run once on each placement.
- **The variant** (compiled, with activations recomputed, with sliced optimizer state). It is
  written apart from the placements, but pads, recomputes or slices what belongs to the case: each
  case with each of its variants is run once, and each variant once on each placement.
- **Three workers, or three workers beside parameter servers**, take another path nowhere that two
  workers and four replicas do not take. They are left to the long runs. On two workers beside
  parameter servers each part of a batch is computed by the function of mirrored replicas, on
  batches that are cut in the same way. What is new there is how sums travel: each number of
  micro-batches and each kind of program is run there, not each case.

ALWAYS names the cases that found faults in more than one placement: uneven batches, a last batch
that leaves replicas without examples, skipped steps, clipped accumulation, batch statistics. They
are run on each of their placements.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tests.equivalence.case import Case, Where

ALWAYS = (
    "uneven",
    "last_batch_of_one",
    "accumulation_3_clipped",
    "batch_norm_last_of_one",
    "float16_infinite_gradient",
)
_VARIANTS = ("owner", "gradients", "full", "remat", "jit")
_LONG = (Where("workers", 3), Where("servers", 3))


class Run(NamedTuple):
    """A case on a placement."""

    where: Where
    name: str


def all_runs(cases: Mapping[str, Case]) -> list[Run]:
    """Lists the full grid."""
    return [Run(where, name) for name, case in cases.items() for where in case.placements]


def chosen(cases: Mapping[str, Case]) -> set[Run]:
    """Picks the runs of CI: those of ALWAYS, then greedily until all that is wanted is covered.

    The choice depends on the cases and their order alone.
    """
    runs = [run for run in all_runs(cases) if run.where not in _LONG]
    runs.sort(key=lambda run: cases[run.name].steps)  # of equal ones the shortest is picked
    picked = {run for run in runs if run.name in ALWAYS}
    missing = wanted(cases) - covered(picked, cases)
    covers = {run: covered([run], cases) for run in runs}
    while missing:
        best = max(runs, key=lambda run: len(covers[run] & missing))
        picked.add(best)
        missing -= covers[best]
    return picked


def wanted(cases: Mapping[str, Case]) -> set[tuple]:
    """Everything that CI has to cover, and that a run can cover."""
    return covered([run for run in all_runs(cases) if run.where not in _LONG], cases)


def covered(runs: Iterable[Run], cases: Mapping[str, Case]) -> set[tuple]:
    """The pairs that these runs cover."""
    found = set()
    for where, name in runs:
        base, variant = parts_of_name(name)
        case = cases[name]
        if where.kind in ("mirrored", "workers"):
            found.add(("case", base, where.kind))
        found.add(("case", base, variant))
        found.add(("variant", variant, str(where)))
        keys = ("micro-batches", "program") if where.kind == "servers" else settings(case)
        found |= {(key, settings(case)[key], str(where)) for key in keys}
    return found


def parts_of_name(name: str) -> tuple[str, str]:
    """Splits a name into the case and its variants: ("ema", "jit_owner")."""
    words = name.split("_")
    at = len(words)
    while words[at - 1] in _VARIANTS:
        at -= 1
    return "_".join(words[:at]), "_".join(words[at:])


def settings(case: Case) -> dict[str, object]:
    """What decides how a placement cuts and sums the batches of a case."""
    kind = "keras" if case.model_fn is None else type(case.model_fn).__name__
    return {
        "last batch": case.examples % case.batch_size or case.batch_size,
        "micro-batches": case.config.get("accumulation_steps", 1),
        "precision": case.precision,
        "program": kind,
        "evaluates": case.evaluates,
    }
