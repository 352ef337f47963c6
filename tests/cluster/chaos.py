"""Runs with parameter servers in which random tasks are killed or stopped at random times.

`python -m tests.cluster.chaos <folder> <steps>` is one task of such a run.
"""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import keras

import tfbig
from tests.cluster.parameter_server_runs import build, data

TASKS = ("chief", "worker 0", "worker 1", "ps 0")
SAVED_EVERY = 100
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class NeverBack(keras.callbacks.Callback):
    """Checks that a run goes on after the newest checkpoint that was there when it began."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self._checkpoints = folder / "run" / "checkpoints"

    def on_train_begin(self, logs=None):
        found = (path.name.rpartition("-")[2] for path in self._checkpoints.glob("ckpt-*[0-9]"))
        self._saved = max(map(int, found), default=0)

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 <= self._saved:
            print(f"WENT BACK: step {batch + 1} after the checkpoint of {self._saved}", flush=True)


def task(folder: pathlib.Path, steps: int) -> None:
    me = json.loads(os.environ["TF_CONFIG"])["task"]
    name = "chief" if me["type"] == "chief" else f"{me['type']} {me['index']}"
    (folder / name).write_text(str(os.getpid()))
    training, held_out = data()
    result = tfbig.train_distributed(
        build,
        lambda: tfbig.data.ArraySource(training).batch(64),
        eval_input_fn=lambda: tfbig.data.ArraySource(held_out).batch(100),
        strategy="parameter_server",
        model_dir=str(folder / "run"),
        max_steps=steps,
        callbacks=[NeverBack(folder)],
        config=tfbig.RunConfig(
            tf_random_seed=1, save_checkpoints_steps=SAVED_EVERY, eval_every_steps=10**6
        ),
    )
    if name == "chief":
        accuracy = result.metrics.get("accuracy", 0.0)  # none, if it was stopped
        print(f"finished at step {result.global_step}, accuracy {accuracy:.4f}", flush=True)


def run(folder: pathlib.Path, seed: int | None, steps: int, events: int, timeout: float) -> dict:
    """One launch; returns the code, the events, what the chief said at its end, and the output.

    Args:
        folder: an empty one.
        seed: of what happens when; None: nothing does.
        steps: of the run.
        events: how many tasks are killed or stopped.
        timeout: seconds; after them all is killed, and the code is None.
    """
    choose = random.Random(seed)
    words = [sys.executable, "-m", "tests.cluster.chaos", str(folder), str(steps)]
    launch = ["-m", "tfbig", "launch", "--workers=2", "--ps=1", f"--restarts={events + 1}"]
    with open(folder / "out", "w") as out:
        launcher = subprocess.Popen(
            [sys.executable, *launch, "--", *words],
            cwd=_ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TFBIG_TEST_MARK": folder.name, "PYTHONPATH": str(_ROOT)},
        )
        until, done, waking = time.monotonic() + timeout, [], []
        next_at = _when(choose) if seed is not None else float("inf")
        while launcher.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
            now = time.monotonic()
            for at, pid in list(waking):
                if now >= at:
                    waking.remove((at, pid))
                    _send(pid, signal.SIGCONT)
            if now >= next_at and len(done) < events and (folder / "run" / "checkpoints").exists():
                victim, number = choose.choice(TASKS), choose.choice(["SIGKILL", "SIGSTOP"])
                pid = int((folder / victim).read_text())
                if _send(pid, getattr(signal, number)):
                    done.append(f"{number} to {victim}")
                    if number == "SIGSTOP":
                        waking.append((now + choose.uniform(1, 8), pid))
                next_at = _when(choose)
        for _, pid in waking:
            _send(pid, signal.SIGCONT)
        code = launcher.poll()
        if code is None:
            launcher.kill()
            launcher.wait()
    text = (folder / "out").read_text(errors="replace")
    found = re.findall(r"\[chief\] finished at step (\d+), accuracy ([\d.]+)", text)
    return {
        "code": code,
        "events": done,
        "finished": [(int(step), float(accuracy)) for step, accuracy in found],
        "went_back": "WENT BACK" in text,
        "out": text,
    }


def _when(choose: random.Random) -> float:
    return time.monotonic() + choose.uniform(1, 8)


def _send(pid: int, number: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


if __name__ == "__main__":
    task(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
