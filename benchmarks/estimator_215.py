"""Trains the digits MLP with tf.estimator; estimator.py runs it with a Python that has TF 2.15.

$ /path/to/python benchmarks/estimator_215.py arrays.npz

The file holds `features` [n, 64] and `labels` [n]. Prints one JSON object like contestants.py.
"""

import json
import resource
import sys
import tempfile
import time

import mlp_model_fn
import numpy as np
import tensorflow as tf

BATCH, WARM_UP, STEPS = 64, 500, 5_000


class Clock(tf.compat.v1.train.SessionRunHook):
    """Records the times of the first step, the last warm-up step and the last step."""

    def __init__(self):
        self.done = 0
        self.times = {}

    def after_run(self, run_context, run_values):
        self.done += 1
        if self.done in (1, WARM_UP, WARM_UP + STEPS):
            self.times[self.done] = time.perf_counter()


def main(path: str) -> None:
    with np.load(path) as arrays:
        features, labels = arrays["features"], arrays["labels"]

    def input_fn():
        dataset = tf.data.Dataset.from_tensor_slices((features, labels))
        return dataset.shuffle(len(labels)).repeat().batch(BATCH)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        # Write neither checkpoints nor summaries during the measurement.
        config = tf.estimator.RunConfig(
            save_checkpoints_steps=10 * STEPS, save_summary_steps=10 * STEPS
        )
        estimator = tf.estimator.Estimator(mlp_model_fn.build(tf.compat.v1), folder, config)
        estimator.train(input_fn, steps=WARM_UP + STEPS, hooks=[clock])
    steps_per_sec = STEPS / (clock.times[WARM_UP + STEPS] - clock.times[WARM_UP])
    result = {
        "steps_per_sec": steps_per_sec,
        "ms_per_step": 1e3 / steps_per_sec,
        "first_step_sec": clock.times[1] - start,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
