"""Where work runs and where parameters live: the interface that training uses."""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Feed
from tfbig.errors import UserError
from tfbig.placement.control.peers import Peers
from tfbig.placement.loop_function import LoopFunction
from tfbig.programs.updates import Updates
from tfbig.run_config import RunConfig


class Placement:
    """One device; the base of all other placements.

    Training asks a placement for what it needs, and never which placement it is. Another
    placement overrides what differs; docs/architecture.md lists what that can be.

    Attributes:
        name: the value of `strategy=` that asks for it.
        num_replicas: how many parts a global batch is split into, on all workers together.
        local_replicas: how many of them are in this process.
        first_replica: the number of the first one in this process.
        peers: the tasks that train together, as this one sees them.
        compiles_whole_loop: whether XLA can compile the loop with its variables; otherwise only
            a pure function of their values.
        compiles_parts: whether XLA can compile the computation of one replica's part of a batch.
        runs_train_steps: whether a model's own train_step can run here.
        runs_steps_again: whether a step can be run again by this task alone, to find an error.
        loops_with_collectives: whether replicas can communicate inside of a loop of their own.
        has_evaluator: whether another task evaluates the checkpoints.
        turns: in how many turns a Source in the order "block" is read, one for each reader of
            whole batches.
        owner_obstacle: why model_distribution="owner" is not possible here, and what to write
            instead, or None.
        device: the device's name, or None for TensorFlow's choice.
    """

    name = "one_device"
    num_replicas = 1
    first_replica = 0
    compiles_whole_loop = True
    compiles_parts = True
    runs_train_steps = True
    runs_steps_again = True
    loops_with_collectives = True
    has_evaluator = False
    turns = 1
    owner_obstacle: str | None = None

    def __init__(self, device: str | None = None):
        self.device = device
        self.peers = Peers()

    @property
    def local_replicas(self) -> int:
        """How many replicas are in this process."""
        return self.num_replicas // self.peers.count

    def check_config(self, config: RunConfig) -> None:
        """Refuses fields of a RunConfig that mean nothing here.

        Raises:
            UserError: it names the field.
        """
        if config.max_staleness is not None:
            raise UserError(
                f"RunConfig.max_staleness={config.max_staleness} is for "
                f'strategy="parameter_server", and this is "{self.name}"; leave it None.'
            )

    def begin_run(self, seed: int, config: RunConfig) -> None:
        """Prepares for a run, before its model is built; called once for each run.

        Args:
            seed: of the run.
            config: of the run.
        """

    def wrap_feed(self, feed: Feed, name: str, config: RunConfig) -> Feed:
        """Returns what the loop reads instead of a feed of this task's share of the data.

        Args:
            feed: reads the share.
            name: what the tasks call the data, "input_fn" or "eval_input_fn".
            config: of the run.
        """
        return feed

    def make_loop(self, feed: Feed, steps: Any, *, jit: bool, insist: bool = False) -> LoopFunction:
        """Makes what runs stacks of batches.

        Args:
            feed: as `wrap_feed` returned it.
            steps: makes the steps (`training.step.StepMaker`).
            jit, insist: as for LoopFunction.
        """
        return LoopFunction(self, feed, steps, jit=jit, insist=insist)

    def deferred_tables(self, config: RunConfig) -> Any:
        """Returns what writes tables while training goes on; None: the checkpoint has them all.

        Args:
            config: of the run.
        """
        return None

    def fetch_model(self, builder: Any, program: Any, element_spec: Any, step: int) -> Any:
        """Returns the trained keras.Model with its variables in this process, or None.

        Args:
            builder: of the model, or None for a model_fn.
            program: that was trained.
            element_spec: of its batches.
            step: the global step at which training ended.
        """
        return program.model

    def finish_run(self, result: dict[str, Any]) -> None:
        """Sends the result of a run to tasks that wait for its end.

        Args:
            result: fields of the TrainResult that JSON can hold.
        """

    def scope(self) -> contextlib.AbstractContextManager:
        """The scope in which variables are made and models are built."""
        return tf.device(self.device) if self.device else contextlib.nullcontext()

    def owns(self, variable: tf.Variable) -> bool:
        """Whether a variable was made in the scope."""
        return not isinstance(variable, tf.distribute.DistributedValues)

    def replica(self) -> Any:
        """The number of the replica that is being traced, 0 … num_replicas - 1."""
        return 0

    def run(self, fn: Callable, args: tuple) -> Any:
        """Runs `fn` on every replica, inside a trace; returns the first replica's result."""
        return fn(*args)

    def run_each(self, fn: Callable, args: tuple) -> list:
        """Like `run`, but returns the results of all replicas, in their order."""
        return [fn(*args)]

    def reduce_sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums tensors over the replicas, inside `run`; every replica gets the sums."""
        return tensors

    def scatter_sum(self, rows: tf.Tensor) -> tf.Tensor:
        """Sums [num_replicas, n] over the replicas, inside `run`; each gets its row of the sum."""
        return rows[0]

    def gather_rows(self, tensor: tf.Tensor) -> tf.Tensor:
        """The rows of all replicas in their order, inside `run`; each has equally many."""
        return tensor

    def updates(self) -> Updates:
        """How an optimizer's updates are carried out."""
        return Updates()

    def check_owned(self, variables: Iterable[tf.Variable]) -> None:
        """Checks that variables are where this placement has them."""

    def describe(self) -> str:
        """The placement in a few words, for the log."""
        return f"one device ({self.device or 'default'})"
