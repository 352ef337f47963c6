"""What all tasks of a run must do in the same way, although only one of them decides it."""

import zlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Stack
from tfbig.errors import UserError
from tfbig.placement.control.peers import Peers
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.training.callbacks.callback import LoopCallback

# Keras's own callbacks that leave the weights as they are, until training ends.
_LEAVE_WEIGHTS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.EarlyStopping,
    keras.callbacks.History,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ModelCheckpoint,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
    keras.callbacks.TerminateOnNaN,
)


class Decision(NamedTuple):
    """What all tasks do after a call of the loop function.

    Attributes:
        stop: a callback has asked the run to end.
        signal: "SIGTERM" or "SIGINT" if any task was sent one, else None.
        save: a checkpoint is due by the clock.
        target: how many steps the call after the next one should have.
    """

    stop: bool
    signal: str | None
    save: bool
    target: int


class CallbackNeeds(NamedTuple):
    """What the chief's callbacks, which the other tasks do not run, need of the loop.

    Attributes:
        epochs: whether the loop stops at the end of each epoch.
        may_stop: whether a callback may end the run.
        guarded: whether a loss that is NaN ends the run in an error.
        jit: whether the step is compiled; the chief measures that.
        stops, frequencies, steps: where calls of the loop end, as in `CallbackRunner.call_ends`.
    """

    epochs: bool
    may_stop: bool
    guarded: bool
    jit: bool
    stops: list[int]
    frequencies: list[int]
    steps: list[int]


class Agreement:
    """Keeps the tasks of a run in agreement; for a single task it does nothing.

    Callbacks run on the chief only. What they change there (the learning rate, the weights) is
    sent to the other tasks before the next step.

    Args:
        program, placement: of this task.
        callbacks: the chief's.
    """

    def __init__(self, program: Program, placement: Placement, callbacks: Iterable[Any]):
        self._program, self._peers = program, placement.peers
        self._scope = placement.scope
        kinds = [type(callback) for callback in callbacks]
        self._may_change_rates = any(not _is_ours(kind) for kind in kinds)
        self._may_change_weights = any(
            not (_is_ours(kind) or kind in _LEAVE_WEIGHTS) for kind in kinds
        )
        self._known: dict[str, Any] = {}

    @property
    def is_single(self) -> bool:
        """Whether this task is the only one."""
        return self._peers.count == 1

    def decide(self, mine: Decision) -> Decision:
        """The decision of all tasks: the chief's, and a signal that any of them was sent."""
        if self.is_single:
            return mine
        every = [Decision(*values) for values in self._peers.all_gather(mine)]
        signals = [decision.signal for decision in every if decision.signal]
        return every[0]._replace(signal=signals[0] if signals else None)

    def before_run(self, stack: Stack | None, weights: bool | None = None) -> Stack | None:
        """Called before steps: sends the chief's variables, and compares the numbers of batches.

        Args:
            stack: what will be run; None: nothing.
            weights: whether callbacks may have changed the weights; None: as their classes imply.

        Returns:
            The stack, with the true sizes of its global batches where a worker has left out bad
            records.

        Raises:
            UserError: the tasks' data end at different steps.
        """
        if self.is_single:
            return stack
        changed = self._changed(self._may_change_weights if weights is None else weights)
        steps, missing = (stack.steps, _missing(stack)) if stack is not None else (0, {})
        every = self._peers.all_gather([steps, missing, changed])
        self._check_steps([steps for steps, *_ in every])
        if every[0][2]:
            self._take(every[0][2])
        return stack and _sync_batch_sizes(stack, [missing for _, missing, _ in every], self._peers)

    def after_run(self, weights: bool | None = None) -> None:
        """Called after steps: a variable that changes from now on was changed by a callback."""
        if not self.is_single and self._peers.is_chief:
            weights = self._may_change_weights if weights is None else weights
            self._known = self._fingerprints(weights) if self._may_change_rates else {}

    def share(self, value: Any) -> Any:
        """The chief's value, on every task."""
        return value if self.is_single else self._peers.broadcast(value)

    def _changed(self, weights: bool) -> list[str]:
        """The names of the variables that callbacks have changed on the chief."""
        if not self._peers.is_chief or not (self._may_change_rates or weights):
            return []
        now = self._fingerprints(weights)
        changed = [name for name, value in now.items() if self._known.get(name, value) != value]
        self._known.update(now)
        return changed

    def _take(self, names: list[str]) -> None:
        """Gives these variables the chief's values."""
        variables = _plain_variables(self._program)
        mine = {name: variables[name].numpy() for name in names} if self._peers.is_chief else None
        values = self._peers.broadcast_arrays(mine)
        if not self._peers.is_chief:
            with self._scope():
                for name, value in values.items():
                    variables[name].assign(value)

    def _fingerprints(self, weights: bool) -> dict[str, Any]:
        """A number for each variable that callbacks may change, which is cheap to compare."""
        found: dict[str, Any] = {}
        for name, variable in _plain_variables(self._program).items():
            if name.endswith("learning_rate"):
                found[name] = float(variable.numpy())
            elif weights and name.startswith("model/"):
                found[name] = _fingerprint(variable)
        return found

    def _check_steps(self, steps: list[int]) -> None:
        if len(set(steps)) > 1:
            counts = ", ".join(f"{n} for {self._peers.describe(i)}" for i, n in enumerate(steps))
            raise UserError(
                f"the tasks' data do not end at the same place: of the next batches there are "
                f"{counts}. Every task has to return the same data from input_fn; tfbig gives each "
                "its part."
            )


def broadcast_variables(program: Program, placement: Placement) -> None:
    """Gives all variables the chief's values; sends only those that differ."""
    peers, variables = placement.peers, _plain_variables(program)
    if peers.count == 1:
        return
    sums = {name: _fingerprint(variable) for name, variable in variables.items()}
    every = peers.all_gather(sums)
    differ = [name for name, value in sums.items() if any(other[name] != value for other in every)]
    if not differ:
        return
    mine = {name: variables[name].numpy() for name in differ} if peers.is_chief else None
    values = peers.broadcast_arrays(mine)
    if not peers.is_chief:
        with placement.scope():
            for name, value in values.items():
                variables[name].assign(value)


def sync_batch_sizes(stack: Stack, peers: Peers) -> Stack:
    """A stack with the true sizes of its global batches, without records that workers left out.

    All tasks call it together, with the stacks of the same steps.
    """
    return (
        stack
        if peers.count == 1
        else _sync_batch_sizes(stack, peers.all_gather(_missing(stack)), peers)
    )


def _missing(stack: Stack) -> dict[str, int]:
    """By index in the stack: how many examples of the batch this worker has left out."""
    return {str(index): int(stack.missing[index]) for index in np.flatnonzero(stack.missing)}


def _sync_batch_sizes(stack: Stack, missing: list[dict[str, int]], peers: Peers) -> Stack:
    if not any(missing):
        return stack
    sizes, offsets = stack.sizes.copy(), stack.offsets.copy()
    for worker, of_worker in enumerate(missing):
        for index, count in of_worker.items():
            sizes[int(index)] -= count
            offsets[int(index)] -= count if worker < peers.index else 0
    return stack._replace(sizes=sizes, offsets=offsets)


def _is_ours(kind: type) -> bool:
    return issubclass(kind, LoopCallback) and kind.__module__.startswith("tfbig.")


def _plain_variables(program: Program) -> dict[str, tf.Variable]:
    """The variables that every replica holds as a whole, by name."""
    return {n: v for n, v in program.named_variables().items() if isinstance(v, tf.Variable)}


def _fingerprint(variable: tf.Variable) -> int:
    return zlib.crc32(np.ascontiguousarray(variable.numpy()))
