"""How good a model is, by cross-validation: five models, each tested on a fifth of the digits.

With --model_dir the folds are kept, and a call that was stopped is resumed.

$ python examples/cross_validate.py
$ python examples/cross_validate.py --parallel_folds=2 --model_dir=/tmp/digits_folds
"""

import tfbig
import keras
from absl import app, flags
from sklearn.datasets import load_digits

_FOLDS = flags.DEFINE_integer("folds", 5, "How many folds.")
_PARALLEL_FOLDS = flags.DEFINE_integer("parallel_folds", 1, "Folds that run at the same time.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Where to keep the folds; None: nowhere.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the training part.")
_UNITS = flags.DEFINE_integer("units", 64, "Width of the hidden layer.")


def make_source() -> tfbig.data.Source:
    """Called in the process of each fold, so no data are sent between processes."""
    images, labels = load_digits(return_X_y=True)
    return tfbig.data.ArraySource((images / 16, labels)).batch(64)


def build_model() -> keras.Model:
    layers = [keras.layers.Dense(_UNITS.value, activation="relu"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def main(argv: list[str]) -> None:
    del argv
    result = tfbig.cross_validate(
        build_model,
        make_source,
        folds=_FOLDS.value,
        stratify=True,  # the same share of each digit in every fold
        metrics=["f1_macro", "log_loss"],
        parallel_folds=_PARALLEL_FOLDS.value,
        model_dir=_MODEL_DIR.value,
        epochs=_EPOCHS.value,
        config=tfbig.RunConfig(tf_random_seed=1),
    )
    result.show()
    accuracy = result.interval["accuracy"]
    print(f"accuracy {accuracy.value:.4f}, 95 % from {accuracy.low:.4f} to {accuracy.high:.4f}")


# The process of each fold imports this file, so training may start only in the main program.
if __name__ == "__main__":
    app.run(main)
