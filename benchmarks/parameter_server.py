"""Steps per second under parameter servers: as many steps as fit in a closure, against one.

The digits MLP (64-128-10, batch 64, Adam) on a cluster of this machine; the same script, once as
it is by default and once with steps_per_loop=1, one closure for each step. The rate is the
median over the log points after the first, in which everything is traced.

    python benchmarks/parameter_server.py [--workers=1] [--ps=1] [--steps=2000]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

MARK = "rates "


def task(steps: int, steps_per_loop: str) -> None:
    import keras
    from sklearn.datasets import load_digits

    import tfbig  # first, as it keeps TensorFlow quiet

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")

    def build():
        model = keras.Sequential(
            [keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)]
        )
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    every = steps // 10
    result = tfbig.train_distributed(
        build,
        lambda: tfbig.data.ArraySource((images, labels)).batch(64),
        max_steps=steps,
        config=tfbig.RunConfig(
            log_step_count_steps=every,
            save_summary_steps=every,
            steps_per_loop=steps_per_loop if steps_per_loop == "auto" else int(steps_per_loop),
        ),
    )
    if result.model is not None:  # the chief
        rates = [at["steps_per_sec"] for at in result.history[1:]]
        print(MARK + json.dumps(rates), flush=True)


def measure(workers: int, ps: int, steps: int, steps_per_loop: str) -> float:
    words = [sys.executable, __file__, "--task", str(steps), steps_per_loop]
    launch = ["-m", "tfbig", "launch", f"--workers={workers}", f"--ps={ps}", "--restarts=0"]
    done = subprocess.run(
        [sys.executable, *launch, "--", *words], capture_output=True, text=True, timeout=600
    )
    for line in done.stdout.splitlines():
        if MARK in line:
            return statistics.median(json.loads(line.split(MARK)[1]))
    raise SystemExit(done.stdout + done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ps", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        return task(int(options.task[0]), options.task[1])
    print(f"{options.workers} workers, {options.ps} ps, {len(os.sched_getaffinity(0))} cores")
    cluster = (options.workers, options.ps)
    one = measure(*cluster, options.steps // 4, "1")
    print(f"one step in a closure: {one:.0f} steps/s")
    many = measure(*cluster, options.steps, "auto")
    print(f"as it is by default:   {many:.0f} steps/s, {many / one:.2f} times as many")


if __name__ == "__main__":
    main()
