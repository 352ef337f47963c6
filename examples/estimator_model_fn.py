"""An estimator-style model_fn in the Keras dialect.

$ python examples/estimator_model_fn.py --devices=2
"""

import tfbig
import keras
from absl import app, flags
from tfbig.datasets import digits

_DEVICES = flags.DEFINE_integer("devices", None, "Number of devices; None: all GPUs or the CPU.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Where to keep checkpoints and summaries.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 500, "The step at which to stop.")


def model_fn(features, labels, mode, params):
    # Called once in every mode: layers find their variables by name.
    x = keras.layers.Flatten()(features)
    x = keras.layers.Dense(params["hidden_units"], activation="relu", name="hidden")(x)
    logits = keras.layers.Dense(10, name="logits")(x)
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions=keras.ops.argmax(logits, axis=-1))
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)  # [n]
    if mode == tfbig.ModeKeys.EVAL:
        accuracy = keras.metrics.SparseCategoricalAccuracy()
        accuracy.update_state(labels, logits)
        return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops={"accuracy": accuracy})
    optimizer = keras.optimizers.Adam(params["learning_rate"])
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=optimizer)


def main(argv: list[str]) -> None:
    del argv
    result = tfbig.train_distributed(
        model_fn,
        digits.input_fn,
        eval_input_fn=digits.input_fn,
        devices=_DEVICES.value,
        model_dir=_MODEL_DIR.value,
        max_steps=_MAX_STEPS.value,
        params={"hidden_units": 128, "learning_rate": 1e-3},
    )
    print(f"step {result.global_step}: held-out accuracy {result.metrics['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
