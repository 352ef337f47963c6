"""When: the steps at which the loop stops to log, evaluate, end an epoch or save."""

import dataclasses

from tfbig.data.feeds.feed import Feed


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps at which a run does something else than train; None: never.

    Attributes:
        end: the last step.
        log, summary, checkpoint, evaluate, epoch: every so many steps.
        phases: steps at which other variables begin to be trained.
        marks: steps at which callbacks want a call to end.
        start: the step at which this process begins.
        others: every so many steps, counted from `start`, callbacks want a call to end.
        frequencies: every so many steps, counted from 0, callbacks want a call to end.
    """

    end: int | None
    log: int
    summary: int | None = None
    checkpoint: int | None = None
    evaluate: int | None = None
    epoch: int | None = None
    phases: tuple[int, ...] = ()
    start: int = 0
    others: tuple[int, ...] = ()
    frequencies: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()

    def next_stop(self, step: int) -> int | None:
        """The first step after `step` at which the loop has to stop."""
        stops = [known for known in (*self.phases, *self.marks) if known > step]
        if self.end is not None:
            stops.append(self.end)
        named = (self.log, self.summary, self.checkpoint, self.evaluate, self.epoch)
        for every in (*named, *self.frequencies):
            if every is not None:
                stops.append((step // every + 1) * every)
        since = step - self.start
        stops += [self.start + (since // every + 1) * every for every in self.others]
        return min(stops, default=None)

    def due(self, name: str, step: int) -> bool:
        """Whether `name` is due at a step."""
        every = getattr(self, name)
        return every is not None and step > 0 and step % every == 0


def end_of(
    max_steps: int | None, epochs: int | None, steps_per_pass: int | None, repeats: bool
) -> tuple[int | None, int | None]:
    """The last step and the number of passes over the data that end a run.

    Args:
        max_steps, epochs: as in train_distributed, at most one of them given.
        steps_per_pass: batches in one pass, or None: not known.
        repeats: whether the data start anew at their end by themselves, as a Source does.

    Returns:
        (step or None, passes or None); at least one of them.
    """
    if not repeats:
        return max_steps, epochs or 1
    return (max_steps if max_steps is not None else (epochs or 1) * steps_per_pass), None


def end_of_data(epochs: int | None, feed: Feed, began: int) -> int | None:
    """The step at which the data end; None: not known, or they start anew by themselves.

    Args:
        epochs: as in train_distributed.
        feed: of training.
        began: the step at which the data were at their start.
    """
    if feed.repeats or feed.steps_per_pass is None:
        return None
    return began + (epochs or 1) * feed.steps_per_pass


def power_of_two(steps: float) -> int:
    """The largest power of two that is not above; sizes so do not change with every call."""
    return 1 << max(int(steps), 1).bit_length() - 1
