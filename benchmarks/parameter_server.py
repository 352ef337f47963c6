"""Training under parameter servers, measured on a cluster of this machine.

    python benchmarks/parameter_server.py closures [--workers=1] [--ps=1] [--steps=2000]

The digits MLP (64-128-10, batch 64, Adam), with the default number of steps per closure and one.

    python benchmarks/parameter_server.py reading [--ps=1] [--steps=400]

The same model on 1, 2 and 3 workers, with data that takes 1 ms per example to read without using
the CPU. The speed should be proportional to the number of workers, because each one reads its own
data.

    python benchmarks/parameter_server.py tables [--workers=2] [--ps=2] [--steps=600]

A table with 32 numbers per row, 8 ids per example out of a million with a power law, batches of
512, Adagrad: keras.layers.Embedding with a million rows, and tfbig.layers.ShardedEmbedding with
one and ten million rows. Prints steps per second, and bytes on the wire (loopback) per step.

    python benchmarks/parameter_server.py checkpoints [--workers=2] [--ps=2] [--steps=4000]

The ShardedEmbedding with ten million rows (2.6 GB with its slot variables): how long a checkpoint
blocks training, and how long writing it takes.

Rates are medians over the log points except the first, which includes tracing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

MARK = "found "
BATCH, IDS, WIDTH, USED = 512, 8, 32, 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=tuple(MEASURED))
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ps", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task(**json.loads(options.task))
        return
    measured, few = MEASURED[options.what], options.what in ("closures", "reading")
    workers, ps = options.workers or (1 if few else 2), options.ps or (1 if few else 2)
    print(f"{workers} workers, {ps} ps, {len(os.sched_getaffinity(0))} cores", flush=True)

    def measure(workers: int = workers, **arguments) -> dict:
        return run(options.what, workers, ps, arguments)

    measured(measure, options.steps)


def closures(measure, steps: int | None) -> None:
    steps = steps or 2000
    one = measure(model="digits", steps=steps // 4, steps_per_loop=1)["rate"]
    print(f"one step per closure:  {one:.0f} steps/s", flush=True)
    many = measure(model="digits", steps=steps)["rate"]
    print(f"default:               {many:.0f} steps/s, {many / one:.2f} times as many")


def reading(measure, steps: int | None) -> None:
    rates = []
    for workers in (1, 2, 3):
        found = measure(workers=workers, model="digits", data="slow", steps=steps or 400)
        rates.append(found["rate"])
        times = f"{rates[-1] / rates[0]:.2f} times those of one"
        print(f"{workers} workers: {rates[-1]:.1f} steps/s, {times}", flush=True)


def tables(measure, steps: int | None) -> None:
    steps, rates = steps or 600, {}
    for kind, rows, count in (
        ("stock", 1_000_000, max(20, steps // 30)),
        ("sharded", 1_000_000, steps),
        ("sharded", 10_000_000, steps),
    ):
        found = measure(model=kind, rows=rows, steps=count)
        rates[kind, rows] = found["rate"]
        name = {"stock": "Embedding", "sharded": "ShardedEmbedding"}[kind]
        wire = f"{found['bytes'] / 1e6:.3f} MB a step"
        print(f"{name:16} {rows:9} rows: {found['rate']:6.1f} steps/s, {wire}", flush=True)
    stock, small, large = rates.values()
    print(f"{small / stock:.1f} times as fast as Embedding")
    print(f"a step takes {small / large:.2f} times as long with ten times the rows")


def checkpoints(measure, steps: int | None) -> None:
    steps = steps or 4000
    with tempfile.TemporaryDirectory() as folder:
        found = measure(model="sharded", rows=10_000_000, steps=steps, model_dir=folder)
    step = 1 / found["rate"]
    print(f"{found['rate']:.1f} steps/s, {step * 1000:.1f} ms a step")
    for waited, (seconds, steps) in zip(  # noqa: B905  the last ends the run
        found["waited"], found["written"]
    ):
        print(
            f"training waited {waited * 1000:.0f} ms; in the {seconds:.1f} s until the checkpoint "
            f"was there it took {steps / seconds:.1f} steps/s"
        )


def run(what: str, workers: int, ps: int, arguments: dict) -> dict:
    words = [sys.executable, __file__, what, f"--task={json.dumps(arguments)}"]
    launch = ["-m", "tfbig", "launch", f"--workers={workers}", f"--ps={ps}", "--restarts=0"]
    done = subprocess.run(
        [sys.executable, *launch, "--", *words], capture_output=True, text=True, timeout=580
    )
    for line in done.stdout.splitlines():
        if MARK in line:
            return json.loads(line.split(MARK)[1])
    raise SystemExit(done.stdout + done.stderr)


def task(
    model: str,
    steps: int,
    steps_per_loop: int | str = "auto",
    rows: int = 0,
    model_dir: str | None = None,
    data: str = "fast",
) -> None:
    """Runs one task of the cluster."""
    import tfbig  # first, as it keeps TensorFlow quiet

    every, watch = steps // 10, make_watch(steps // 10)
    result = tfbig.train_distributed(
        digits if model == "digits" else lambda: with_table(model, rows),
        (lambda: digits_input(data)) if model == "digits" else (lambda: ids_input(rows)),
        max_steps=steps,
        model_dir=model_dir,
        config=tfbig.RunConfig(
            log_step_count_steps=every,
            save_summary_steps=every,
            steps_per_loop=steps_per_loop,
            save_checkpoints_steps=steps // 4 if model_dir else None,
            keep_checkpoint_max=1,
        ),
        callbacks=[watch],
    )
    if watch.first:  # the chief
        rate = statistics.median(at["steps_per_sec"] for at in result.history[1:])
        print(MARK + json.dumps({"rate": rate, **watch.found}), flush=True)


def make_watch(every: int):
    """Returns a callback that reads the clock and the counters of the loopback device."""
    import tfbig

    class Watch(tfbig.callbacks.LoopCallback):
        def __init__(self):
            super().__init__()
            self.found = {"bytes": 0.0, "waited": [], "written": []}
            self.step, self.first, self.saving, self.began = 0, None, None, {}

        def on_call_begin(self, step, look):
            if self.saving is not None:
                self.found["waited"].append(time.perf_counter() - self.saving)
                self.saving = None

        def on_calls(self, step, logs):
            self.step = step
            if self.first is None and step >= every:
                self.first = (step, on_the_wire())
            elif self.first is not None:
                steps = step - self.first[0]
                self.found["bytes"] = (on_the_wire() - self.first[1]) / steps

        def on_saving(self, step):
            self.saving = self.began[step] = time.perf_counter()

        def on_checkpoint(self, step, path):
            seconds = time.perf_counter() - self.began[step]
            self.found["written"].append((seconds, self.step - step))

    return Watch()


def on_the_wire() -> int:
    """Returns the number of bytes that this machine has sent to itself."""
    with open("/proc/net/dev") as file:
        counters = next(line for line in file if line.strip().startswith("lo:"))
    return int(counters.split(":")[1].split()[0])


def digits():
    import keras

    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def digits_input(data: str):
    from sklearn.datasets import load_digits

    import tfbig

    images, labels = load_digits(return_X_y=True)
    source = tfbig.data.ArraySource(((images / 16).astype("float32"), labels))
    if data == "fast":
        return source.batch(64)

    def slowly(batch):
        time.sleep(0.001 * len(batch[1]))
        return batch

    return source.map(slowly).batch(64)


def with_table(kind: str, rows: int):
    import keras

    import tfbig

    layer = {"stock": keras.layers.Embedding, "sharded": tfbig.layers.ShardedEmbedding}[kind]
    inputs = keras.Input([IDS], dtype="int64")
    x = keras.layers.Flatten()(layer(rows, WIDTH)(inputs))
    outputs = keras.layers.Dense(1)(keras.layers.Dense(64, "relu")(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adagrad(0.05), "mse")
    return model


def ids_input(rows: int):
    import numpy as np

    import tfbig

    used = np.random.RandomState(0).zipf(1.2, size=(200_000, IDS)) % USED
    ids = used * 7919 % rows  # as many different ones, whatever the number of rows
    return tfbig.data.ArraySource((ids, (used.sum(1) % 7).astype("float32"))).batch(BATCH)


MEASURED = {
    "closures": closures,
    "reading": reading,
    "tables": tables,
    "checkpoints": checkpoints,
}

if __name__ == "__main__":
    main()
