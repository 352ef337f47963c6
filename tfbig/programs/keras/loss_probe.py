"""Tests what a loss computes for batches of other sizes and of random numbers."""

import concurrent.futures
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.feature_matching import match_features
from tfbig.programs.program import BatchPart
from tfbig.programs.tracing import RecordingScope, is_builtin

log = logging.getLogger("tfbig")

_COMPARE = (keras.losses.circle,)
_ROWS = 6
_SIZES = (97, 89)  # primes, which are unlikely sizes of other dimensions
# Operations with side effects or random results, by the beginnings of their names.
_STATEFUL = (
    *("Assign", "ResourceScatter", "Scatter", "Rng", "Random", "Multinomial", "Truncated"),
    *("Parameterized", "StatefulRandom", "StatefulStandard", "StatefulTruncated"),
    *("StatefulUniform", "PyFunc", "EagerPyFunc", "Print", "LookupTableI"),
)


class Sizes(NamedTuple):
    """The shapes of one tensor, computed from batches of two sizes.

    Attributes:
        first, second: the shapes for `_SIZES[0]` and `_SIZES[1]` examples.
    """

    first: tf.TensorShape
    second: tf.TensorShape

    @property
    def of_examples(self) -> bool:
        """Whether the shape is [n, …], with the same number of values for every example."""
        return (
            bool(self.first.rank)
            and self.first.is_fully_defined()
            and (self.first[0], self.second[0]) == _SIZES
            and self.first[1:] == self.second[1:]
        )

    @property
    def grows(self) -> bool:
        """Whether the number of values is proportional to the examples, or depends on the data."""
        first, second = self.first.num_elements(), self.second.num_elements()
        return None in (first, second) or first * _SIZES[1] == second * _SIZES[0]


class _InnerScope(RecordingScope):
    """A nested scope that reads values of the outer scope but writes only its own."""

    @override
    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value


def probe_sizes(function: Callable, element: Any, variables: Iterable = ()) -> list[Sizes]:
    """Traces a function for two batch sizes, and returns the shapes of its tensors.

    The function is never executed.

    Args:
        function: from a structure like `element` to a structure of tensors.
        element: structure of tensors of shape [n, …] and of None.
        variables: keras.Variables whose values the function reads in the scope of the trace.

    Returns:
        One entry per tensor that the function returns, then one per argument of add_loss.
    """
    tensors = [t for t in tf.nest.flatten(element) if t is not None]
    shapes: list = []

    def traced(*tensors):
        remaining = iter(tensors)
        with _InnerScope((v, v) for v in variables) as scope:
            found = function(
                tf.nest.map_structure(lambda t: None if t is None else next(remaining), element)
            )
            shapes.append([t.shape for t in (*tf.nest.flatten(found), *scope.losses)])
        return tf.zeros([])

    for rows in _SIZES:
        specs = [tf.TensorSpec(_known_shape(t, rows), t.dtype) for t in tensors]
        tf.function(traced, autograph=False).get_concrete_function(*specs)
    return [Sizes(*pair) for pair in zip(*shapes, strict=True)]


def probe_model_losses(model: keras.Model, batch: BatchPart, training: bool) -> list[Sizes]:
    """The sizes of the result of a custom compute_loss, if any, and of each add_loss.

    Raises:
        UserError: the model cannot be called with batches of other sizes.
    """

    def losses(element):
        features, labels, weight = element
        outputs = model(match_features(model, features), training=training)
        if not _private_api.overrides(model, "compute_loss"):
            return []
        return _private_api.compute_loss(model, features, labels, outputs, weight, training)

    element = (batch.features, batch.labels, batch.sample_weight)
    try:
        # A replica's thread may not trace a call by itself, because it waits for the others.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(probe_sizes, losses, element, model.variables).result()
    except Exception as error:
        raise UserError(
            f"the model {model.name!r} has a loss with several values, and cannot be called with "
            f"{_SIZES[0]} examples to find out whether there is one value for each example "
            f"({str(error).strip().splitlines()[0]}); give add_loss a scalar, or train with "
            'strategy="one_device" and accumulation_steps=1.'
        ) from error


def is_known(loss: keras.losses.Loss) -> bool:
    """Whether a loss and its function are defined in Keras or tfbig."""
    return is_builtin(type(loss)) and is_builtin(getattr(loss, "fn", None))


def is_undivided(loss: keras.losses.Loss) -> bool:
    """Whether Keras takes the gradient of the sum of a loss's values, without dividing it."""
    return loss.reduction in ("sum", None, "none") or _private_api.has_custom_call(loss)


def probe_loss_values(loss: keras.losses.Loss, labels: Any, output: Any) -> Sizes | None:
    """The sizes of a loss's unreduced values, or None if it accepts one batch size only."""
    call = _private_api.unreduced_loss(loss)
    try:
        (sizes,) = probe_sizes(lambda given: call(*given), (labels, output))
    except Exception as error:  # the loss may need a fixed batch size
        log.debug("%s could not be traced for batches of other sizes: %s", loss, error)
        return None
    return sizes


def compares_examples(loss: keras.losses.Loss, labels: Any, output: Any) -> bool:
    """Whether the value of an example depends on other examples, as in a contrastive loss.

    The answer is known for losses of Keras. Other losses are tested on a batch of random numbers
    and its two halves. The result is False if the test fails or would have side effects.

    Args:
        loss: its number of values is proportional to the examples, or it is reduced by a sum.
        labels, output: tensors of shape [n, …]. Only their shapes and dtypes matter.
    """
    if is_known(loss):
        return getattr(loss, "fn", None) in _COMPARE
    call = tf.function(_private_api.unreduced_loss(loss), autograph=False)
    try:
        with tf.init_scope(), RecordingScope() as scope:  # out of the trace
            random = np.random.default_rng(0)
            given = [_random(random, tensor) for tensor in (labels, output)]
            half = _ROWS // 2
            parts = (given, [t[:half] for t in given], [t[half:] for t in given])
            traced = [call.get_concrete_function(*part) for part in parts]
            if any(map(_has_side_effects, traced)) or scope.updated:
                return False
            whole, *halves = (
                function(*part).numpy() for function, part in zip(traced, parts, strict=True)
            )
    except Exception as error:  # the loss may need labels that random numbers cannot imitate
        log.debug("%s could not be tested on random numbers: %s", loss, error)
        return False
    if is_undivided(loss):
        return not np.allclose(whole.sum(), sum(half.sum() for half in halves), 1e-4, 1e-6)
    whole, joined = np.sort(whole, None), np.sort(np.concatenate([np.ravel(h) for h in halves]))
    return whole.shape != joined.shape or not np.allclose(whole, joined, 1e-4, 1e-6)


def _has_side_effects(function: Any) -> bool:
    graph = function.graph.as_graph_def()
    inner = (node for one in graph.library.function for node in one.node_def)
    return any(node.op.startswith(_STATEFUL) for node in (*graph.node, *inner))


def _known_shape(tensor: Any, rows: int) -> list[int]:
    return [rows, *(4 if size is None else size for size in tensor.shape[1:])]


def _random(random: np.random.Generator, tensor: Any) -> tf.Tensor:
    shape = _known_shape(tensor, _ROWS)
    if tensor.dtype.is_floating:
        return tf.constant(random.uniform(0.05, 0.95, shape), tensor.dtype)
    return tf.cast(random.integers(0, 2, shape), tensor.dtype)
