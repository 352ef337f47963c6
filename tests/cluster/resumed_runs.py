"""Runs that are killed, or asked to stop, and started again on workers, and what they leave.

As a program it is one task: `python -m tests.cluster.resumed_runs <kind> <model_dir> <kills>`.
"""

import json
import os
import signal
import sys
import threading
import time

import keras
import numpy as np

import tfbig
from tests.checkpoint_values import saved_values
from tests.training import resumed_runs
from tests.training.resumed_runs import KINDS, MAX_STEPS, newest
from tfbig.placement.loop_function import LoopFunction

STEPS = "steps are run up to"


def task() -> int:
    """This task's index; 0 where there is no cluster."""
    text = os.environ.get("TF_CONFIG")
    return json.loads(text)["task"]["index"] if text else 0


def run(
    kind: str,
    model_dir: str,
    strategy: str = "auto",
    devices: int | None = None,
    stop_at: int | None = None,
    pause: float = 0.0,
    building: float = 0.0,
) -> dict:
    """Trains, from where it was.

    Args:
        kind: of tests/training/resumed_runs.py; a model_distribution may follow a colon.
        model_dir: of the run.
        strategy, devices: as for train_distributed.
        stop_at: the step at which the chief sends itself SIGTERM.
        pause: seconds before each call of the loop, for a signal to come.
        building: seconds that it takes to build the model.

    Returns:
        The step, by what it was preempted, and all that the newest checkpoint has, by name, from
        tasks that see it.
    """
    kind, _, distribution = kind.partition(":")
    arguments = dict(KINDS[kind])
    build = arguments.pop("model_fn")
    _announce_steps(pause)

    def model_fn():
        print("builds the model", flush=True)
        time.sleep(building)
        return build()

    signalled = resumed_runs.Kill(stop_at, signal.SIGTERM) if stop_at else None
    result = tfbig.train_distributed(
        model_fn,
        **arguments,
        strategy=strategy,
        devices=devices,
        max_steps=MAX_STEPS,
        model_dir=model_dir,
        callbacks=[signalled] if signalled else [],
        config=tfbig.RunConfig(
            tf_random_seed=3,
            steps_per_loop=7,
            save_checkpoints_steps=10,
            keep_checkpoint_max=2,
            jit_compile=False,
            model_distribution=distribution or "replicated",
        ),
    )
    return {
        "step": result.global_step,
        "preempted": result.preempted,
        "model": [w.ravel().tolist() for w in result.model.get_weights()],
        "saved": saved(model_dir) if os.path.isdir(model_dir) else {},
    }


def saved(model_dir: str) -> dict[str, list]:
    """All variables of the newest checkpoint, the optimizer's too."""
    values = saved_values(os.path.dirname(newest(model_dir)))
    return {n: np.asarray(v).ravel().astype(float).tolist() for n, v in values.items()}


def _announce_steps(pause: float) -> None:
    """Says before each call of the loop how far it will go, for those who send signals."""
    runs = LoopFunction.run

    def run(self, stack, first):
        print(f"{STEPS} {first + stack.steps}", flush=True)
        time.sleep(pause)
        return runs(self, stack, first)

    LoopFunction.run = run


def kill_at(step: int, seconds: float) -> None:
    """Has this process killed some time after the call that reaches a step has begun.

    So it dies in the midst of whatever it does then: a step, an evaluation, a checkpoint.
    """
    runs, timers = LoopFunction.run, []

    def run(self, stack, first):
        if not timers and first + stack.steps >= step:
            timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)))
            timers[0].start()
        elif timers:
            time.sleep(0.02)  # the run must not come to its end before
        return runs(self, stack, first)

    LoopFunction.run = run


def main(kind: str, model_dir: str, kills: str) -> None:
    """Trains as a task of a launch, and is killed if it is its turn.

    Args:
        kind, model_dir: as for `run`.
        kills: JSON; for each start a worker, a step and seconds.
    """
    keras.utils.set_random_seed(0)
    kills, attempt = json.loads(kills), int(os.environ["TFBIG_LAUNCH_ATTEMPT"])
    if attempt < len(kills) and kills[attempt][0] == task():
        kill_at(*kills[attempt][1:])
    print("finished at step", run(kind, model_dir)["step"])


if __name__ == "__main__":
    main(*sys.argv[1:])
