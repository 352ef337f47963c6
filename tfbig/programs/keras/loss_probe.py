"""What a loss gives for batches of other sizes, and of random numbers: found out by trying."""

import concurrent.futures
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.observing import RecordingScope, is_own
from tfbig.programs.program import Batch
from tfbig.programs.taken_features import taken_features

log = logging.getLogger("tfbig")

_COMPARE = (keras.losses.circle,)
_ROWS = 6
_SIZES = (97, 89)  # primes, which no other dimension of a tensor is likely to have
# Operations that change something or draw random numbers, by the beginnings of their names.
_ACTS = (
    *("Assign", "ResourceScatter", "Scatter", "Rng", "Random", "Multinomial", "Truncated"),
    *("Parameterized", "StatefulRandom", "StatefulStandard", "StatefulTruncated"),
    *("StatefulUniform", "PyFunc", "EagerPyFunc", "Print", "LookupTableI"),
)


class Sizes(NamedTuple):
    """The shapes of one tensor that is computed from batches of two sizes.

    Attributes:
        first, second: of a batch of `_SIZES[0]` and `_SIZES[1]` examples.
    """

    first: tf.TensorShape
    second: tf.TensorShape

    @property
    def of_examples(self) -> bool:
        """Whether it is [n, …], with as many values for every example."""
        return (
            bool(self.first.rank)
            and self.first.is_fully_defined()
            and (self.first[0], self.second[0]) == _SIZES
            and self.first[1:] == self.second[1:]
        )

    @property
    def grows(self) -> bool:
        """Whether its number of values is in proportion to the examples, or up to the data."""
        first, second = self.first.num_elements(), self.second.num_elements()
        return None in (first, second) or first * _SIZES[1] == second * _SIZES[0]


class _InnerScope(RecordingScope):
    """A scope inside another one: it reads the other's values and writes its own."""

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
        return value


def sizes_of(function: Callable, element: Any, variables: Iterable = ()) -> list[Sizes]:
    """The sizes of the tensors that a function returns, then of those that it gives to add_loss.

    It is traced, and never run.

    Args:
        function: from a structure like `element` to a structure of tensors.
        element: structure of tensors of shape [n, …] and of None.
        variables: keras.Variables that the scope of the trace has to know the values of.
    """
    tensors = [t for t in tf.nest.flatten(element) if t is not None]
    shapes: list = []

    def traced(*tensors):
        left = iter(tensors)
        with _InnerScope((v, v) for v in variables) as scope:
            found = function(
                tf.nest.map_structure(lambda t: None if t is None else next(left), element)
            )
            shapes.append([t.shape for t in (*tf.nest.flatten(found), *scope.losses)])
        return tf.zeros([])

    for rows in _SIZES:
        specs = [tf.TensorSpec(_known_shape(t, rows), t.dtype) for t in tensors]
        tf.function(traced, autograph=False).get_concrete_function(*specs)
    return [Sizes(*pair) for pair in zip(*shapes, strict=True)]


def sizes_of_losses(model: keras.Model, batch: Batch, training: bool) -> list[Sizes]:
    """Those of what a model's own compute_loss gives, if it has one, and of each add_loss.

    Raises:
        UserError: the model cannot be called with batches of other sizes.
    """

    def losses(element):
        features, labels, weight = element
        outputs = model(taken_features(model, features), training=training)
        if not _private_api.overrides(model, "compute_loss"):
            return []
        return _private_api.compute_loss(model, features, labels, outputs, weight, training)

    element = (batch.features, batch.labels, batch.sample_weight)
    try:
        # A thread of its own is in no replica, which could not wait for the others in a trace.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(sizes_of, losses, element, model.variables).result()
    except Exception as error:
        raise UserError(
            f"the model {model.name!r} has a loss with several values, and cannot be called with "
            f"{_SIZES[0]} examples to find out whether there is one value for each example "
            f"({str(error).strip().splitlines()[0]}); give add_loss a scalar, or train with "
            'strategy="one_device" and accumulation_steps=1.'
        ) from error


def is_known(loss: keras.losses.Loss) -> bool:
    """Whether a loss and its function are Keras's or tfbig's own."""
    return is_own(type(loss)) and is_own(getattr(loss, "fn", None))


def is_undivided(loss: keras.losses.Loss) -> bool:
    """Whether the values of a loss are summed and not divided: Keras's gradient is of their sum."""
    return loss.reduction in ("sum", None, "none") or _private_api.calls_itself(loss)


def sizes_of_values(loss: keras.losses.Loss, labels: Any, output: Any) -> Sizes | None:
    """The sizes of the values that a loss gives before they are reduced.

    None where it cannot be called with batches of other sizes.
    """
    call = _private_api.unreduced(loss)
    try:
        (sizes,) = sizes_of(lambda given: call(*given), (labels, output))
    except Exception as error:  # it may take batches of one size alone
        log.debug("%s could not be traced for batches of other sizes: %s", loss, error)
        return None
    return sizes


def compares_examples(loss: keras.losses.Loss, labels: Any, output: Any) -> bool:
    """Whether an example's value depends on the others of its batch, as in a contrastive loss.

    Keras's own are known. Others are given random numbers: a batch, and its two halves. False
    where that cannot be done, or not without changing something.

    Args:
        loss: gives values whose number grows with that of the examples, or their sum counts.
        labels, output: tensors of shape [n, …], of which the shapes and types count.
    """
    if is_known(loss):
        return getattr(loss, "fn", None) in _COMPARE
    call = tf.function(_private_api.unreduced(loss), autograph=False)
    try:
        with tf.init_scope(), RecordingScope() as scope:  # out of the trace
            random = np.random.default_rng(0)
            given = [_random(random, tensor) for tensor in (labels, output)]
            half = _ROWS // 2
            parts = (given, [t[:half] for t in given], [t[half:] for t in given])
            traced = [call.get_concrete_function(*part) for part in parts]
            if any(map(_acts, traced)) or scope.updated:
                return False
            whole, *halves = (
                function(*part).numpy() for function, part in zip(traced, parts, strict=True)
            )
    except Exception as error:  # it may need labels of a form that random numbers do not have
        log.debug("%s could not be tried on random numbers: %s", loss, error)
        return False
    if is_undivided(loss):
        return not np.allclose(whole.sum(), sum(half.sum() for half in halves), 1e-4, 1e-6)
    whole, apart = np.sort(whole, None), np.sort(np.concatenate([np.ravel(h) for h in halves]))
    return whole.shape != apart.shape or not np.allclose(whole, apart, 1e-4, 1e-6)


def _acts(function: Any) -> bool:
    graph = function.graph.as_graph_def()
    inner = (node for one in graph.library.function for node in one.node_def)
    return any(node.op.startswith(_ACTS) for node in (*graph.node, *inner))


def _known_shape(tensor: Any, rows: int) -> list[int]:
    return [rows, *(4 if size is None else size for size in tensor.shape[1:])]


def _random(random: np.random.Generator, tensor: Any) -> tf.Tensor:
    shape = _known_shape(tensor, _ROWS)
    if tensor.dtype.is_floating:
        return tf.constant(random.uniform(0.05, 0.95, shape), tensor.dtype)
    return tf.cast(random.integers(0, 2, shape), tensor.dtype)
