"""Trainings of a Transformer of 57 million parameters in processes whose memory is limited."""

import gc
import os

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.errors import OutOfMemory

# 226 MB of weights; 905 MB with gradients and Adam's slots.
LARGE = {"layers": 8, "width": 768, "heads": 4, "vocabulary_size": 256, "sequence_length": 16}
STEPS = 2
CONTROL_GROUPS = "/sys/fs/cgroup/memory"


def _model_fn(width: int):
    def build() -> keras.Model:
        model = tfbig.models.transformer_lm.build({**LARGE, "width": width})
        model.compile(keras.optimizers.Adam(1e-3), model.loss)
        return model

    return build


def data() -> tf.data.Dataset:
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (8, 16)).astype("int32")
    return tf.data.Dataset.from_tensor_slices((x, np.roll(x, -1, 1))).batch(4).repeat(4)


def few() -> tf.data.Dataset:
    return data().take(1)


def train(distribution: str, strategy: str, width: int, steps: int, model_dir: str | None = None):
    return tfbig.train_distributed(
        _model_fn(width),
        data,
        strategy=strategy,
        max_steps=steps,
        model_dir=model_dir,
        config=tfbig.RunConfig(
            model_distribution=distribution,
            tf_random_seed=3,
            jit_compile=False,
            log_step_count_steps=1,
            whole_model_bytes=0,
            steps_per_loop=1,
        ),
    )


def losses(result) -> list[float]:
    return [point["loss"] for point in result.history]


def unlimited() -> dict:
    """What one device computes."""
    result = train("replicated", "one_device", LARGE["width"], STEPS)
    figures = tfbig.evaluate(result.model, few, metrics=[])
    outputs = np.stack(list(tfbig.predict(result.model, few)))
    return {"losses": losses(result), "loss": figures["loss"], "outputs": outputs[:1].tolist()}


def limited(distribution: str, megabytes: int, folder: str, steps: int) -> dict:
    """What a worker leaves that may have so much more memory than with a model of width 8.

    The last steps of all are followed by an evaluation, predictions and an export.
    """
    train(distribution, "multi_worker", 8, 2)
    _limit_memory(megabytes)
    try:
        model_dir = os.path.join(folder, "run")
        result = train(distribution, "multi_worker", LARGE["width"], steps, model_dir)
    except OutOfMemory as error:
        return {"error": str(error)}
    left = {"losses": losses(result), "kind": type(result.model).__name__}
    if steps < STEPS:
        return left
    figures = tfbig.evaluate(result.model, few)
    outputs = np.stack(list(tfbig.predict(result.model, few)))
    path = tfbig.export(result.model, os.path.join(folder, "export"))
    return {**left, "loss": figures["loss"], "outputs": outputs[:1].tolist(), "export": path}


def served(path: str) -> list:
    """The outputs of the exported model for the first example."""
    model = tf.saved_model.load(path)
    tokens, _ = next(iter(few()))
    return model.serve(tokens)[:1].numpy().tolist()


def _limit_memory(megabytes: int) -> None:
    """Puts this process into a control group, which may have so much memory."""
    gc.collect()
    group = os.path.join(CONTROL_GROUPS, f"tfbig-test-{os.getpid()}")
    os.mkdir(group)
    for name, value in (
        ("memory.limit_in_bytes", megabytes * 2**20),
        ("cgroup.procs", os.getpid()),
    ):
        with open(os.path.join(group, name), "w") as file:
            file.write(str(value))
