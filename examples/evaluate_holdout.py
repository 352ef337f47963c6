"""How good a model is on a held-out fifth: figures with intervals, a report, a paired test.

A perceptron is trained briefly, or a saved one is loaded. Each figure has an interval: how much it
would vary over other test sets of this size. A paired test with a linear model on the same images
shows whether the difference between the two is more than chance.

$ python examples/evaluate_holdout.py
$ python examples/evaluate_holdout.py --model=pretrained.keras --report=/tmp/digits_report
"""

import tfbig
import keras
import numpy as np
from absl import app, flags
from tfbig.datasets import digits
from tfbig.evaluation.statistics import paired_test

_MODEL = flags.DEFINE_string("model", None, "A saved model of the digits; None: trains one.")
_REPORT = flags.DEFINE_string("report", "runs/holdout", "The folder for metrics.json and plots.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 300, "The step at which training stops.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and shuffles.")


def train(*hidden_units: int) -> keras.Model:
    def build() -> keras.Model:
        hidden = [keras.layers.Dense(units, activation="relu") for units in hidden_units]
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), *hidden, keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
        return model

    config = tfbig.RunConfig(tf_random_seed=_SEED.value)
    return tfbig.train_distributed(
        build, digits.input_fn, max_steps=_MAX_STEPS.value, config=config
    ).model


def main(argv: list[str]) -> None:
    del argv
    model = _MODEL.value or train(128)
    # Called with mode="eval", digits.input_fn returns the fifth that no model is trained on.
    figures = tfbig.evaluate(model, digits.input_fn, intervals=True, model_dir=_REPORT.value)
    for name, interval in figures["intervals"].items():
        print(f"{name:<28}{interval.value:.4f}  ({interval.low:.4f} to {interval.high:.4f})")
    print(f"confusion matrix, ROC and reliability: {_REPORT.value}")

    labels = digits.digits_arrays()["test_labels"]
    ours, linear = (np.array(list(tfbig.predict(one, digits.input_fn))) for one in (model, train()))
    test = paired_test("accuracy", labels, ours, linear)
    print(
        f"accuracy {figures['accuracy']:.4f}, {test.difference:+.4f} against a linear model "
        f"({test.low:+.4f} to {test.high:+.4f}), p = {test.p_value:.4f}"
    )


if __name__ == "__main__":
    app.run(main)
