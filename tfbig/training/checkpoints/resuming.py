"""Where a run goes on: from its own checkpoint, from one of tf.estimator's, or from the start."""

import logging
from typing import NamedTuple

import numpy as np

from tfbig.data.feeds.feed import Feed
from tfbig.errors import CheckpointError
from tfbig.placement.control.peers import Peers
from tfbig.programs.program import Program
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints, Restored
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint, latest
from tfbig.training.checkpoints.rates import kept_rates
from tfbig.training.checkpoints.restore_everywhere import restore_on_all_workers
from tfbig.training.loop.schedule import Schedule

log = logging.getLogger("tfbig")


class Start(NamedTuple):
    """Where a run goes on.

    Attributes:
        step: the global step.
        began: the step at which the run began, in this process or an earlier one.
        last: the checkpoint that was restored, or None.
        ended: `last` was written at the end of its run, and a new run begins here.
    """

    step: int = 0
    began: int = 0
    last: Restored | None = None
    ended: bool = False

    @property
    def restored(self) -> Restored | None:
        """What the run itself goes on from."""
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
        feed.go_to(metadata["position"])
        return feed.trackables()

    restored = restore_on_all_workers(checkpoints, peers, program.named_variables(), trackables)
    if restored is None:
        return _of_estimator(program, checkpoints, peers)
    log.info("resuming from %s", restored.path)
    if restored.lost:
        feed.begin_again(restored.lost)
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


def is_done(start: Start, schedule: Schedule, may_stop: bool, model_dir: str | None) -> bool:
    """Whether the run that a checkpoint was restored from has ended, and says so.

    Args:
        start: with a checkpoint.
        schedule: of this run.
        may_stop: whether there are callbacks that may have ended it.
        model_dir: for the message.
    """
    restored = start.last
    ended = restored.metadata["loop"]["ended"]
    if schedule.end is not None and restored.step >= schedule.end:
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
    """Tells callbacks of an epoch that an earlier process began.

    They set themselves up for it; what one of them does to the learning rate at an epoch's
    begin is in the checkpoint already, and is not done twice.
    """
    with kept_rates(program):
        callbacks.epoch_begin(epoch)


def _of_estimator(program: Program, checkpoints: Checkpoints, peers: Peers) -> Start:
    """Reads a checkpoint that tf.estimator has left in the model_dir, if there is one."""
    found, values = None, None
    folder = checkpoints.model_dir
    if peers.is_chief and program.named and folder is not None and not checkpoints.steps():
        found = latest(folder)
        if found is not None:
            values = NamedCheckpoint(found).values_for(program.named_variables())
    told = peers.broadcast([found, found and NamedCheckpoint(found).step])
    if told[0] is None:
        return Start()
    broadcast_assign(program, values, peers)
    log.info("going on from %s, a checkpoint of tf.estimator, on data from their start", told[0])
    return Start(told[1], told[1])


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
