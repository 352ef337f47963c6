"""Selects the callbacks of a run: those of the user, and those that every run has."""

from collections.abc import Iterable
from typing import Any

import keras

from tfbig.programs.program import Program
from tfbig.training.callbacks.fit_logs import check_monitors
from tfbig.training.callbacks.graph_summaries import GraphSummaries
from tfbig.training.callbacks.nan_guard import NaNGuard
from tfbig.training.callbacks.progress import Progress
from tfbig.training.callbacks.summaries import Summaries
from tfbig.training.step.own_train_step import check_rates


def select_callbacks(given: Iterable[Any] | None, program: Program, is_chief: bool) -> list[Any]:
    """Returns the user's callbacks, with Summaries and a Progress added if they are missing.

    Callbacks run on the chief. A NaNGuard also runs on the other tasks, which see the same loss.

    Args:
        given: callbacks, or lists of them, or None.
        program: the program of the run, already built.
        is_chief: whether this task is the chief.

    Raises:
        UserError: a callback sets a learning rate that the program does not use, or monitors a
            metric that has several values.
    """
    callbacks = keras.tree.flatten([] if given is None else given)
    check_rates(callbacks, program)
    check_monitors(callbacks, program.metric_results())
    if not is_chief:
        return [callback for callback in callbacks if isinstance(callback, NaNGuard)]
    for kind, replacements in ((Summaries, ()), (Progress, (keras.callbacks.ProgbarLogger,))):
        if not any(isinstance(callback, (kind, *replacements)) for callback in callbacks):
            callbacks.append(kind())
    if program.summaries:
        callbacks.append(GraphSummaries(program.summaries))
    return callbacks
