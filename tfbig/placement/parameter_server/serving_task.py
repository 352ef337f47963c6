"""A ps or a worker: it serves the chief, which hands out the work, until the job ends."""

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
from tfbig.errors import PeerLost
from tfbig.placement.clusters.find import Cluster
from tfbig.placement.control.addresses import check_port_is_free, parse_address
from tfbig.placement.control.peers import Peers
from tfbig.placement.parameter_server import remote
from tfbig.placement.parameter_server.chief_watch import ChiefWatch

log = logging.getLogger("tfbig")

_LOOK_EVERY = 2.0  # seconds, at the chief
_LINGER = 2.0  # before this process ends, for the chief to take its leave of its server
_SAVING = 100.0  # for the chief to save what is here and leave, after SIGTERM to this task


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
        self._told: dict[int, dict] = {}
        self._run_spec: bytes | None = None
        self._read: Callable | None = None
        self._failed: BaseException | None = None
        self._signal: int | None = None
        check_port_is_free(parse_address(cluster.address))
        os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")  # or a lost task is waited for
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
        """Whether it is a worker, which reads data, and no ps."""
        return self.cluster.task_type == "worker"

    def serve(self, make_read: Callable[[dict], Callable]) -> dict:
        """Returns what the chief tells when the run is done.

        Where a script trains several times, the runs are counted, here and by the chief: this
        call serves the run of its number. A task that was started again meanwhile has been told
        nothing of earlier ones; it returns {} from them, and catches up.

        Args:
            make_read: called in this thread, with the chief's run_spec, when data are first asked
                for; returns what reads them, called in other threads.

        Raises:
            PeerLost: the chief is gone, or did not come, or has failed.
        """
        self._number += 1
        with self._changed:
            self._read = None
        watch = ChiefWatch(self.cluster)
        with self._signals():
            while True:
                with self._changed:
                    self._changed.wait_for(self._has_news, _LOOK_EVERY)
                    run_spec = self._run_spec and json.loads(self._run_spec)
                    last = max([*self._told, run_spec["number"] - 1 if run_spec else 0])
                if last >= self._number:
                    return self._ended(self._told.get(self._number, {}))
                if run_spec is not None:
                    self._make(make_read, run_spec)
                watch.look()
                self._leave_if_signalled(watch)

    def _has_news(self) -> bool:
        asked = self._run_spec is not None and self._read is None and self._failed is None
        return asked or max(self._told, default=0) >= self._number

    def _make(self, make_read: Callable[[dict], Callable], run_spec: dict) -> None:
        if run_spec["number"] < self._number:
            raise PeerLost("the chief was started again from the beginning, so this task has to be")
        if self._read is not None or self._failed is not None:
            return
        try:
            read, failed = make_read(run_spec), None
        except Exception as error:  # the chief hears of it, and then all tasks end
            read, failed = None, error
        with self._changed:
            self._read, self._failed = read, failed
            self._changed.notify_all()

    def _read_when_ready(self, run_spec: bytes, *arguments: np.ndarray) -> list:
        """Called by the chief's closures."""
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
        # In this form the chief finds it in what TensorFlow makes of it.
        raise RuntimeError(f"{self.cluster.task}: {failed}") from failed

    def _end(self, told: bytes) -> list:
        value = json.loads(told)
        with self._changed:
            self._told[value["number"]] = value
            self._changed.notify_all()
        return _answer({})

    def _ended(self, told: dict) -> dict:
        atexit.unregister(time.sleep)
        atexit.register(time.sleep, _LINGER)
        with self._changed:
            if self._run_spec and json.loads(self._run_spec)["number"] <= self._number:
                self._run_spec = None
        if self._failed is not None:
            raise self._failed
        if told.get("error"):
            raise PeerLost(f"the chief has failed: {told['error']}")
        return told

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Keeps SIGTERM from ending this task while the chief saves what is here."""
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

    def _leave_if_signalled(self, watch: "ChiefWatch") -> None:
        if self._signal is None:
            return
        if watch.gone or time.monotonic() - self._signalled_at > _SAVING:
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
    """The cluster as a ps or worker sees it: it has no say in anything."""

    is_chief = False

    def __init__(self, cluster: Cluster):
        self._cluster = cluster

    def describe(self, index: int) -> str:
        return self._cluster.describe(index)


def threads_for(jobs: Mapping[str, Sequence[str]]) -> int:
    """How many parts of closures and calls a task can have at once; each holds a thread."""
    return 4 + 2 * sum(map(len, jobs.values()))


def versions() -> dict[str, str]:
    """What has to be the same for all tasks."""
    return {
        "tfbig": tfbig.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _answer(value: Any) -> list:
    return [np.array(json.dumps(value).encode(), object)]
