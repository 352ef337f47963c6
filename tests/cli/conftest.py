"""Runs the installed command as a user does."""

import os
import pathlib
import subprocess
import sysconfig
import threading

import pytest


class Command:
    """The command `tfbig`, run in a folder."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def start(self, *words: str) -> subprocess.Popen:
        program = os.path.join(sysconfig.get_path("scripts"), "tfbig")
        return subprocess.Popen(
            [program, *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def __call__(self, *words: str, timeout: float = 120) -> "Outcome":
        return self.finish(self.start(*words), timeout)

    def wait_for(self, process: subprocess.Popen, beginning: str, timeout: float = 120) -> None:
        """Reads standard output to a line with this beginning."""
        killer = threading.Timer(timeout, process.kill)
        killer.start()
        try:
            assert any(line.startswith(beginning) for line in process.stdout), beginning
        finally:
            killer.cancel()

    def finish(self, process: subprocess.Popen, timeout: float = 120) -> "Outcome":
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return Outcome(process.returncode, out, err)


class Outcome:
    """What a command left: its exit code, and its lines on both streams."""

    def __init__(self, code: int, out: str, err: str):
        self.code = code
        self.out = out.splitlines()
        self.err = err.splitlines()

    def __repr__(self) -> str:
        return "\n".join([f"exit {self.code}", *self.out, "stderr:", *self.err])


@pytest.fixture
def command(tmp_path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="module")
def command_in():
    return Command
