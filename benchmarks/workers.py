"""Scaling with workers: steps per second of the same training on 1 and 2, with one core each.

$ python benchmarks/workers.py --rounds=3

The model is a Transformer language model whose steps are nearly all computation, with the same
global batch for any number of workers. Every worker is a process pinned to its own core. The
numbers of workers take turns in each round. No other program should run at the same time.
"""

import json
import statistics
import sys

import clusters
import contestants
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 3, "How often each number of workers is measured.")
_WORKERS = flags.DEFINE_list("workers", ["1", "2"], "Which numbers of workers, the least first.")
_STEPS = flags.DEFINE_integer("steps", 30, "Steps of a run; the first third is not timed.")
_BATCH = flags.DEFINE_integer("batch", 32, "Sequences of 128 tokens in a global batch.")
_TASK = flags.DEFINE_bool("task", False, "Be one of the workers.")
_TARGET = 1.7  # the ratio of 2 workers to 1


def train() -> None:
    """Trains as one worker and prints one line of JSON."""
    clusters.use_own_cores()
    import numpy as np

    import tfbig

    def build():
        return tfbig.models.transformer_lm.build({"layers": 4, "width": 256, "heads": 4})

    def input_fn():
        tokens = np.random.default_rng(0).integers(0, 256, (8 * _BATCH.value, 129), np.int32)
        return tfbig.data.ArraySource((tokens[:, :-1], tokens[:, 1:])).batch(_BATCH.value)

    skipped = _STEPS.value // 3
    throughput = tfbig.callbacks.Throughput(skip_steps=skipped)
    result = tfbig.train_distributed(
        build,
        input_fn,
        strategy="multi_worker",
        max_steps=_STEPS.value,
        callbacks=[throughput],
        config=tfbig.RunConfig(tf_random_seed=0, steps_per_loop=2, log_step_count_steps=10),
    )
    found = {"steps_per_sec": throughput.steps_per_sec, "loss": result.loss}
    print(json.dumps(found), flush=True)


def main(argv: list[str]) -> None:
    del argv
    if _TASK.value:
        train()
        return
    print(f"machine: {contestants.machine()}")
    counts = [int(count) for count in _WORKERS.value]
    rounds = []
    words = ["--task", f"--steps={_STEPS.value}", f"--batch={_BATCH.value}"]
    for number in range(_ROUNDS.value):
        found = {n: clusters.run_workers(__file__, words, n)[0] for n in counts}
        print(f"  round {number + 1}: {found}", file=sys.stderr)
        rounds.append(found)
    print(f"{'workers':>8}{'steps/s':>10}{'ratio':>8}{'loss':>12}")
    for count in counts:
        rate = statistics.median(r[count]["steps_per_sec"] for r in rounds)
        ratio = statistics.median(
            r[count]["steps_per_sec"] / r[counts[0]]["steps_per_sec"] for r in rounds
        )
        print(f"{count:8}{rate:10.3f}{ratio:8.2f}{rounds[0][count]['loss']:12.6f}")
        if (counts[0], count) == (1, 2):
            said = "reached" if ratio >= _TARGET else "missed"
            print(f"{'':8}target for 2 workers: >= {_TARGET}: {said}")


if __name__ == "__main__":
    app.run(main)
