"""The runs of test_using.py: a model is trained, evaluated and asked for predictions."""

import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.data.sources import record_files

ROWS = 83  # of batches of 16 the last has 3, fewer than some have workers
BAD = (16 + 9, 16 + 11, 48 + 15, 64 + 12)  # places in batches of 16


def arrays(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 1)


class Several(keras.layers.Layer):
    """Outputs of several dtypes."""

    def call(self, x):
        scores = x[:, :3]
        return {
            "scores": scores,
            "class": tf.argmax(scores, -1, output_type=tf.int32),
            "long": tf.argmax(scores, -1),
            "sure": tf.reduce_max(scores, -1) > 1.0,
            "half": tf.cast(scores, tf.bfloat16),
            "table": tf.stack([scores, -scores], 1),
        }


def classifier() -> keras.Model:
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(3)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def several() -> keras.Model:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((5,))
    outputs = Several()(keras.layers.Dense(4)(inputs))
    return keras.Model(inputs, outputs)


def save_models(folder: str) -> None:
    """Writes the model that all tasks load."""
    classifier().save(os.path.join(folder, "model.keras"))


def data(kind: str, batch: int = 16):
    if kind == "dataset":
        return tf.data.Dataset.from_tensor_slices(arrays()).batch(batch)
    return tfbig.data.ArraySource(arrays()).batch(batch)


def strategy() -> str:
    return "multi_worker" if os.environ.get("TF_CONFIG") else "one_device"


def use(folder: str) -> dict:
    """Evaluates and predicts all there is to; what is written goes to a folder of this process."""
    path, where = os.path.join(folder, "model.keras"), strategy()
    told = {}
    for kind in ("dataset", "source"):
        figures = tfbig.evaluate(path, lambda: data(kind), strategy=where)  # noqa: B023
        told[f"evaluate {kind}"] = _plain(figures)
        told[f"predict {kind}"] = _plain(
            list(tfbig.predict(path, lambda: data(kind), strategy=where))  # noqa: B023
        )
    told["few"] = _plain(list(tfbig.predict(path, _one_example, strategy=where)))
    outputs = list(tfbig.predict(several(), lambda: data("source"), strategy=where))
    told["several"] = _plain(outputs)
    told["dtypes"] = {name: str(value.dtype) for name, value in outputs[0].items()}
    return told


def _one_example():
    x, y = arrays()
    return tfbig.data.ArraySource((x[:1], y[:1])).batch(16)


def _plain(value):
    if isinstance(value, dict):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return array.astype(float).tolist() if array.dtype.kind not in "biu" else array.tolist()
    return value


def write_records(path: str) -> None:
    """A file whose damaged records are all in the second half of their batch, worker 1's share."""
    random = np.random.default_rng(3)
    records = []
    for _ in range(80):
        x = random.normal(size=3)
        values = {
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=x)),
            "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(x[0] > 0)])),
        }
        example = tf.train.Example(features=tf.train.Features(feature=values))
        records.append(example.SerializeToString())
    record_files.write_tfrecord(path, records)
    data = bytearray(pathlib.Path(path).read_bytes())
    starts = record_files.tfrecord_starts(bytes(data))
    for number in BAD:
        data[starts[number] + 20] ^= 0xFF
    pathlib.Path(path).write_bytes(bytes(data))


def train_on_bad(path: str) -> dict:
    """Trains and evaluates on the file, with and without BatchNormalization."""

    def read():
        parse = {
            "x": tf.io.FixedLenFeature([3], tf.float32),
            "label": tf.io.FixedLenFeature([], tf.int64),
        }
        return tfbig.data.TFRecordSource(
            path, parse, labels="label", on_bad_record="skip", quarantine=f"{path}-{os.getpid()}"
        ).batch(16)

    return {name: _trained(read, name == "normalized") for name in ("plain", "normalized")}


def _trained(read, normalized: bool) -> dict:
    def build():
        inputs = {"x": keras.Input((3,), name="x")}
        x = keras.layers.Dense(6, use_bias=False)(inputs["x"])
        if normalized:
            x = keras.layers.BatchNormalization(synchronized=True)(x)
        x = keras.layers.Dense(1)(keras.layers.Activation("tanh")(x))
        model = keras.Model(inputs, x)
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metric = keras.metrics.BinaryAccuracy(threshold=0.0)
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=[metric])
        return model

    result = tfbig.train_distributed(
        build,
        read,
        eval_input_fn=read,
        strategy=strategy(),
        max_steps=12,
        config=tfbig.RunConfig(
            tf_random_seed=2,
            jit_compile=False,
            data_distribution="none",
            log_step_count_steps=4,
        ),
    )
    rates = ("steps_per_sec", "examples_per_sec")
    figures = tfbig.evaluate(result.model, read, strategy=strategy())
    return {
        "step": result.global_step,
        "weights": [w.tolist() for w in result.model.get_weights()],
        "metrics": result.metrics,
        "loss": result.loss,
        "history": [{k: v for k, v in at.items() if k not in rates} for at in result.history],
        "figures": _plain(figures),
    }
