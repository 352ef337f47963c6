"""A Keras model on the handwritten digits, on one device or mirrored over several.

$ python examples/train_digits.py
$ python examples/train_digits.py --strategy=mirrored --devices=2 --model_dir=/tmp/digits
"""

import tfbig
import keras
from absl import app, flags
from tfbig.datasets import digits

_STRATEGY = flags.DEFINE_string("strategy", "auto", "auto, one_device or mirrored.")
_DEVICES = flags.DEFINE_integer("devices", None, "Number of devices; None: all GPUs or the CPU.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Where to keep checkpoints and summaries.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 500, "The step at which to stop.")


def build_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main(argv: list[str]) -> None:
    del argv
    result = tfbig.train_distributed(
        build_model,
        digits.input_fn,  # called with mode="train" and, for evaluation, mode="eval"
        eval_input_fn=digits.input_fn,
        strategy=_STRATEGY.value,
        devices=_DEVICES.value,
        model_dir=_MODEL_DIR.value,
        max_steps=_MAX_STEPS.value,
    )
    print(f"step {result.global_step}: held-out accuracy {result.metrics['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
