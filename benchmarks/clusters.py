"""Runs a script as the workers of a cluster on this machine, each pinned to its own core."""

import json
import os
import re
import subprocess
import sys


def run_workers(script: str, words: list[str], workers: int) -> list[dict]:
    """Runs `python <script> <words>` as each worker; returns the last JSON line of each worker.

    Args:
        script: the path of a script that calls `use_own_cores` before it imports TensorFlow.
        words: the arguments of the script.
        workers: the number of workers; one is allowed.
    """
    launch = [sys.executable, "-m", "tfbig", "launch", f"--workers={workers}", "--restarts=0"]
    done = subprocess.run(
        [*launch, "--threads_per_task=1", "--", sys.executable, script, *words],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = re.findall(r"^\[worker (\d+)\] (\{.*\})$", done.stdout, re.M)
    last = {int(worker): json.loads(line) for worker, line in found}
    return [last[worker] for worker in range(workers)]


def use_own_cores() -> None:
    """Pins this worker to its own core."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[_index() % len(cores)]})


def _index() -> int:
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def peak_mb() -> float:
    """Returns the peak memory of this process so far, in MB (2**20 bytes)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
