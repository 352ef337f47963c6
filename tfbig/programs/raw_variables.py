"""Metrics that keep their state in a tf.Variable, where it can be neither reset nor added up."""

import logging
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.observing import RecordingScope, assigned_handles, leaves

log = logging.getLogger("tfbig")


def refuse_raw_variables(
    metrics: Sequence[keras.metrics.Metric], update: Callable[..., None], symbols: tuple
) -> None:
    """Refuses metrics whose update assigns a tf.Variable that is not a metric's own weight.

    Args:
        metrics: that are reported, none of which holds another.
        update: updates them, from `symbols`.
        symbols: structures of KerasTensors.

    Raises:
        UserError: it names the metric, where it is known.
    """
    assigned: dict[int, str] = {}

    def traced(*tensors):
        graph = tf.compat.v1.get_default_graph()
        with RecordingScope():
            update(*tensors)
        assigned.update(assigned_handles(graph, 0))

    try:
        _private_api.traced_symbolically(traced, *symbols)
    except Exception as error:  # it may need batches of one size
        log.debug("the metrics could not be traced with batches of any size: %s", error)
    if not assigned:
        return
    owners = (
        f"the metric {metric.name} ({type(metric).__name__}) assigns the tf.Variable {name}"
        for metric in metrics
        for name, handle in _handles(metric)
        if handle in assigned
    )
    operations = ", ".join(assigned.values())
    raise UserError(
        f"{next(owners, f'a metric assigns a tf.Variable ({operations})')} in its update, which "
        "tfbig can neither reset nor add up over batches; make it with self.add_variable(…) in the "
        "__init__ of the metric, and change it with its assign methods."
    )


def _handles(metric: keras.metrics.Metric) -> Iterator[tuple[str, int]]:
    """The tf.Variables that a metric's attributes hold: names, and ids of their handles."""
    attributes = {k: v for k, v in vars(metric).items() if not k.startswith("_")}
    for name, leaf in leaves("self", attributes):
        for part in getattr(leaf, "values", None) or (leaf,):
            if isinstance(part, tf.Variable):
                yield name.replace("/", "."), id(part.handle)
