"""Weights of a Keras model in slices, one for each replica, which owns it (ZeRO stages 2 and 3)."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.placement.owner.layout import group_for_gather, width_of
from tfbig.placement.owner.slices import SlicedVariable, Store, StoredPart
from tfbig.placement.owner.weight_access import rows_of
from tfbig.placement.placement import Placement
from tfbig.programs.divided_weights import DividedWeights, is_divisible
from tfbig.programs.tensor_like import TensorLike

_numbers = itertools.count()
# Values of fewer bytes go into one collective operation; joining and splitting larger ones would
# take longer than another operation.
_JOINED_BYTES = 1 << 18


class SlicedWeight(TensorLike, SlicedVariable):
    """The value of a Keras variable that is stored in slices; what it is created from is dropped.

    Inside a replica of a traced step it converts to the gathered tensor.

    Args:
        placement: the placement of the replicas.
        value: the complete initial value.
        name: of the variable.

    Attributes:
        name: as that of a tf.Variable.
    """

    trainable = True

    def __init__(self, placement: Placement, value: Any, name: str):
        value = np.asarray(value)
        width = width_of(value.size, placement.num_replicas)
        zeros = lambda: tf.zeros([width], value.dtype)  # noqa: E731
        self._store = Store(placement, width, zeros, f"slice_of_{name}")
        part = StoredPart(self._store, 0, value.size, width)
        super().__init__(placement, [part], value.shape)
        self.name = f"{name}:0"
        self._unique_id = f"{name}_{next(_numbers)}"  # by which Keras's optimizers know it
        self.assign(value)

    @functools.cached_property
    def without_value(self) -> tf.Variable:
        """Stands for the variable in a graph that is traced for one replica, and has no memory."""
        return _private_api.variable_without_value(self.shape, self.dtype, self.name)

    def read_slice(self) -> tf.Tensor:
        """This replica's slice, inside a replica."""
        return tf.convert_to_tensor(self._store.variable)

    def assign_slice(self, value: tf.Tensor) -> tf.Operation:
        """Sets this replica's slice, inside a replica."""
        return _private_api.assign_in_replica(self._store.variable, value)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        if tf.executing_eagerly():
            value = tf.constant(self.numpy())
        elif _private_api.in_stateless_scope():
            # Keras traces a layer to find the shapes of its outputs; nothing is computed.
            value = tf.compat.v1.placeholder(self.dtype, self.shape)
        elif tf.distribute.in_cross_replica_context():
            raise UserError(
                f"the weight {self.name[:-2]!r} is in slices on {self._placement.num_replicas} "
                "replicas, and a tf.function outside of the training reads it; use tfbig.evaluate, "
                "tfbig.predict or tfbig.export with the result's model."
            )
        else:
            value = _gathered(self._placement, [self.read_slice()], [self.shape], ())[0]
        return value if dtype is None else tf.cast(value, dtype)


class _Owned(DividedWeights):
    """Gradients are added up into the slices of their owners.

    Args:
        placement: the placement of the replicas.
    """

    def __init__(self, placement: Placement):
        self._placement = placement

    @override
    def scatter(self, variables: Sequence, gradients: Sequence) -> list[tf.Tensor]:
        return _scattered(self._placement, [tf.convert_to_tensor(g) for g in gradients])


class OwnedWeights(_Owned):
    """Weights in slices, which are gathered before they are used.

    Args:
        placement: the placement of the replicas.
        prefetched: as the attribute.
    """

    def __init__(self, placement: Placement, prefetched: int):
        super().__init__(placement)
        self.prefetched = prefetched

    @override
    @contextlib.contextmanager
    def creating(self) -> Iterator[None]:
        """Stores weights of Keras that are created in the block in slices, one after the other.

        These are the variables of floats that are created as trainable, also if their layer is
        frozen later. What the forward pass changes, such as moving statistics, is not trainable.
        """

        def create(variable: keras.Variable, value: Any, plain: Callable) -> Any:
            if not is_divisible(variable):
                return plain()
            return self.stored(variable.path, value, variable.dtype)

        with _private_api.values_created_by(create):
            yield

    @override
    def stored(self, name: str, value: Any, dtype: Any) -> SlicedWeight:
        value = value() if callable(value) else value
        value = keras.ops.convert_to_numpy(keras.ops.cast(value, dtype))
        return SlicedWeight(self._placement, value, name)

    @override
    def divides(self, variable: Any) -> bool:
        return isinstance(_private_api.stored_value(variable), SlicedWeight)

    @override
    def slice_of(self, variable: Any) -> tf.Tensor:
        return _private_api.stored_value(variable).read_slice()

    @override
    def assign_slice(self, variable: Any, value: tf.Tensor) -> None:
        _private_api.stored_value(variable).assign_slice(value)

    @override
    def gather(
        self, variables: Sequence, slices: Sequence[tf.Tensor], after: Sequence[tf.Tensor] = ()
    ) -> list[tf.Tensor]:
        return _gathered(self._placement, slices, [v.shape for v in variables], after)


class OwnedGradients(_Owned):
    """Weights that each replica has as a whole, and gradients of which it gets its slice."""

    gathers = False

    @override
    def divides(self, variable: Any) -> bool:
        return is_divisible(variable)

    @override
    def slice_of(self, variable: Any) -> tf.Tensor:
        # Stands for the slice in the backward pass; the forward pass reads the variable.
        width = width_of(variable.shape.num_elements(), self._placement.num_replicas)
        return tf.zeros([width], _dtype_of(variable))

    @override
    def gather(
        self, variables: Sequence, slices: Sequence[tf.Tensor], after: Sequence[tf.Tensor] = ()
    ) -> list[tf.Tensor]:
        return [_read(_private_api.replica_copy(_private_api.stored_value(v))) for v in variables]


def _read(variable: tf.Variable) -> tf.Tensor:
    """The value of a variable, which the custom gradient around it must not take for a source."""
    value = tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)
    return tf.ensure_shape(value, variable.shape)


def _dtype_of(variable: Any) -> tf.DType:
    return _private_api.stored_value(variable).dtype


def _gathered(
    placement: Placement,
    slices: Sequence[tf.Tensor],
    shapes: Sequence[Any],
    after: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """The complete values of slices, small ones of one dtype in one collective operation."""
    values: list = [None] * len(slices)
    for group in _groups(slices, placement.num_replicas):
        with tf.control_dependencies(after):
            held = [tf.identity(slices[i]) for i in group]
        gathered = placement.gather_rows(_joined(held, 0))
        rows = tf.reshape(gathered, [placement.num_replicas, -1])
        for i, part in zip(group, _split(rows, [s.shape[0] for s in held]), strict=True):
            flat, shape = tf.reshape(part, [-1]), tf.TensorShape(shapes[i])
            values[i] = tf.reshape(flat[: shape.num_elements()], shape)
    return values


def _scattered(placement: Placement, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The slices of this replica of the sums of gradients."""
    rows = [rows_of(gradient, placement.num_replicas) for gradient in gradients]
    slices: list = [None] * len(rows)
    for group in _groups(rows, 1):
        total = placement.scatter_sum(_joined([rows[i] for i in group], 1))
        parts = _split(total[None], [rows[i].shape[1] for i in group])
        for i, part in zip(group, parts, strict=True):
            slices[i] = part[0]
    return slices


def _groups(tensors: Sequence[tf.Tensor], factor: int) -> list[list[int]]:
    """Indices of tensors that go into one collective operation, in which each is `factor` times."""
    order = sorted(range(len(tensors)), key=lambda i: tensors[i].dtype.name)
    dtypes = [tensors[i].dtype for i in order]
    sizes = [tensors[i].shape.num_elements() * factor for i in order]
    found = group_for_gather(sizes, dtypes, [dtype.size for dtype in dtypes], _JOINED_BYTES)
    return [[order[i] for i in group] for group in found]


def _joined(tensors: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis)


def _split(rows: tf.Tensor, widths: Sequence[int]) -> list[tf.Tensor]:
    return [rows] if len(widths) == 1 else tf.split(rows, widths, axis=1)
