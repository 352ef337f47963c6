"""The runs of test_tables.py: a ShardedEmbedding whose shards are on parameter servers."""

import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.training import run
from tfbig.training.checkpoints.state import key_of

ROWS, WIDTH, EXAMPLES, BATCH = 200, 4, 320, 32


def data() -> tuple:
    random = np.random.default_rng(0)
    ids = random.integers(0, ROWS - 20, (EXAMPLES, 3))
    return ids, (ids % 2).sum(1).astype("float32")


def build(optimizer: str = "adagrad", shards: int | str = "auto") -> keras.Model:
    ids = keras.Input((3,), dtype="int64")
    table = tfbig.layers.ShardedEmbedding(ROWS, WIDTH, shards=shards, combiner="sum", name="table")
    outputs = keras.layers.Dense(1, name="out")(table(ids))
    model = keras.Model(ids, keras.ops.squeeze(outputs, -1))
    model.compile(keras.optimizers.get(optimizer), "mse", metrics=["mae"])
    return model


def train(strategy: str, optimizer: str, fields: dict) -> dict:
    """Trains; returns the table, what is on which ps, and the metrics."""
    found: dict = {"where": {}}
    original = run.build_model

    def build_model(*arguments):
        model = original(*arguments)
        found["where"] = {n: v.device for n, v in model.program.named_variables().items()}
        return model

    run.build_model = build_model
    result = tfbig.train_distributed(
        lambda: build(optimizer),
        lambda: tfbig.data.ArraySource(data()).batch(BATCH),
        strategy=strategy,
        max_steps=60,
        config=tfbig.RunConfig(tf_random_seed=3, **fields),
    )
    if result.model is None:
        return {"step": result.global_step}
    layer = result.model.get_layer("table")
    table = np.empty([ROWS, WIDTH], "float32")
    for i, shard in enumerate(layer.tables):
        table[i :: len(layer.tables)] = shard.numpy()
    return {
        **found,
        "step": result.global_step,
        "shards": len(layer.tables),
        "table": table.tolist(),
        "kernel": result.model.get_layer("out").kernel.numpy().tolist(),
        "loss": result.history[-1]["loss"],
    }


def saved(strategy: str, fields: dict, model_dir: str, steps: int = 60) -> dict:
    """Trains with checkpoints; returns the table and its accumulator in each of them."""
    result = tfbig.train_distributed(
        lambda: build("adagrad"),
        lambda: tfbig.data.ArraySource(data()).batch(BATCH),
        strategy=strategy,
        max_steps=steps,
        model_dir=model_dir,
        config=tfbig.RunConfig(tf_random_seed=3, save_checkpoints_steps=20, **fields),
    )
    found = {}
    for folder in sorted(pathlib.Path(model_dir, "checkpoints").iterdir()):
        reader = tf.train.load_checkpoint(str(folder / "state"))
        found[folder.name] = []
        for shards in json.loads((folder / "metadata.json").read_text())["tables"].values():
            table = np.empty([ROWS, WIDTH], "float32")
            for i, name in enumerate(shards):
                table[i :: len(shards)] = reader.get_tensor(key_of(name))
            found[folder.name].append(table.tolist())
    return {"checkpoints": found, "step": result.global_step}
