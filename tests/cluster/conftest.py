"""Clusters of real processes on this machine, whose tasks a test can stop and kill."""

import contextlib
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests import harness, nursery

_ROOT = pathlib.Path(__file__).resolve().parents[2]
CPP_LINE = r"[IWEF]\d{4} |\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"  # how TensorFlow's own lines begin


class Cluster:
    """Starts tasks and waits for what they say; none outlives the test.

    Attributes:
        addresses: "host:port" of each worker.
        tasks: by index, those that were started.
    """

    def __init__(self, folder: pathlib.Path):
        self.addresses: list[str] = []
        self.tasks: dict[int, nursery.Process] = {}
        self._folder, self._started = folder, []

    def start(
        self,
        function: Callable | None,
        *arguments: Any,
        workers: int = 2,
        only: Sequence[int] | None = None,
        words: Sequence[str] = (),
        of: Mapping[int, Sequence[Any]] | None = None,
        configs: Sequence[str] | None = None,
        **environment: str,
    ) -> "Cluster":
        """Starts the tasks of a new cluster.

        Args:
            function: of a module, or None for a command.
            arguments: for all tasks.
            workers: how many the cluster has.
            only: the indexes of those that are started; None: all.
            words: the command, after "python".
            of: by index, other arguments, or words, of single tasks.
            configs: each task's TF_CONFIG; None: the usual ones on free ports.
            environment: variables that are set besides the present ones.
        """
        self.addresses = harness.free_addresses(workers)
        configs = configs or harness.tf_configs(self.addresses)
        self.tasks = {}
        for index in range(workers) if only is None else only:
            given = (of or {}).get(index, words or arguments)
            self.add(index, function, given, TF_CONFIG=configs[index], **environment)
        return self

    def add(
        self, index: int, function: Callable | None, given: Sequence[Any], **environment: str
    ) -> nursery.Process:
        """Starts one more task."""
        folder = self._folder / f"process{len(self._started)}"
        if function is None:
            one_thread = {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"}
            process = nursery.cold_python(given, folder, _ROOT, **one_thread | environment)
        else:
            process = nursery.start(function, folder, given, **environment)
        self._started.append(process)
        self.tasks[index] = process
        return process

    def name(self, index: int) -> str:
        """A task as messages name it."""
        return ("the chief" if index == 0 else f"worker {index}") + f" at {self.addresses[index]}"

    def wait_for(self, text: str, index: int, timeout: float = 60) -> None:
        """Waits until a task has printed a text."""
        task, until = self.tasks[index], time.monotonic() + timeout
        while text not in task.out + task.err:
            if task.code is not None or time.monotonic() > until:
                pytest.fail(f"worker {index} has not said {text!r}\n{self}", pytrace=False)
            time.sleep(0.02)

    def ends(self, timeout: float, *indexes: int) -> list[int]:
        """The exit codes of all tasks, or of some; fails if one does not end in time."""
        until = time.monotonic() + timeout
        indexes = indexes or tuple(self.tasks)
        for index in indexes:
            if not self.tasks[index].ended(max(0.0, until - time.monotonic())):
                pytest.fail(f"worker {index} runs after {timeout:g} s\n{self}", pytrace=False)
        return [self.tasks[index].code for index in indexes]

    def results(self, timeout: float) -> list:
        """What the function has returned in each task."""
        if any(self.ends(timeout)):
            pytest.fail(f"a task has failed\n{self}", pytrace=False)
        return [task.result() for task in self.tasks.values()]

    def __str__(self) -> str:
        return "\n".join(
            f"--- worker {index}, exit code {task.code}\n{task.out}\n{task.err}"
            for index, task in self.tasks.items()
        )

    def close(self) -> None:
        """Kills what is left."""
        for process in self._started:
            process.send(signal.SIGKILL)
        for process in self._started:
            process.ended(10)


def marked(mark: str) -> list[int]:
    """The processes that have a mark in their environment."""
    found = []
    for path in pathlib.Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if mark in (path / "environ").read_text(errors="replace"):
                    found.append(int(path.name))
            except OSError:  # it has ended meanwhile, or is another user's
                continue
    return found


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    with contextlib.closing(Cluster(tmp_path / "tasks")) as made:
        yield made


@pytest.fixture
def second_cluster(tmp_path) -> Iterator[Cluster]:
    with contextlib.closing(Cluster(tmp_path / "second")) as made:
        yield made


@pytest.fixture(autouse=True)
def cores() -> Iterator[None]:
    with harness.cores_for_a_cluster():
        yield


@pytest.fixture(autouse=True)
def deadline(request, cores):
    """No test waits for more than three minutes, a slow one for ten."""

    def late(number, frame):
        raise TimeoutError("the deadline of a test")

    saved = signal.signal(signal.SIGALRM, late)
    signal.alarm(600 if request.node.get_closest_marker("slow") else 180)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, saved)
