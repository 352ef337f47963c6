"""Which callbacks take part in a run: the user's, and those that every run has."""

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


def callbacks_of(given: Iterable[Any] | None, program: Program, is_chief: bool) -> list[Any]:
    """The user's callbacks, with summaries and a progress line unless there are such.

    Callbacks run on the chief; that a loss is NaN, every task sees.

    Args:
        given: callbacks, or lists of them, or None.
        program: built.

    Raises:
        UserError: one of them sets a learning rate that the program does not use, or monitors a
            metric that has several values.
    """
    callbacks = keras.tree.flatten([] if given is None else given)
    check_rates(callbacks, program)
    check_monitors(callbacks, program.metric_results())
    if not is_chief:
        return [callback for callback in callbacks if isinstance(callback, NaNGuard)]
    for kind, instead in ((Summaries, ()), (Progress, (keras.callbacks.ProgbarLogger,))):
        if not any(isinstance(callback, (kind, *instead)) for callback in callbacks):
            callbacks.append(kind())
    if program.summaries:
        callbacks.append(GraphSummaries(program.summaries))
    return callbacks
