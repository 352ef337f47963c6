"""When a run's checkpoints are written, and who is told of them."""

from collections.abc import Callable
from typing import Any

from tfbig.data.feeds.feed import Feed
from tfbig.programs.program import Program
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints

_LATE_SECONDS = 1.0  # for a checkpoint that is being written when the run fails


class Saving:
    """Writes the checkpoints of a run, and lets callbacks know of them.

    Args:
        checkpoints: where.
        program, feed: what is kept, besides the loop's state.
        callbacks: are told, and have state of their own.
        keep: what every checkpoint's metadata hold (seed, settings).
        state: returns what the loop keeps, as JSON can hold it.
        unsaved: whether there is anything to be saved yet.

    Attributes:
        unsaved: whether anything has happened since the last checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        program: Program,
        feed: Feed,
        callbacks: CallbackRunner,
        *,
        keep: dict[str, Any],
        state: Callable[[], dict[str, Any]],
        unsaved: bool,
    ):
        self._checkpoints, self._program, self._feed = checkpoints, program, feed
        self._callbacks, self._keep, self._state = callbacks, keep, state
        self.unsaved, self._due = unsaved, False

    def save(self, step: int, ended: str | None = None) -> None:
        """Writes a checkpoint, unless nothing has happened since the last one.

        Args:
            step: the global step.
            ended: "finished" or "callback" if the run is over, and by whom.
        """
        if self._checkpoints.directory is None or not self.unsaved:
            return
        self._callbacks.saving(step)
        plain, arrays = self._callbacks.state()
        self._checkpoints.save(
            step,
            self._program.named_variables(),
            self._feed.trackables(),
            {
                **self._keep,
                "position": self._feed.position(),
                "loop": {**self._state(), "callbacks": plain, "ended": ended},
            },
            arrays,
            named=self._program.named,
        )
        self.unsaved = self._due = False
        self._callbacks.saved()
        self.tell()

    def save_when_free(self, step: int) -> None:
        """Saves; while an earlier checkpoint is being written, in the first `look` after that."""
        self._due = self.unsaved and self._checkpoints.busy
        if not self._due:
            self.save(step)

    def look(self, step: int) -> None:
        """Tells of what has been written meanwhile, and saves if that was waited for."""
        self.tell()
        if self._due:
            self.save_when_free(step)

    def tell(self, wait: bool = False) -> None:
        """Lets callbacks know of the checkpoints that are whole now.

        Args:
            wait: for one that is being written.
        """
        for step, path in self._checkpoints.completed_saves(wait):
            self._callbacks.checkpoint(step, path)

    def abandon(self) -> None:
        """The run has failed: what is being written gets a moment more."""
        self._checkpoints.abandon(_LATE_SECONDS)
