"""Trainings of a Transformer of 57 million parameters in processes whose memory is limited."""

import gc
import os
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.errors import OutOfMemory

# 226 MB of weights; 905 MB with gradients and Adam's slots.
LARGE = {"layers": 8, "width": 768, "heads": 4, "vocabulary_size": 256, "sequence_length": 16}
STEPS = 2


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


def limited(
    distribution: str, megabytes: int, folder: str, steps: int, strategy: str = "multi_worker"
) -> dict:
    """What a process leaves that may have so much more memory than with a model of width 8.

    The last steps of all are followed by an evaluation, predictions and an export.
    """
    train(distribution, strategy, 8, 2)
    _limit_memory(megabytes)
    try:
        model_dir = os.path.join(folder, "run")
        result = train(distribution, strategy, LARGE["width"], steps, model_dir)
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
    """Has this process killed if it takes so much more memory than it has now."""
    gc.collect()
    most = _resident() + megabytes * 2**20
    os.environ["TFBIG_MEMORY_BYTES"] = str(most)

    def watch() -> None:
        while True:
            if _resident() > most:
                print(f"this process has {_resident() - most} bytes too many", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
