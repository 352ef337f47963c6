"""A large table on one device: ShardedEmbedding against keras.layers.Embedding.

    python benchmarks/embeddings.py --rows=4000000

prints the examples per second after the first call, and the peak memory of training beyond the
table and its slot variables. Each measurement runs in its own process.
"""

import argparse
import resource
import subprocess
import sys
import time

KINDS = ("sharded", "stock", "stock_xla")
BATCH, LENGTH, WIDTH = 512, 8, 32


def measure(kind: str, rows: int, steps: int) -> None:
    import keras
    import numpy as np

    import tfbig

    random = np.random.RandomState(0)
    ids = random.zipf(1.2, size=(20_000, LENGTH)) * 7919 % rows
    numbers = (ids.sum(1) % 7).astype("float32")

    def build():
        layer = tfbig.layers.ShardedEmbedding if kind == "sharded" else keras.layers.Embedding
        x = inputs = keras.Input([LENGTH], dtype="int64")
        x = keras.layers.Flatten()(layer(rows, WIDTH)(x))
        outputs = keras.layers.Dense(1)(keras.layers.Dense(64, "relu")(x))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.Adagrad(0.05), "mse")
        return model

    peaks, times = [], []

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

        def on_train_batch_end(self, batch, logs=None):
            times.append((time.perf_counter(), batch))

    tfbig.train_distributed(
        build,
        lambda: tfbig.data.ArraySource((ids, numbers)).batch(BATCH),
        max_steps=steps,
        strategy="one_device",
        config=tfbig.RunConfig(
            tf_random_seed=1, jit_compile=kind == "stock_xla", steps_per_loop=max(1, steps // 10)
        ),
        callbacks=[Clock()],
    )
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    (began, first), (ended, last) = times[0], times[-1]
    pace = (last - first) * BATCH / (ended - began)
    print(f"{kind:10} {pace:10.0f} examples/s {(peaks[1] - peaks[0]) / 1024:8.0f} MB for training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--kind", choices=KINDS, help="measure this kind only, in this process")
    arguments = parser.parse_args()
    if arguments.kind:
        measure(arguments.kind, arguments.rows, 1000 if arguments.kind == "sharded" else 20)
        return
    for kind in KINDS:
        command = [sys.executable, __file__, f"--rows={arguments.rows}", f"--kind={kind}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
