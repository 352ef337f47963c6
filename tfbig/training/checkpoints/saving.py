"""When the checkpoints of a run are written, and how callbacks are notified."""

from collections.abc import Callable
from typing import Any

from tfbig.data.feeds.feed import Feed
from tfbig.programs.program import Program
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.checkpoints import Checkpoints

_ABANDON_SECONDS = 1.0  # for a checkpoint that is being written when the run fails


class Saving:
    """Writes the checkpoints of a run, and notifies callbacks of them.

    Args:
        checkpoints: where.
        program, feed: what is saved, besides the loop's state.
        callbacks: are notified, and have state that is saved.
        keep: what every checkpoint has in its metadata (seed, settings).
        state: returns the loop's state, which JSON can hold.
        unsaved: whether there is anything to save yet.

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
        """Writes a checkpoint, unless nothing has changed since the last one.

        Args:
            step: the global step.
            ended: what ended the run: "finished" for its last step, or "callback"; None: it has
                not ended.
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
            named=self._program.saves_by_name,
        )
        self.unsaved = self._due = False
        self._callbacks.saved()
        self.notify()

    def save_when_free(self, step: int) -> None:
        """Saves now; or in a later `poll`, if an earlier checkpoint is still being written."""
        self._due = self.unsaved and self._checkpoints.busy
        if not self._due:
            self.save(step)

    def poll(self, step: int) -> None:
        """Notifies callbacks of completed checkpoints, and saves if a checkpoint is pending."""
        self.notify()
        if self._due:
            self.save_when_free(step)

    def notify(self, wait: bool = False) -> None:
        """Notifies callbacks of the checkpoints that have been completed.

        Args:
            wait: for a checkpoint that is being written.
        """
        for step, path in self._checkpoints.completed_saves(wait):
            self._callbacks.checkpoint(step, path)

    def abandon(self) -> None:
        """Gives a checkpoint that is being written a moment; called when the run has failed."""
        self._checkpoints.abandon(_ABANDON_SECONDS)
