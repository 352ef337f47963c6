"""tfbig against Keras `fit` on one device: speed, time to the first step, memory.

$ python benchmarks/one_device.py                # all works, 5 rounds
$ python benchmarks/one_device.py --rounds=3 --works=mlp

Each measurement runs in its own process. The contestants take turns in each round, so that a change
in the speed of the machine affects all of them. The table shows medians, and the median of the
ratios of the rounds. No other program should run at the same time.
"""

import statistics
import sys

import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant is measured.")
_WORKS = flags.DEFINE_list("works", ["mlp", "mlp_long", "lm", "cnn"], "Which works.")

_CONTESTANTS = {
    "mlp": ("tfbig", "fit", "fit_32", "xla_loop"),
    "mlp_long": ("tfbig", "fit", "fit_32", "xla_loop"),
    "lm": ("tfbig", "fit"),
    "cnn": ("tfbig", "fit"),
}
# measure, contestant, workload, the smallest or largest ratio to reach
_TARGETS = (
    ("steps_per_sec", "fit", "mlp", ">=", 12.0),
    ("steps_per_sec", "fit_32", "mlp", ">=", 2.5),
    ("steps_per_sec", "xla_loop", "mlp", ">=", 0.8),
    ("first_step_sec", "fit", "mlp", "<=", 2.0),
    ("steps_per_sec", "fit", "mlp_long", ">=", 12.0),
    ("steps_per_sec", "fit_32", "mlp_long", ">=", 2.5),
    ("steps_per_sec", "xla_loop", "mlp_long", ">=", 0.8),
    ("ms_per_step", "fit", "lm", "<=", 0.77),
    ("peak_mib", "fit", "lm", "<=", 1.05),
    ("ms_per_step", "fit", "cnn", "<=", 1.0),
)


def main(argv: list[str]) -> None:
    del argv
    print(f"machine: {contestants.machine()}")
    results = {work: _measure_in_turns(work, _ROUNDS.value) for work in _WORKS.value}
    for work, rounds in results.items():
        print(f"\n{contestants.DESCRIPTIONS[work]}")
        print(f"{'':12}{'steps/s':>10}{'ms/step':>10}{'first step s':>14}{'peak MiB':>10}")
        for name in _CONTESTANTS[work]:
            median = {
                figure: statistics.median(r[name][figure] for r in rounds)
                for figure in ("steps_per_sec", "ms_per_step", "first_step_sec", "peak_mib")
            }
            print(
                f"{name:12}{median['steps_per_sec']:10.1f}{median['ms_per_step']:10.3f}"
                f"{median['first_step_sec']:14.2f}{median['peak_mib']:10.0f}"
            )
    print("\nratios of tfbig to the others, medians over the rounds")
    for figure, other, work, sign, bound in _TARGETS:
        if work in results:
            ratios = [r["tfbig"][figure] / r[other][figure] for r in results[work]]
            ratio = statistics.median(ratios)
            reached = ratio >= bound if sign == ">=" else ratio <= bound
            print(
                f"{work} {figure} / {other}: {ratio:.2f}  (from {min(ratios):.2f} to "
                f"{max(ratios):.2f}; target {sign} {bound}: {'reached' if reached else 'missed'})"
            )


def _measure_in_turns(work: str, rounds: int) -> list[dict[str, dict[str, float]]]:
    measured = []
    for number in range(rounds):
        turn = {}
        for name in _CONTESTANTS[work]:
            turn[name] = contestants.measure(work, name)
            print(f"  round {number + 1}: {work} {name} {turn[name]}", file=sys.stderr)
        measured.append(turn)
    return measured


if __name__ == "__main__":
    app.run(main)
