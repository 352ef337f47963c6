"""Training from TFRecord files: a shuffle of all examples of all files, with no buffer.

The handwritten digits are written to several files first, as other tools write them. The first run
builds an index of the records and keeps it beside each file.

$ python examples/tfrecord.py
$ python examples/tfrecord.py --folder=/tmp/digits_tfrecord
"""

import os
import tempfile

import tfbig
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from tfbig.datasets import digits

_FOLDER = flags.DEFINE_string("folder", None, "Where the files are; None: a temporary folder.")
_FILES = flags.DEFINE_integer("files", 4, "Number of training files to write.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 500, "The step at which to stop.")

_FEATURES = {
    "image": tf.io.FixedLenFeature([8, 8, 1], tf.float32),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def serialized(image: np.ndarray, label: int) -> bytes:
    """One tf.train.Example."""
    feature = {
        "image": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel() / 16)),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_files(folder: str) -> None:
    """Writes the digits, sorted by class, so that only a global shuffle mixes the classes."""
    os.makedirs(folder, exist_ok=True)
    arrays = digits.digits_arrays()
    for split, count in (("train", _FILES.value), ("test", 1)):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        for shard, numbers in enumerate(np.array_split(np.argsort(labels), count)):
            path = os.path.join(folder, f"{split}-{shard:05d}-of-{count:05d}.tfrecord")
            with tf.io.TFRecordWriter(path) as writer:
                for number in numbers:
                    writer.write(serialized(images[number], labels[number]))


def build_model() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


def train(folder: str) -> tfbig.TrainResult:
    if not tf.io.gfile.glob(os.path.join(folder, "train-*.tfrecord")):
        write_files(folder)

    def input_fn(mode):
        files = os.path.join(folder, "train-*.tfrecord" if mode == "train" else "test-*.tfrecord")
        source = tfbig.data.TFRecordSource(files, _FEATURES, labels="label")
        return source.map(lambda batch: (batch[0]["image"], batch[1])).batch(64)

    return tfbig.train_distributed(
        build_model, input_fn, eval_input_fn=input_fn, max_steps=_MAX_STEPS.value
    )


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        result = train(_FOLDER.value or temporary)
    print(f"step {result.global_step}: held-out accuracy {result.metrics['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
