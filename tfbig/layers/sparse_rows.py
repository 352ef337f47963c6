"""SparseTensors in batches, as dense tensors that can be cut into rows, stacked and padded."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.errors import UserError


class SparseRows(NamedTuple):
    """A SparseTensor of rank r with n rows, of which no row has more than k values.

    Attributes:
        values: [n, k], the values of each row in their order, then zeros or empty strings.
        places: int64 [n, k, r - 1], the indices of each value in its row.
        counts: int64 [n], how many values each row has.
        shape: int64 [n, r - 1], the dense shape of a row, the same in each.
    """

    values: Any
    places: Any
    counts: Any
    shape: Any


def to_rows(sparse: tf.SparseTensor) -> SparseRows:
    """Converts a SparseTensor, [n, …]; without values k is 0."""
    sparse = tf.sparse.reorder(sparse)
    rows, n = sparse.indices[:, 0], sparse.dense_shape[0]
    width = sparse.shape.rank - 1
    values = tf.RaggedTensor.from_value_rowids(sparse.values, rows, n, validate=False)
    places = tf.RaggedTensor.from_value_rowids(sparse.indices[:, 1:], rows, n, validate=False)
    shape = tf.broadcast_to(sparse.dense_shape[1:], [n, width])
    static = sparse.shape[0]
    values, places = values.to_tensor(), places.to_tensor(shape=[None, None, width])
    counts = tf.math.bincount(
        tf.cast(rows, tf.int32), minlength=tf.cast(n, tf.int32), dtype=tf.int64
    )
    return SparseRows(
        tf.ensure_shape(values, [static, None]),
        tf.ensure_shape(places, [static, None, width]),
        tf.ensure_shape(counts, [static]),
        tf.ensure_shape(shape, [static, width]),
    )


def from_rows(rows: SparseRows) -> tf.SparseTensor:
    """Converts back; the result is in the usual order."""
    mask = tf.sequence_mask(rows.counts, tf.shape(rows.values)[1])
    row = tf.where(mask)[:, :1]
    n = tf.shape(rows.values, tf.int64)[:1]
    return tf.SparseTensor(
        tf.concat([row, tf.boolean_mask(rows.places, mask)], axis=1),
        tf.boolean_mask(rows.values, mask),
        tf.concat([n, tf.maximum(tf.reduce_max(rows.shape, axis=0), 0)], axis=0),
    )


def with_rows(structure: Any) -> Any:
    """Replaces the SparseTensors in a structure of tensors."""
    return tf.nest.map_structure(
        lambda leaf: to_rows(leaf) if isinstance(leaf, tf.SparseTensor) else leaf, structure
    )


def with_sparse(structure: Any) -> Any:
    """Replaces the SparseRows in a structure of tensors by SparseTensors."""
    if isinstance(structure, SparseRows):
        return from_rows(structure)
    if not _has_rows(structure):
        return structure
    if isinstance(structure, Mapping):
        found: Any = copy.copy(structure)
        for key, value in structure.items():
            found[key] = with_sparse(value)
        return found
    values = map(with_sparse, structure)
    return type(structure)(*values) if hasattr(structure, "_fields") else type(structure)(values)


def _has_rows(structure: Any) -> bool:
    if isinstance(structure, SparseRows):
        return True
    if isinstance(structure, Mapping):
        return any(map(_has_rows, structure.values()))
    return isinstance(structure, (tuple, list)) and any(map(_has_rows, structure))


def rows_dataset(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Replaces the SparseTensors in a Dataset's elements; without any, it is the same Dataset."""
    leaves = tf.nest.flatten(dataset.element_spec)
    if not any(isinstance(spec, tf.SparseTensorSpec) for spec in leaves):
        return dataset
    for spec in leaves:
        if isinstance(spec, tf.SparseTensorSpec) and not (spec.shape.rank or 0) > 1:
            raise UserError(
                f"the Dataset has a SparseTensor of shape {spec.shape}; expected [batch, …]: use "
                "dataset.batch(64), and tf.sparse.reshape where the rank is unknown."
            )
    return dataset.map(lambda *element: with_rows(element if len(element) > 1 else element[0]))
