"""Parameter servers: the chief schedules the work, workers run it, ps hold the variables."""

import contextlib
import faulthandler
import functools
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.clusters.find import Cluster, cluster_timeout, has_evaluator
from tfbig.data.feeds.feed import Feed
from tfbig.data.feeds.index_feed import IndexFeed
from tfbig.errors import PeerLost, UserError
from tfbig.layers.sharded_tables import parameter_server_scope
from tfbig.placement.control.addresses import check_port_is_free, parse_address
from tfbig.placement.control.peers import Peers
from tfbig.placement.parameter_server import remote
from tfbig.placement.parameter_server.late_tables import LateTables
from tfbig.placement.parameter_server.liveness import addresses, lost_among, named, wait_for
from tfbig.placement.parameter_server.model_from_ps import fetch_model_from_ps
from tfbig.placement.parameter_server.scheduled_loop import ScheduledLoop
from tfbig.placement.parameter_server.server_updates import ServerUpdates
from tfbig.placement.parameter_server.serving_task import threads_for, versions
from tfbig.placement.parameter_server.synchronous_loop import SynchronousLoop
from tfbig.placement.parameter_server.variable_devices import VariableDevices
from tfbig.placement.placement import Placement
from tfbig.programs.updates import Updates
from tfbig.run_config import RunConfig

log = logging.getLogger("tfbig")

_CONNECT_SECONDS = 120  # once all tasks listen; it takes one or two
_CHECK_EVERY = 2.0  # seconds between two checks of the workers, while closures run


class ParameterServer(Placement):
    """The chief of a cluster with ps: its variables are on ps, its steps run on workers.

    The tf.distribute strategy only connects to the tasks, and its coordinator sends a closure to
    a worker, and to another one if the first is lost. Nothing is mirrored or reduced. So a step is
    traced as on one device: TensorFlow runs it on the worker, reads the variables from their ps,
    and updates them there.

    Args:
        cluster: with ps; this task is its chief.

    Attributes:
        workers, servers: how many of them and of ps there are.
        run_spec: what a worker has to know of the run before it reads data for it, as JSON.

    Raises:
        UserError: the tasks have different versions, or the chief's port is in use.
        PeerLost: a task has not started in time.
    """

    name = "parameter_server"
    compiles_whole_loop = compiles_parts = False
    runs_train_steps = runs_steps_again = False
    owner_obstacle = (
        "the state of the optimizer is on the ps already, and none is on the workers; leave it out"
    )

    def __init__(self, cluster: Cluster):
        super().__init__()
        self.workers = self.turns = len(cluster.jobs["worker"])
        self._servers = addresses(cluster.jobs, "ps")
        self.servers = len(self._servers)
        self._workers = addresses(cluster.jobs, "worker")
        self._devices = {
            f"{job} {i}": f"/job:{job}/replica:0/task:{i}"
            for job in ("ps", "worker")
            for i in range(len(cluster.jobs[job]))
        }
        self.peers = _Servers(self)
        self.run_spec: dict = {}
        self._number = 0  # of the run, from 1
        self._coordinator: tf.distribute.coordinator.ClusterCoordinator | None = None
        self._reconnect: Callable | None = None  # set while this process is disconnected
        if _private_api.runtime_has_started():
            raise UserError(
                "TensorFlow has started before the cluster was joined, and what was made before, a "
                "model say, is lost when it is; call train_distributed before any other TensorFlow "
                "operation (pass a function that builds the model, not a model)."
            )
        check_port_is_free(parse_address(cluster.address))
        wait_for({**self._servers, **self._workers}, cluster_timeout())
        # An operation that runs on several tasks blocks a thread here for each of them.
        tf.config.threading.set_inter_op_parallelism_threads(threads_for(cluster.jobs))
        self._strategy = _strategy(cluster)
        self._compare_versions()

    @override
    def check_config(self, config: RunConfig) -> None:
        pass  # all fields have a meaning here

    @override
    def begin_run(self, seed: int, config: RunConfig) -> None:
        self._number += 1
        self.run_spec = {
            "run": uuid.uuid4().hex,
            "number": self._number,
            "seed": seed,
            "parts": self.workers if config.max_staleness == 0 else 1,
            "blocks": self.workers,
        }
        if self._reconnect is not None:  # after an earlier run
            wait_for({**self._servers, **self._workers}, cluster_timeout())
            self._reconnect()
            self._reconnect = None
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(self._strategy)
        self._places = VariableDevices(
            [f"{self._devices[name]}/device:CPU:0" for name in self._servers]
        )

    @property
    @override
    def has_evaluator(self) -> bool:
        return has_evaluator()

    @override
    def wrap_feed(self, feed: Feed, name: str, config: RunConfig) -> IndexFeed:
        return IndexFeed(feed, name, self.workers, config.steps_per_loop)

    @override
    def make_loop(
        self, feed: IndexFeed, steps: Any, *, jit: bool, insist: bool = False
    ) -> ScheduledLoop:
        synchronous = steps.training and steps.config.max_staleness == 0
        kind = SynchronousLoop if synchronous else ScheduledLoop
        return kind(self, feed, steps, jit=jit, insist=insist)

    @override
    def deferred_tables(self, config: RunConfig) -> LateTables:
        return LateTables(consistent=config.max_staleness == 0)

    @override
    def fetch_model(self, builder: Any, program: Any, element_spec: Any, step: int) -> Any:
        if program.model is None:
            return None
        return fetch_model_from_ps(builder, program, element_spec, step, self.servers)

    @override
    def finish_run(self, result: dict[str, Any]) -> None:
        self.finish({"result": result})

    @contextlib.contextmanager
    @override
    def scope(self) -> Iterator[None]:
        with self._places.placing(), parameter_server_scope(self.servers):
            yield

    @override
    def owns(self, variable: tf.Variable) -> bool:
        return "/job:ps/" in variable.device

    def check_owned(self, variables: Iterable[tf.Variable]) -> None:
        """Checks that variables are on ps, and logs how many bytes each ps holds.

        Raises:
            UserError: some are not.
        """
        elsewhere = [v.name for v in variables if not self.owns(v)]
        if elsewhere:
            raise UserError(
                f"the variables {', '.join(elsewhere[:5])} are not on a ps; make them in model_fn, "
                "and not before it is called."
            )
        held = ", ".join(
            f"{name} {size / 1e6:.3g} MB"
            for name, size in zip(self._servers, self._places.bytes, strict=True)
        )
        log.info("variables: %s", held)

    def made_beside(self, variable: tf.Variable | None, make: Callable) -> tf.Variable:
        """Calls `make`, and places the variable that it makes on the ps of another one, or on any.

        Args:
            variable: whose ps; None: the one with the fewest bytes.
            make: makes the variable and returns it.
        """
        where = contextlib.nullcontext() if variable is None else self._places.beside(variable)
        with self.scope(), where:
            return make()

    def on_servers(self) -> contextlib.AbstractContextManager:
        """Places operations on large tensors on the ps that holds them; for traces of the chief.

        The ps do not know each other, so the chief runs what needs several of them. They send it
        scalars, and no gradients.
        """

        def device(operation: tf.Operation) -> str:
            if not operation.device:
                for tensor in operation.inputs:
                    if "/job:ps/" in tensor.device and tensor.shape.rank != 0:
                        return tensor.device
            return operation.device

        return tf.compat.v1.device(device)

    def schedule(self, function: Callable, arguments: Sequence[tf.Tensor]) -> Any:
        """Schedules a concrete function on some worker; its results can be fetched after `join`."""
        return self._coordinator.schedule(function, args=tuple(arguments))

    def join(self) -> None:
        """Waits until all that is scheduled has run.

        Raises:
            tf.errors.OpError: a closure has failed.
            PeerLost: no worker could be reached for the cluster's timeout.
        """
        alone_since, timeout = None, cluster_timeout()
        while not _private_api.wait_for_closures(self._coordinator, _CHECK_EVERY):
            began = time.monotonic()  # `lost_among` is slow where a machine is lost
            gone = lost_among(self._workers)
            if len(gone) < self.workers:
                alone_since = None
            elif alone_since is None:
                alone_since = began
            elif began - alone_since > timeout:
                raise PeerLost(f"{named(gone)}: no worker is left, for {timeout:g} s.")

    def lost_servers(self) -> dict[str, str]:
        """The ps that cannot be reached now, by name."""
        return lost_among(self._servers)

    def finish(self, message: dict) -> None:
        """Sends all tasks the end of the run, and disconnects from them.

        The variables on ps cannot be used from then on.

        Args:
            message: what JSON can hold; every task's `serve` returns it.
        """
        if self._coordinator is None:  # the run has failed before it started
            self._number += 1
        else:
            _private_api.stop_coordinator(self._coordinator)
            self._coordinator = None
        there = {**self._servers, **self._workers}
        for name in lost_among(there):
            del there[name]
        if self._reconnect is not None:  # an earlier run has ended, and this one has not started
            self._reconnect()
        for name in there:
            with contextlib.suppress(tf.errors.OpError):  # it was lost at this moment
                remote.send(self._devices[name], remote.END, {**message, "number": self._number})
        self._reconnect = _private_api.disconnect_from_cluster()

    @override
    def updates(self) -> Updates:
        return ServerUpdates(self._places.beside)

    @override
    def describe(self) -> str:
        return f"{self.workers} workers and {len(self._servers)} ps"

    def _compare_versions(self) -> None:
        mine = versions()
        for name, device in self._devices.items():
            theirs = remote.send(device, remote.HELLO, None)
            differ = [f"{n}: {theirs.get(n)}, the chief has {v}" for n, v in mine.items()
                      if theirs.get(n) != v]  # fmt: skip
            if differ:
                raise UserError(
                    f"{name} differs from the chief in {', '.join(differ)}. Run the same program, "
                    "with the same versions, on all tasks."
                )


class _Servers(Peers):
    """The chief decides by itself. A ps may be lost, and must know when the chief ends."""

    def __init__(self, placement: ParameterServer):
        self._placement = placement

    def wait_for_loss(self, timeout: float) -> PeerLost | None:
        gone = self._placement.lost_servers()
        if not gone:
            return None
        reason = (
            f"{named(gone)} cannot be reached any more, and the variables there are lost; start "
            "the job again, it goes on from its last checkpoint."
        )
        self.disconnect(reason)
        return PeerLost(reason)

    def disconnect(self, reason: str | None = None) -> None:
        self._placement.finish({"error": reason or "it has exited"})


def parameter_server(cluster: Cluster) -> ParameterServer:
    """The placement of a chief, the same for each call: a process can connect once."""
    return _once(cluster.kind, tuple(cluster.jobs.items()), cluster.task_index)


@functools.cache
def _once(kind: str, jobs: tuple, task_index: int) -> ParameterServer:
    return ParameterServer(Cluster(kind, dict(jobs), "chief", task_index))


def _strategy(cluster: Cluster) -> tf.distribute.ParameterServerStrategy:
    os.environ.setdefault("GRPC_FAIL_FAST", "use_caller")
    jobs = {job: list(tasks) for job, tasks in cluster.jobs.items()}
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs), task_type="chief", task_id=0, rpc_layer="grpc"
    )
    # TensorFlow waits forever for a task that listens and does not answer.
    faulthandler.dump_traceback_later(_CONNECT_SECONDS, exit=True, file=2)
    try:
        return tf.distribute.ParameterServerStrategy(resolver)
    finally:
        faulthandler.cancel_dump_traceback_later()
