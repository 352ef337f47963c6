"""Where a run resumes: at its own checkpoint, at one of tf.estimator, or at the start."""

import contextlib
import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tfbig.data.feeds.feed import Feed
from tfbig.errors import CheckpointError
from tfbig.placement.control.peers import Peers
from tfbig.programs.program import Program
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints, Restored
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint, latest

log = logging.getLogger("tfbig")


class Start(NamedTuple):
    """Where a run resumes.

    Attributes:
        step: the global step.
        began: the step at which the run started, in this process or an earlier one.
        last: the checkpoint that was restored, or None.
        ended: `last` was written at the end of its run, and a new run begins here.
    """

    step: int = 0
    began: int = 0
    last: Restored | None = None
    ended: bool = False

    @property
    def restored(self) -> Restored | None:
        """The checkpoint that the run continues, or None for a new run."""
        return None if self.ended else self.last

    @property
    def data_began(self) -> int:
        """The step at which the data were at their start."""
        return self.step if self.last is not None and self.last.lost else self.began


def resume(
    program: Program, checkpoints: Checkpoints, peers: Peers, feed: Feed, *, repeats: bool
) -> Start:
    """Restores the program's variables and the data's position from the newest checkpoint.

    Args:
        program, feed: built.
        checkpoints: of the model_dir.
        peers: all of them call this together.
        repeats: as in RunOptions.
    """
    _check_settings(program, checkpoints, peers)

    def trackables(metadata: dict) -> dict:
        if repeats and metadata["loop"]["ended"]:
            return {}
        feed.restore_position(metadata["position"])
        return feed.trackables()

    restored = restore_on_all_workers(checkpoints, peers, program.named_variables(), trackables)
    if restored is None:
        return _of_estimator(program, checkpoints, peers)
    log.info("resuming from %s", restored.path)
    if restored.lost:
        feed.restart(restored.lost)
    ended = repeats and restored.metadata["loop"]["ended"] is not None
    began = restored.step if ended else restored.metadata.get("began", 0)
    return Start(restored.step, began, restored, ended)


def broadcast_assign(program: Program, values: dict[str, np.ndarray] | None, peers: Peers) -> None:
    """Gives variables the chief's values on every task.

    Args:
        program: whose variables.
        values: by name in `named_variables`; those of other tasks than the chief do not matter.
        peers: the tasks.
    """
    variables = program.named_variables()
    for name, value in peers.broadcast_arrays(values if peers.is_chief else None).items():
        variables[name].assign(value)


def is_done(start: Start, end: int | None, may_stop: bool, model_dir: str | None) -> bool:
    """Whether the run of the restored checkpoint has ended; logs why nothing is trained.

    Args:
        start: with a checkpoint.
        end: the last step of this run; None: the data's end.
        may_stop: whether there are callbacks that may have ended that run.
        model_dir: for the message.
    """
    restored = start.last
    ended = restored.metadata["loop"]["ended"]
    if end is not None and restored.step >= end:
        log.info(
            "nothing to train: step %d is reached already in %s; give another model_dir, or "
            "a higher max_steps",
            restored.step,
            model_dir,
        )
        return ended is not None  # otherwise the last evaluation is still to come
    if ended == "callback" and may_stop and not start.ended:
        log.info(
            "nothing to train: a callback ended this run at step %d; give another model_dir, "
            "or leave that callback out to go on",
            restored.step,
        )
        return True
    return False


def begin_epoch_again(program: Program, callbacks: CallbackRunner, epoch: int) -> None:
    """Calls on_epoch_begin for an epoch that an earlier process started.

    Callbacks prepare for the epoch. A learning rate that one of them sets then is in the
    checkpoint already, so the rates are restored afterwards.
    """
    with _kept_rates(program):
        callbacks.epoch_begin(epoch)


@contextlib.contextmanager
def _kept_rates(program: Program) -> Iterator[None]:
    """Restores the learning rates at the end of the block."""
    rates = [
        (variable, variable.numpy())
        for name, variable in program.named_variables().items()
        if name.endswith("learning_rate")
    ]
    yield
    for variable, value in rates:
        variable.assign(value)


def restore_on_all_workers(
    checkpoints: Checkpoints, peers: Peers, variables: dict, trackables: Callable[[dict], dict]
) -> Restored | None:
    """Restores the chief's newest checkpoint on every task.

    A task that sees the chief's folder reads it there. The others receive the files.

    Args:
        checkpoints, variables, trackables: as for Checkpoints.restore.
        peers: the tasks.
    """
    restored = checkpoints.restore(variables, trackables) if peers.is_chief else None
    if peers.count == 1:
        return restored
    found = peers.broadcast([restored.path, _contents(restored.path)] if restored else None)
    if found is None:
        return None
    path, contents = found
    wanted = not peers.is_chief and _contents(path) != contents
    with tempfile.TemporaryDirectory(prefix="tfbig-checkpoint-") as folder:
        copy = os.path.join(folder, os.path.basename(path))
        if any(peers.all_gather(wanted)):
            peers.broadcast_files(path if peers.is_chief else None, wanted, copy)
        if not peers.is_chief:
            restored = checkpoints.restore_from(copy if wanted else path, variables, trackables)
    return restored._replace(path=path)


def _contents(path: str) -> dict[str, list[int]] | None:
    """The size of each file in a folder, and a checksum of the small ones; None: no folder."""
    try:
        return {name: _of_file(os.path.join(path, name)) for name in sorted(os.listdir(path))}
    except OSError:
        return None


def _of_file(path: str) -> list[int]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        return [size, zlib.crc32(file.read()) if size < 2**20 else 0]


def _of_estimator(program: Program, checkpoints: Checkpoints, peers: Peers) -> Start:
    """Reads a checkpoint that tf.estimator has left in the model_dir, if there is one."""
    found, values = None, None
    folder = checkpoints.model_dir
    if peers.is_chief and program.saves_by_name and folder is not None and not checkpoints.steps():
        found = latest(folder)
        if found is not None:
            values = NamedCheckpoint(found).values_for(program.named_variables())
    path, step = peers.broadcast([found, found and NamedCheckpoint(found).step])
    if path is None:
        return Start()
    broadcast_assign(program, values, peers)
    log.info("going on from %s, a checkpoint of tf.estimator, on data from their start", path)
    return Start(step, step)


def _check_settings(program: Program, checkpoints: Checkpoints, peers: Peers) -> None:
    settings = program.settings() if peers.is_chief else {}
    kept = checkpoints.metadata() if settings else None
    for name, now in settings.items() if kept else ():
        before = kept[1].get("settings", {}).get(name, now)
        if before != now:
            raise CheckpointError(
                f"the checkpoint of step {kept[0]} in {checkpoints.model_dir} was written with "
                f"other {name} ({before}, now {now}); write what it was, or give another model_dir."
            )
