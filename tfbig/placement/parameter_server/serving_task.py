"""A ps or a worker: it serves the chief, which schedules the work, until the run ends."""

import atexit
import contextlib
import functools
import json
import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.clusters.find import Cluster
from tfbig.errors import PeerLost
from tfbig.placement.control.addresses import check_port_is_free, parse_address
from tfbig.placement.control.peers import Peers
from tfbig.placement.parameter_server import remote
from tfbig.placement.parameter_server.liveness import ChiefWatch

log = logging.getLogger("tfbig")

_CHECK_EVERY = 2.0  # seconds between two checks of the chief
_LINGER = 2.0  # seconds before this process exits, for the chief to disconnect from its server
_SAVE_SECONDS = 100.0  # after SIGTERM to this task, for the chief to save the variables here


class ServingTask:
    """This process, as a ps or worker: it runs what the chief sends.

    Args:
        cluster: with a chief; this task is a ps or a worker of it.

    Raises:
        UserError: its port is in use.
    """

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.peers = _Served(cluster)
        self._changed = threading.Condition()
        self._number = 0  # of the run that is served, from 1
        self._ended_runs: dict[int, dict] = {}  # by number, what the chief sent at the end
        self._run_spec: bytes | None = None
        self._read: Callable | None = None
        self._failed: BaseException | None = None
        self._signal: int | None = None
        check_port_is_free(parse_address(cluster.address))
        os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")  # else calls wait for a lost task
        remote.offer(remote.HELLO, lambda value: _answer(versions()))
        remote.offer(remote.END, self._end)
        remote.offer(remote.READ, self._read_when_ready)
        jobs = {job: list(addresses) for job, addresses in cluster.jobs.items()}
        self._server = tf.distribute.Server(
            tf.train.ClusterSpec(jobs),
            job_name=cluster.task_type,
            task_index=cluster.task_index,
            protocol="grpc",
            config=tf.compat.v1.ConfigProto(inter_op_parallelism_threads=threads_for(jobs)),
        )

    @property
    def trains(self) -> bool:
        """Whether this task is a worker, which reads data; False: a ps."""
        return self.cluster.task_type == "worker"

    def serve(self, make_read: Callable[[dict], Callable]) -> dict:
        """Serves one run, and returns what the chief sends at its end.

        A script may train several times. The runs are numbered, here and by the chief, and a call
        serves the run of its number. A task that was restarted has received nothing about earlier
        runs: for these it returns {} at once.

        Args:
            make_read: called in this thread, with the chief's run_spec, when the chief first
                needs data. It returns a function that reads them, which other threads call.

        Raises:
            PeerLost: the chief is lost, did not start, or has failed.
        """
        self._number += 1
        with self._changed:
            self._read = None
        watch = ChiefWatch(self.cluster)
        with self._signals():
            while True:
                with self._changed:
                    self._changed.wait_for(self._has_changed, _CHECK_EVERY)
                    run_spec = self._run_spec and json.loads(self._run_spec)
                    last = max([*self._ended_runs, run_spec["number"] - 1 if run_spec else 0])
                if last >= self._number:
                    return self._ended(self._ended_runs.get(self._number, {}))
                if run_spec is not None:
                    self._make(make_read, run_spec)
                watch.check()
                self._exit_if_signalled(watch)

    def _has_changed(self) -> bool:
        asked = self._run_spec is not None and self._read is None and self._failed is None
        return asked or max(self._ended_runs, default=0) >= self._number

    def _make(self, make_read: Callable[[dict], Callable], run_spec: dict) -> None:
        if run_spec["number"] < self._number:
            raise PeerLost("the chief was restarted from the beginning, so this task must be too")
        if self._read is not None or self._failed is not None:
            return
        try:
            read, failed = make_read(run_spec), None
        except Exception as error:  # is raised in the chief, and then all tasks end
            read, failed = None, error
        with self._changed:
            self._read, self._failed = read, failed
            self._changed.notify_all()

    def _read_when_ready(self, run_spec: bytes, *arguments: np.ndarray) -> list:
        """Reads batches; the closures of the chief call it."""
        with self._changed:
            if self._run_spec != bytes(run_spec):  # another run, or a chief that started again
                self._run_spec, self._read = bytes(run_spec), None
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._read or self._failed)
        failed = self._failed
        if failed is None:
            try:
                return self._read(*arguments)
            except Exception as error:
                failed = error
        # The chief finds this text in the error that TensorFlow raises there.
        raise RuntimeError(f"{self.cluster.task}: {failed}") from failed

    def _end(self, message: bytes) -> list:
        value = json.loads(message)
        with self._changed:
            self._ended_runs[value["number"]] = value
            self._changed.notify_all()
        return _answer({})

    def _ended(self, message: dict) -> dict:
        atexit.unregister(time.sleep)
        atexit.register(time.sleep, _LINGER)
        with self._changed:
            if self._run_spec and json.loads(self._run_spec)["number"] <= self._number:
                self._run_spec = None
        if self._failed is not None:
            raise self._failed
        if message.get("error"):
            raise PeerLost(f"the chief has failed: {message['error']}")
        return message

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Delays the end by SIGTERM until the chief has saved the variables of this task."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        saved = signal.signal(signal.SIGTERM, self._signalled)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, saved)

    def _signalled(self, number: int, frame: Any) -> None:
        del frame
        if self._signal is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal = number
        self._signalled_at = time.monotonic()

    def _exit_if_signalled(self, watch: "ChiefWatch") -> None:
        if self._signal is None:
            return
        if watch.is_unreachable or time.monotonic() - self._signalled_at > _SAVE_SECONDS:
            signal.signal(self._signal, signal.SIG_DFL)
            os.kill(os.getpid(), self._signal)


def serving_task(cluster: Cluster) -> ServingTask:
    """The ps or worker that this process is, the same for each call: it can be started once."""
    jobs = tuple(cluster.jobs.items())
    return _once(cluster.kind, jobs, cluster.task_type, cluster.task_index)


@functools.cache
def _once(kind: str, jobs: tuple, task_type: str, task_index: int) -> ServingTask:
    return ServingTask(Cluster(kind, dict(jobs), task_type, task_index))


class _Served(Peers):
    """The cluster as a ps or worker sees it: it decides nothing."""

    is_chief = False

    def __init__(self, cluster: Cluster):
        self._cluster = cluster

    def describe(self, index: int) -> str:
        return self._cluster.describe(index)


def threads_for(jobs: Mapping[str, Sequence[str]]) -> int:
    """How many closures and calls a task can run at once; each of them blocks a thread."""
    return 4 + 2 * sum(map(len, jobs.values()))


def versions() -> dict[str, str]:
    """The versions that must be the same for all tasks, by package."""
    return {
        "tfbig": tfbig.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _answer(value: Any) -> list:
    return [np.array(json.dumps(value).encode(), object)]
