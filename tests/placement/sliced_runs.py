"""Trainings with weights in slices, and what they leave in files and in the process."""

import json
import logging
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.checkpoint_values import saved_values
from tfbig.finetuning.mapped_weights import MappedValue
from tfbig.placement.owner import slice_writer

LENGTH = 6


def build() -> keras.Model:
    params = {"layers": 1, "width": 8, "heads": 2, "vocabulary_size": 11}
    return tfbig.models.transformer_lm.build({**params, "sequence_length": LENGTH})


def data() -> tf.data.Dataset:
    x = np.random.default_rng(0).integers(0, 11, (20, LENGTH)).astype("int32")
    return tf.data.Dataset.from_tensor_slices((x, np.roll(x, -1, 1))).batch(8)


def train(model_dir: str | None = None, model_fn=build, strategy="multi_worker", **keywords):
    fields = {"model_distribution": "owner_full", "tf_random_seed": 3, "jit_compile": False}
    fields |= keywords.pop("fields", {})
    return tfbig.train_distributed(
        model_fn,
        data,
        strategy=strategy,
        model_dir=model_dir,
        max_steps=2,
        config=tfbig.RunConfig(**fields),
        **keywords,
    )


def _task() -> int:
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def _noted_writes() -> list[str]:
    """Returns a list, to which the name of each folder that this task writes slices to is added."""
    wrote, plain = [], slice_writer.write_slices

    def write(folder, variables, key):
        prefixes = plain(folder, variables, key)
        assert prefixes
        assert all(os.path.exists(f"{prefix}.index") for prefix in prefixes)
        wrote.append(os.path.basename(folder))
        return prefixes

    slice_writer.write_slices = write
    return wrote


def _compared(model_dir: str, result, wrote: list[str]) -> dict:
    """Compares the newest checkpoint with the result's variables."""
    folder = pathlib.Path(model_dir, "checkpoints", "ckpt-00000002")
    values = saved_values(str(folder)) if folder.exists() else {}
    variables = [*result.model.variables, *result.model.optimizer.variables]
    found = [np.asarray(v.numpy()) for v in variables]
    different = [
        name
        for name, value in values.items()
        if name.startswith(("model/", "optimizer/"))
        and not any(np.array_equal(value, other) for other in found)
    ]
    return {"wrote": wrote, "differences": different, "read": len(values)}


def saved(model_dir: str) -> dict:
    wrote = _noted_writes()
    return _compared(model_dir, train(model_dir), wrote)


def sent(model_dir: str) -> dict:
    """Each task has its own folder, which the others do not see."""
    wrote = _noted_writes()
    if _task():
        exists = os.path.exists
        slice_writer.os.path.exists = lambda path: "slices" not in path and exists(path)
    return _compared(model_dir, train(model_dir), wrote)


def disk_full(model_dir: str) -> str:
    if _task():

        def write(folder, variables, key):
            raise OSError("no space left on device")

        slice_writer.write_slices = write
    try:
        train(model_dir)
    except Exception as error:
        return f"{error} {error.__cause__}"
    return "no error"


def used(directory: str) -> dict:
    """Evaluates, predicts and exports a model that stays in slices."""
    result = train(eval_input_fn=data, fields={"whole_model_bytes": 0})
    figures = tfbig.evaluate(result.model, data)
    outputs = np.stack(list(tfbig.predict(result.model, data)))
    try:
        tfbig.predict(result.model, data, strategy="one_device")
        refused = ""
    except tfbig.errors.UserError as error:
        refused = str(error)
    tfbig.export(result.model, directory)
    return {
        "shown": repr(result.model),
        "loss": result.metrics["loss"],
        "evaluated": figures["loss"],
        "outputs": outputs.tolist(),
        "refused": refused,
    }


def served(directory: str) -> list:
    """The predictions of the exported model."""
    model = tf.saved_model.load(directory)
    return np.concatenate([model.serve(x).numpy() for x, _ in data()]).tolist()


def read_by_callback() -> str:
    class Reads(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_weights()

    try:
        train(callbacks=[Reads()])
    except Exception as error:
        return str(error)
    return "no error"


def fine_tuned(folder: str) -> dict:
    """Tunes a file on one device and with weights in slices."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    path = os.path.join(folder, "base.keras")
    inputs = keras.Input((600,))
    hidden = keras.layers.Dense(600, "tanh")(inputs)  # 1.4 MB
    model = keras.Model(inputs, keras.layers.Dense(3)(hidden))
    model.compile(keras.optimizers.Adam(), "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(40, 600)).astype("f4"), random.normal(size=(40, 3)).astype("f4")
    model.fit(x, y, verbose=0)  # so that the file has slots
    model.save(path)
    made = []
    plain = MappedValue.__init__

    def note(self, value, name):
        made.append(name)
        plain(self, value, name)

    MappedValue.__init__ = note
    values = []
    for distribution in ("replicated", "owner_full"):
        result = tfbig.fine_tune(
            path,
            lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(16),
            strategy="mirrored" if distribution == "owner_full" else "one_device",
            devices=2 if distribution == "owner_full" else None,
            config=tfbig.RunConfig(model_distribution=distribution, jit_compile=False),
        )
        values.append(result.model.get_weights())
    differences = [float(np.abs(a - b).max()) for a, b in zip(*values, strict=True)]
    return {"differences": differences, "mapped": len(made)}


def log_lines() -> list[str]:
    """What the log says of memory for 1020 parameters on two replicas."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("tfbig").addHandler(handler)
    logging.getLogger("tfbig").setLevel(logging.INFO)

    def model_fn():
        model = keras.Sequential([keras.Input((101,)), keras.layers.Dense(10)])
        model.compile(keras.optimizers.Adam(), "mse")
        return model

    x = np.zeros((8, 101), "f4")
    tfbig.train_distributed(
        model_fn,
        lambda: tf.data.Dataset.from_tensor_slices((x, x[:, :10])).batch(8),
        strategy="mirrored",
        devices=2,
        config=tfbig.RunConfig(model_distribution="owner_full"),
    )
    return [line for line in lines if line.startswith("owner_full")]


def refused() -> str:
    """Why a ShardedEmbedding is refused."""

    def table():
        layers = [tfbig.layers.ShardedEmbedding(11, 4), keras.layers.Dense(11)]
        model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(), loss)
        return model

    try:
        train(model_fn=table, strategy="mirrored", devices=2)
    except tfbig.errors.UserError as error:
        return str(error)
    return ""
