"""Keras's callbacks, tfbig's and your own, side by side.

$ python examples/callbacks.py --log=/tmp/digits.csv
"""

import tfbig
import keras
from absl import app, flags
from tfbig.datasets import digits
from tfbig.models import mlp

_LOG = flags.DEFINE_string("log", None, "A CSV file with a row for each epoch.")
_EPOCHS = flags.DEFINE_integer("epochs", 30, "Passes over the data at most.")


class Best(tfbig.callbacks.LoopCallback):
    """Remembers the best evaluation and its step."""

    def __init__(self):
        super().__init__()
        self.accuracy, self.step = 0.0, 0

    def on_evaluate(self, step, metrics):
        if metrics["accuracy"] > self.accuracy:
            self.accuracy, self.step = metrics["accuracy"], step


def main(argv: list[str]) -> None:
    del argv
    best = Best()
    callbacks = [
        best,
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=4, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=2),
        tfbig.callbacks.NaNGuard(find_op=True),
    ]
    if _LOG.value:
        callbacks.append(keras.callbacks.CSVLogger(_LOG.value, append=True))
    result = tfbig.train_distributed(
        mlp.build,
        digits.input_fn,
        eval_input_fn=digits.input_fn,
        epochs=_EPOCHS.value,
        callbacks=callbacks,
    )
    print(f"stopped at step {result.global_step}; best: {best.accuracy:.4f} at step {best.step}")


if __name__ == "__main__":
    app.run(main)
