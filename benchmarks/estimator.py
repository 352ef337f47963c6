"""A TF1 model_fn and canned estimators trained by tfbig, against the same model in Keras.

With --estimator-python, tf.estimator on TF 2.15 takes part too.

$ python benchmarks/estimator.py --estimator-python=/tmp/tf215/bin/python --rounds=5

That environment is made so:

$ python3.11 -m venv /tmp/tf215
$ /tmp/tf215/bin/pip install 'tensorflow-cpu==2.15.*' 'tensorflow-estimator==2.15.*'

Each measurement runs in its own process, with default settings and without writing files. The
contestants take turns in each round. The table shows medians, and the median of the ratios of the
rounds. No other program should run at the same time.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant is measured.")
_PYTHON = flags.DEFINE_string(
    "estimator-python", None, "The Python of an environment with TF 2.15; none: without it."
)

_OLD, _SAME, _KERAS = "tf.estimator 2.15", "tfbig, same model_fn", "tfbig, Keras"
_CANNED, _CANNED_TF1 = "tfbig, DNNClassifier", "tfbig, compat.v1's"
# one, the other one, the smallest ratio of their steps/s
_TARGETS = (
    (_SAME, _OLD, 5.0),
    (_SAME, _KERAS, 0.9),
    (_CANNED, _KERAS, 0.9),
    (_CANNED_TF1, _KERAS, 0.9),
)


def main(argv: list[str]) -> None:
    del argv
    print(f"machine: {contestants.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        arrays = pathlib.Path(folder, "digits.npz")
        _write_digits(arrays)
        rounds = [_measure_in_turns(number, arrays) for number in range(_ROUNDS.value)]
    print(f"\n{contestants.DESCRIPTIONS['mlp']}")
    print(f"{'':22}{'steps/s':>10}{'ms/step':>10}{'first step s':>14}{'peak MiB':>10}")
    for name in rounds[0]:
        median = {
            figure: statistics.median(turn[name][figure] for turn in rounds)
            for figure in ("steps_per_sec", "ms_per_step", "first_step_sec", "peak_mib")
        }
        print(
            f"{name:22}{median['steps_per_sec']:10.1f}{median['ms_per_step']:10.3f}"
            f"{median['first_step_sec']:14.2f}{median['peak_mib']:10.0f}"
        )
    print("\nratios of steps/s, medians over the rounds")
    for one, other, bound in _TARGETS:
        if other not in rounds[0]:
            continue
        ratios = [turn[one]["steps_per_sec"] / turn[other]["steps_per_sec"] for turn in rounds]
        ratio = statistics.median(ratios)
        print(
            f"{one} / {other}: {ratio:.2f}  (from {min(ratios):.2f} to {max(ratios):.2f}; "
            f"target >= {bound}: {'reached' if ratio >= bound else 'missed'})"
        )


def _write_digits(path: pathlib.Path) -> None:
    """Writes the examples of tfbig's contestants to a file for the other Python."""
    import numpy as np

    (features, labels), _, _ = contestants.mlp()
    np.savez(path, features=features, labels=labels)


def _measure_in_turns(number: int, arrays: pathlib.Path) -> dict[str, dict[str, float]]:
    contests = {
        _OLD: lambda: _old_estimator(arrays),
        _SAME: lambda: contestants.measure("mlp", "model_fn"),
        _CANNED: lambda: contestants.measure("mlp", "canned"),
        _CANNED_TF1: lambda: contestants.measure("mlp", "canned_tf1"),
        _KERAS: lambda: contestants.measure("mlp", "tfbig"),
    }
    if _PYTHON.value is None:
        del contests[_OLD]
    turn = {}
    for name, measure in contests.items():
        turn[name] = measure()
        print(f"  round {number + 1}: {name} {turn[name]}", file=sys.stderr)
    return turn


def _old_estimator(arrays: pathlib.Path) -> dict[str, float]:
    script = pathlib.Path(__file__).with_name("estimator_215.py")
    done = subprocess.run(
        [_PYTHON.value, str(script), str(arrays)], capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"tf.estimator failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    app.run(main)
