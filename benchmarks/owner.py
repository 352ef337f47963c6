"""model_distribution: what each one holds, its peak memory, its pace and its traffic.

$ python benchmarks/owner.py --model=33m --workers=2 --rounds=3
$ python benchmarks/owner.py --model=120m --workers=4 --rounds=1
$ python benchmarks/owner.py --model=500m --workers=4 --rounds=1 --distributions=owner_full

A Transformer language model is trained with Adam by workers of this machine, each pinned to a core.
The distributions take turns, in new processes each time. `state` is what a task holds: its weights,
gradients and slots. `expected` adds the two largest blocks where weights are gathered. `peak` is
the peak memory of a task, less that of the same program with a model of the same depth and width 8.
"""

import json
import statistics
import time
from typing import Any, ClassVar

import clusters
import contestants
from absl import app, flags

_MODELS = {
    "33m": {"layers": 10, "width": 512, "heads": 8, "vocabulary_size": 2048},
    "120m": {"layers": 12, "width": 896, "heads": 8, "vocabulary_size": 4096},
    "500m": {"layers": 18, "width": 1536, "heads": 12, "vocabulary_size": 4096},
}
_ALL = ("replicated", "owner", "owner_gradients", "owner_full")
_MODEL = flags.DEFINE_enum("model", "33m", list(_MODELS), "The size of the model.")
_WORKERS = flags.DEFINE_integer("workers", 2, "The number of workers.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each distribution is measured.")
_STEPS = flags.DEFINE_integer("steps", 12, "Steps of a run; the first half is not timed.")
_BATCH = flags.DEFINE_integer("batch", 8, "Sequences of a global batch.")
_LENGTH = flags.DEFINE_integer("length", 64, "Tokens of a sequence.")
_JIT = flags.DEFINE_bool("jit", False, "jit_compile.")
_PREFETCH = flags.DEFINE_integer("prefetch", 1, "RunConfig.prefetched_blocks.")
_DISTRIBUTIONS = flags.DEFINE_list("distributions", list(_ALL), "Which are measured.")
_ONLY = flags.DEFINE_string("only", None, "Measure this one in this process.")
_WIDTH = flags.DEFINE_integer("width", None, "Another width, for the memory of the program alone.")


def measure(model_distribution: str) -> None:
    """Trains in this process and prints one line of JSON."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tfbig

    params = {**_MODELS[_MODEL.value], "sequence_length": _LENGTH.value}
    if _WIDTH.value:
        params |= {"width": _WIDTH.value, "heads": 1, "vocabulary_size": 64}
    steps, batch, length = _STEPS.value, _BATCH.value, _LENGTH.value

    def input_fn() -> tf.data.Dataset:
        random = np.random.default_rng(0)
        tokens = random.integers(0, params["vocabulary_size"], (batch, length + 1), np.int32)
        data = tf.data.Dataset.from_tensor_slices((tokens[:, :-1], tokens[:, 1:]))
        return data.batch(batch).repeat()

    class Watch(keras.callbacks.Callback):
        """Notes the time and the traffic from the middle of the run on."""

        at: ClassVar[dict[int, tuple[float, int]]] = {}

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.at[batch + 1] = (time.perf_counter(), _loopback_bytes())

    watch = Watch()
    result = tfbig.train_distributed(
        lambda: tfbig.models.transformer_lm.build(params),
        input_fn,
        strategy="multi_worker",
        max_steps=steps,
        callbacks=[watch],
        config=tfbig.RunConfig(
            model_distribution=model_distribution,
            jit_compile=_JIT.value,
            prefetched_blocks=_PREFETCH.value,
            whole_model_bytes=0,
            tf_random_seed=0,
            steps_per_loop=1,
            log_step_count_steps=steps,
        ),
    )
    found = {"peak_mb": clusters.peak_mb(), "loss": result.loss}
    if watch.at:  # the chief's alone
        (began, sent), (ended, sent_then) = watch.at[steps // 2], watch.at[steps]
        found["seconds"] = (ended - began) / (steps - steps // 2)
        found["traffic_mb"] = (sent_then - sent) / (steps - steps // 2) / 2**20
    print(json.dumps(found), flush=True)


def _loopback_bytes() -> int:
    with open("/proc/net/dev") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def _run(distribution: str, *more: str) -> dict[str, float]:
    """Measures in new processes; of the workers, the largest peak memory."""
    names = ("model", "steps", "batch", "length", "jit", "prefetch")
    words = [f"--{n}={flags.FLAGS[n].value}" for n in names]
    found = clusters.run_workers(
        __file__, [*words, f"--only={distribution}", *more], _WORKERS.value
    )
    return {**found[0], "peak_mb": max(each["peak_mb"] for each in found)}


def _sizes() -> tuple[float, float]:
    """The MB of the model's weights, and of its largest block."""
    p = _MODELS[_MODEL.value]
    width = p["width"]
    attention = 4 * width * width + 4 * width + 2 * width
    mlp = 8 * width * width + 5 * width + 2 * width
    ends = (p["vocabulary_size"] + _LENGTH.value) * width + 2 * width
    embedding = p["vocabulary_size"] * width
    return (
        (p["layers"] * (attention + mlp) + ends) * 4 / 2**20,
        max(attention, mlp, embedding) * 4 / 2**20,
    )


def _expected(distribution: str) -> tuple[float, float]:
    """The MB of weights, gradients and slots that a task holds, and the same with two blocks."""
    weights, block = _sizes()
    share = 1 / _WORKERS.value
    state = {
        "replicated": 4 * weights,
        "owner": 2 * weights + 2 * weights * share,
        "owner_gradients": weights + 3 * weights * share,
        "owner_full": 4 * weights * share,
    }[distribution]
    return state, state + 2 * block * (distribution == "owner_full")


def main(argv: list[str]) -> None:
    del argv
    if _ONLY.value:
        clusters.use_own_cores()
        measure(_ONLY.value)
        return
    print(f"machine: {contestants.machine()}")
    weights, block = _sizes()
    print(
        f"{weights * 2**20 / 4e6:.1f} million parameters, {_WORKERS.value} workers, "
        f"largest block {block:.0f} MB"
    )
    measured: dict[str, list[dict]] = {name: [] for name in _DISTRIBUTIONS.value}
    base = {name: _run(name, "--width=8")["peak_mb"] for name in measured}
    for _ in range(_ROUNDS.value):
        for name in measured:
            measured[name].append(_run(name))
    columns = ("state, MB", "expected", "base", "peak-base", "s/step", "ratio", "MB/step", "loss")
    print(f"{'':16}" + "".join(f"{column:>11}" for column in columns))
    reference = measured.get("replicated")
    for name, runs in measured.items():
        median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        ratio = float("nan")
        if reference:
            pairs = zip(runs, reference, strict=True)
            ratio = statistics.median(mine["seconds"] / theirs["seconds"] for mine, theirs in pairs)
        state, expected = _expected(name)
        print(
            f"{name:16}{state:11.0f}{expected:11.0f}{base[name]:11.0f}"
            f"{median['peak_mb'] - base[name]:11.0f}{median['seconds']:11.3f}{ratio:11.2f}"
            f"{median['traffic_mb']:11.1f}{median['loss']:11.5f}",
            flush=True,
        )


if __name__ == "__main__":
    app.run(main)
