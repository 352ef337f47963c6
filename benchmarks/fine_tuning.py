"""The speed of fine-tuning: steps/s for all layers, for the last layer only, and for adapters.

$ python benchmarks/fine_tuning.py               # 5 rounds
$ python benchmarks/fine_tuning.py --rounds=3 --works=lm

`fit` is Keras's, on the same model with the same layers frozen. Each measurement runs in its own
process, and the contestants take turns. The table shows medians, and medians of the ratios of the
rounds. No other program should run at the same time.
"""

import statistics
import sys

import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant is measured.")
_WORKS = flags.DEFINE_list("works", ["cnn", "lm"], "Which works.")

_CONTESTANTS = {
    "all": ("tune", {}),
    "backbone frozen": ("tune", {"freeze": "backbone"}),
    "LoRA of rank 8": ("tune", {"lora_rank": 8}),
    "fit, all": ("fit", {}),
    "fit, backbone frozen": ("fit", {"freeze": "backbone"}),
}
_TARGET = 1.3  # steps/s of a frozen backbone over those of the whole model


def main(argv: list[str]) -> None:
    del argv
    print(f"machine: {contestants.machine()}")
    for work in _WORKS.value:
        rounds = [_turn(work, number + 1) for number in range(_ROUNDS.value)]
        print(f"\n{contestants.DESCRIPTIONS[work]}")
        print(f"{'':22}{'steps/s':>10}{'over all':>10}{'over fit':>10}{'peak MiB':>10}")
        for name in _CONTESTANTS:
            twin = "fit, backbone frozen" if name == "backbone frozen" else "fit, all"
            print(
                f"{name:22}{_median(rounds, name, 'steps_per_sec'):10.1f}"
                f"{_ratio(rounds, name, 'all'):10.2f}{_ratio(rounds, name, twin):10.2f}"
                f"{_median(rounds, name, 'peak_mib'):10.0f}"
            )
        ratio = _ratio(rounds, "backbone frozen", "all")
        reached = "reached" if ratio >= _TARGET else "missed"
        print(f"backbone frozen over all: {ratio:.2f} (target >= {_TARGET}: {reached})")


def _turn(work: str, number: int) -> dict[str, dict[str, float]]:
    turn = {}
    for name, (contestant, options) in _CONTESTANTS.items():
        turn[name] = contestants.measure(work, contestant, **options)
        print(f"  round {number}: {work} {name} {turn[name]}", file=sys.stderr)
    return turn


def _median(rounds: list, name: str, figure: str) -> float:
    return statistics.median(turn[name][figure] for turn in rounds)


def _ratio(rounds: list, name: str, other: str) -> float:
    figure = "steps_per_sec"
    return statistics.median(turn[name][figure] / turn[other][figure] for turn in rounds)


if __name__ == "__main__":
    app.run(main)
