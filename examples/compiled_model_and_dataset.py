"""Training what you already have: a compiled keras.Model and a batched tf.data.Dataset.

The last batch is smaller than the others. The numbers are those of one device nevertheless.

$ python examples/compiled_model_and_dataset.py --devices=4
"""

import tfbig
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from sklearn.datasets import load_diabetes

_DEVICES = flags.DEFINE_integer("devices", None, "Number of devices; None: all GPUs or the CPU.")
_EPOCHS = flags.DEFINE_integer("epochs", 20, "Passes over the data.")


def input_fn() -> tf.data.Dataset:
    features, target = load_diabetes(return_X_y=True)  # 442 examples, so the last batch has 10
    data = (features.astype(np.float32), (target[:, None] / 100).astype(np.float32))
    return tf.data.Dataset.from_tensor_slices(data).shuffle(442, seed=1).batch(48)


def main(argv: list[str]) -> None:
    del argv

    # Several logical CPUs must be asked for before TensorFlow starts, so the model is built in a
    # function that is called later. With one device or GPUs, a model can be passed as it is.
    def build_model() -> keras.Model:
        model = keras.Sequential(
            [keras.Input((10,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(1)]
        )
        model.compile(keras.optimizers.Adam(1e-2, clipnorm=1.0), loss="mse", metrics=["mae"])
        return model

    model_fn = build_model if (_DEVICES.value or 1) > 1 else build_model()
    result = tfbig.train_distributed(
        model_fn, input_fn, eval_input_fn=input_fn, devices=_DEVICES.value, epochs=_EPOCHS.value
    )
    print(f"step {result.global_step}: mean absolute error {100 * result.metrics['mae']:.1f}")


if __name__ == "__main__":
    app.run(main)
