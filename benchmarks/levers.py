"""The gain of each option on one machine: examples per second against tfbig's defaults.

$ python benchmarks/levers.py --works=mlp,cnn,lm --rounds=3

Each measurement runs in its own process. The options take turns with the defaults, and a gain is
the median of the ratios of the rounds.
"""

import statistics

import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each lever is measured.")
_WORKS = flags.DEFINE_list("works", ["mlp", "cnn", "lm"], "Which works: mlp, cnn, lm.")

_LEVERS = {
    "steps_per_loop=1": {"steps_per_loop": 1},
    "jit_compile=False": {"jit_compile": False},
    "jit_compile=True": {"jit_compile": True},
    "4 x the batch": {"batch": 4},
    "accumulation_steps=2": {"accumulation_steps": 2},
    'precision="mixed_bfloat16"': {"precision": "mixed_bfloat16"},
    "mirrored, 2 logical CPUs": {"strategy": "mirrored", "devices": 2},
}
_BATCH = {"mlp": 64, "cnn": 64, "lm": 8}


def main(argv: list[str]) -> None:
    del argv
    print(f"machine: {contestants.machine()}")
    for work in _WORKS.value:
        print(f"\n{contestants.DESCRIPTIONS[work]}: examples per second against the defaults")
        ratios = {lever: [] for lever in _LEVERS}
        for _ in range(_ROUNDS.value):
            base = contestants.measure(work, "tfbig")["steps_per_sec"]
            for lever, options in _LEVERS.items():
                times = options.get("batch", 1)
                if times > 1:
                    options = {**options, "batch": times * _BATCH[work]}
                measured = contestants.measure(work, "tfbig", **options)
                ratios[lever].append(times * measured["steps_per_sec"] / base)
        for lever, values in ratios.items():
            print(f"{lever:28}{statistics.median(values):6.2f}")


if __name__ == "__main__":
    app.run(main)
