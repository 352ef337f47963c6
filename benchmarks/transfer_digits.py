"""The gain of pretraining: digits 5 to 9 from 20 examples each, tuned and from scratch.

$ python benchmarks/transfer_digits.py
$ python benchmarks/transfer_digits.py --dropout=0.5 --steps=200

A CNN is pretrained on the digits 0 to 4, with dropout, and tuned. "Scratch" is the same network
with the same data, batches, optimizer and number of steps. For both, the best of five learning
rates is selected on other samples of the examples, by the accuracy in the last quarter of the
steps. All other examples of the digits 5 to 9, about 800, are held out.
"""

import functools

import keras
import numpy as np
from absl import app, flags
from scipy import stats

import tfbig
from tfbig.datasets import digits
from tfbig.models import cnn

_SEEDS = flags.DEFINE_integer("seeds", 5, "Draws of the examples, and of weights and shuffles.")
_EXAMPLES = flags.DEFINE_integer("examples", 20, "Examples of each class.")
_STEPS = flags.DEFINE_integer("steps", 100, "Steps of tuning, and of training from scratch.")
_DROPOUT = flags.DEFINE_float("dropout", 0.0, "Dropout of both on the new digits.")
_PRETRAIN_DROPOUT = flags.DEFINE_float("pretrain_dropout", 0.5, "Dropout on the digits 0 to 4.")

BATCH = 25
RATES = (1e-3, 2e-3, 3e-3, 5e-3, 1e-2)
TRIALS = (100, 101, 102)  # the seeds for selecting the rates; they are not reported


def all_digits() -> tuple[np.ndarray, np.ndarray]:
    arrays = digits.digits_arrays()
    images, labels = (
        np.concatenate([arrays[f"train_{name}"], arrays[f"test_{name}"]])
        for name in ("images", "labels")
    )
    return images.astype("float32") / 16, labels.astype("int32")


def drawn(seed: int) -> tuple[tuple, tuple]:
    """Returns the training and the held-out (images, labels); classes are numbered from 0."""
    images, labels = all_digits()
    random = np.random.default_rng(seed)
    rows = [random.permutation(np.flatnonzero(labels == digit)) for digit in range(5, 10)]
    train = np.concatenate([these[: _EXAMPLES.value] for these in rows])
    test = np.concatenate([these[_EXAMPLES.value :] for these in rows])
    return (images[train], labels[train] - 5), (images[test], labels[test] - 5)


@functools.cache
def pretrained_weights() -> list[np.ndarray]:
    images, labels = all_digits()
    known = labels < 5
    result = tfbig.train_distributed(
        cnn.build,
        lambda: tfbig.data.ArraySource((images[known], labels[known])).batch(64),
        params={"num_classes": 5, "dropout": _PRETRAIN_DROPOUT.value},
        max_steps=400,
        config=tfbig.RunConfig(tf_random_seed=0),
    )
    return result.model.get_weights()


def curve(tuned: bool, rate: float, seed: int) -> dict[int, float]:
    """Returns the held-out accuracy by step."""
    train, test = drawn(seed)
    keras.utils.set_random_seed(seed)
    model = cnn.build({"num_classes": 5, "dropout": _DROPOUT.value})
    if tuned:
        model.set_weights(pretrained_weights())
        keras.utils.set_random_seed(seed)  # the new head's
    result = tfbig.fine_tune(
        model,
        lambda: tfbig.data.ArraySource(train).batch(BATCH),
        eval_input_fn=lambda: tfbig.data.ArraySource(test).batch(1024),
        recipe=tfbig.Recipe(head=5, learning_rate=rate, optimizer="adam"),
        max_steps=_STEPS.value,
        config=tfbig.RunConfig(tf_random_seed=seed, eval_every_steps=5, log_step_count_steps=10**6),
    )
    return {e["step"]: e["val_accuracy"] for e in result.history if "val_accuracy" in e}


def best_rate(tuned: bool) -> float:
    def end(rate: float) -> float:
        runs = [[*curve(tuned, rate, seed).values()] for seed in TRIALS]
        return np.mean([run[-len(run) // 4 :] for run in runs])

    return max(RATES, key=end)


def interval(values: np.ndarray) -> str:
    """Returns the mean and its 95 % Student interval as text."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.4f} ± {half:.4f}"


def main(argv: list[str]) -> None:
    del argv
    curves, rates = {}, {}
    for name, tuned in (("from scratch", False), ("tuned", True)):
        rates[name] = best_rate(tuned)
        runs = [curve(tuned, rates[name], seed) for seed in range(_SEEDS.value)]
        steps, curves[name] = [*runs[0]], np.array([[*run.values()] for run in runs])
    aim = curves["from scratch"][:, -1].mean()
    print(f"\nheld-out accuracy on the digits 5 to 9, {_SEEDS.value} seeds, {steps[-1]} steps:")
    print(f"{'':14}{'rate':>7}{'at half':>18}{'at the end':>18}  steps to {aim:.4f} in the mean")
    for name, values in curves.items():
        reached = np.flatnonzero(values.mean(0) >= aim)
        first = steps[reached[0]] if len(reached) else "never"
        half = steps.index(next(step for step in steps if step >= steps[-1] / 2))
        print(
            f"{name:14}{rates[name]:7g}{interval(values[:, half]):>18}"
            f"{interval(values[:, -1]):>18}  {first}"
        )
    difference = curves["tuned"][:, -1] - curves["from scratch"][:, -1]
    print(f"tuned minus scratch, per seed: {interval(difference)}")


if __name__ == "__main__":
    app.run(main)
