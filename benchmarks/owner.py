"""model_distribution="owner" against "replicated": slot bytes, peak memory, steps per second.

$ python benchmarks/owner.py --rounds=3
$ python benchmarks/owner.py --rounds=3 --placement=mirrored --jit=true

An MLP of 33.6 million parameters (4096-4096-4096-10) is trained with Adam on two replicas. The two
distributions take turns, in new processes each time: two workers, each pinned to its own core, or
two logical devices of one process.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

import clusters
import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each of both is measured.")
_STEPS = flags.DEFINE_integer("steps", 40, "Steps of a run; the first half is not timed.")
_BATCH = flags.DEFINE_integer("batch", 64, "Examples of a global batch.")
_JIT = flags.DEFINE_bool("jit", False, "jit_compile.")
_WIDTH = flags.DEFINE_integer("width", 4096, "Of the inputs and the two hidden layers.")
_PLACEMENT = flags.DEFINE_enum("placement", "workers", ["workers", "mirrored"], "Of replicas.")
_ONLY = flags.DEFINE_string("only", None, "Measure this one in this process: owner, replicated.")

_DISTRIBUTIONS = ("replicated", "owner")


def measure(model_distribution: str, strategy: Any, devices: int | None, **sizes: Any) -> None:
    """Trains in this process and prints one line of JSON.

    Args:
        model_distribution: of the RunConfig.
        strategy, devices: of train_distributed.
        sizes: steps, batch, width and jit.
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import tfbig

    width, batch, steps = sizes["width"], sizes["batch"], sizes["steps"]

    def model_fn() -> keras.Model:
        dense = keras.layers.Dense
        inputs = keras.Input((width,))
        hidden = dense(width, activation="relu")(dense(width, activation="relu")(inputs))
        model = keras.Model(inputs, dense(10)(hidden))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-4), loss)
        return model

    def input_fn() -> tf.data.Dataset:
        random = np.random.default_rng(0)
        x = random.standard_normal((4 * batch, width), np.float32)
        y = random.integers(0, 10, 4 * batch, np.int32)
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).repeat()

    result = tfbig.train_distributed(
        model_fn,
        input_fn,
        strategy=strategy,
        devices=devices,
        max_steps=steps,
        config=tfbig.RunConfig(
            model_distribution=model_distribution,
            jit_compile=sizes["jit"],
            tf_random_seed=0,
            steps_per_loop=2,
            log_step_count_steps=steps // 2,
        ),
    )
    found = {
        "peak_mb": round(clusters.peak_mb()),
        "steps_per_sec": result.history[-1]["steps_per_sec"],
        "slot_mb": _slot_bytes(result.model.optimizer) / 1e6,
        "loss": result.history[-1]["loss"],
    }
    print(json.dumps(found), flush=True)


def _slot_bytes(optimizer: Any) -> int:
    """Returns the bytes of the slot variables that one replica holds."""
    bytes_of = {}
    for variable in optimizer.variables:
        value = variable.value
        if hasattr(value, "parts"):
            bytes_of.update({id(part.store): part.store.bytes for part in value.parts})
        else:
            bytes_of[id(value)] = value.shape.num_elements() * value.dtype.size
    return sum(bytes_of.values())


def _measured(model_distribution: str) -> dict:
    """Returns the measurements; of several workers, the largest peak memory."""
    words = [
        f"--{n}={flags.FLAGS[n].value}" for n in ("steps", "batch", "width", "jit", "placement")
    ]
    words.append(f"--only={model_distribution}")
    if _PLACEMENT.value == "workers":
        first, *others = clusters.run_workers(__file__, words, 2)
        return {**first, "peak_mb": max(found["peak_mb"] for found in (first, *others))}
    done = subprocess.run(
        [sys.executable, __file__, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
    del argv
    if _ONLY.value:
        sizes = {n: flags.FLAGS[n].value for n in ("steps", "batch", "width", "jit")}
        if _PLACEMENT.value == "workers":
            clusters.use_own_cores()
            measure(_ONLY.value, "multi_worker", None, **sizes)
        else:
            measure(_ONLY.value, "mirrored", 2, **sizes)
        return
    print(f"machine: {contestants.machine()}")
    measured: dict[str, list[dict]] = {name: [] for name in _DISTRIBUTIONS}
    for _ in range(_ROUNDS.value):
        for name in _DISTRIBUTIONS:
            measured[name].append(_measured(name))
    print(f"{'':12}{'slots, MB':>12}{'peak, MB':>12}{'steps/s':>12}{'loss':>12}")
    for name, runs in measured.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(
            f"{name:12}{median['slot_mb']:12.1f}{median['peak_mb']:12.0f}"
            f"{median['steps_per_sec']:12.3f}{median['loss']:12.6f}"
        )
    replicated, owner = measured["replicated"], measured["owner"]
    saved = statistics.median(
        r["peak_mb"] - o["peak_mb"] for r, o in zip(replicated, owner, strict=True)
    )
    pace = statistics.median(
        o["steps_per_sec"] / r["steps_per_sec"] for r, o in zip(replicated, owner, strict=True)
    )
    print(f"owner needs {saved:.0f} MB less at its peak, at {pace:.2f} times the steps per second")


if __name__ == "__main__":
    app.run(main)
