"""Lets a process of the nursery fork the one that checks its exports, too.

`tfbig.serving.checker` starts Python and TensorFlow for it, which takes seven seconds of
computing. A process whose TensorFlow has begun to work cannot be forked any more; so a spare one
is forked before, which waits for the case that it is needed.
"""

import json
import os
import runpy
import signal
import subprocess
import time
import types
from collections.abc import Mapping, Sequence

from tfbig.serving import checker


class _Spare:
    """A forked process that becomes a checker when asked; it has Popen's methods of one."""

    def __init__(self):
        requests, answers = os.pipe(), os.pipe()
        self.pid, self.returncode = os.fork(), None
        if not self.pid:
            os.close(requests[1])
            os.close(answers[0])
            _become_checker(requests[0], answers[1])
        os.close(requests[0])
        os.close(answers[1])
        self.stdin = open(requests[1], "wb", buffering=0)
        self.stdout = open(answers[0], "rb", buffering=0)

    def begin(self, environment: Mapping[str, str]) -> "_Spare":
        os.write(self.stdin.fileno(), json.dumps(dict(environment)).encode() + b"\n")
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("tfbig.serving.check_process", timeout)
            time.sleep(0.01)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def _become_checker(requests: int, answers: int) -> None:
    """Waits for a line with the environment; ends with the process that would write it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(requests, 1)
        if not byte:
            os._exit(0)
        line += byte
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, descriptor in enumerate((requests, answers, nowhere)):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(json.loads(line))
    try:
        runpy.run_module("tfbig.serving.check_process", run_name="__main__", alter_sys=True)
    except BaseException:
        os._exit(1)
    os._exit(0)


def prepare() -> None:
    """Forks a spare process, and makes it the first that the checker of this process starts."""
    spares, owner = [_Spare()], os.getpid()

    def start(words: Sequence[str], **arguments):
        if spares and os.getpid() == owner:
            spare = spares.pop()
            if spare.poll() is None:
                return spare.begin(arguments["env"])
        return subprocess.Popen(words, **arguments)

    names = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL", "TimeoutExpired")}
    checker.subprocess = types.SimpleNamespace(Popen=start, **names)
