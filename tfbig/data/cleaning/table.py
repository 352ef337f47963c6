"""Splits features into columns and joins them again; reads a Source as a table."""

from collections.abc import Collection, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.bad_records import read_good
from tfbig.data.cleaning.values import missing
from tfbig.data.source import Source
from tfbig.errors import UserError

_CHUNK_BYTES = 2**24


class Table:
    """Some columns of some examples of a source.

    Args:
        columns: arrays of shape [n], by name.
        rows: int64 [n]; the example numbers in the source.
        labels: [n] class numbers or values; None if a label is not a single value.
        others: [n] digests of the values outside of the columns; None if not requested.
        unlabelled: bool [n], whether one of the example's labels is missing; None: no labels.
    """

    def __init__(
        self,
        columns: dict[str, np.ndarray],
        rows: np.ndarray,
        labels: np.ndarray | None = None,
        others: np.ndarray | None = None,
        unlabelled: np.ndarray | None = None,
    ):
        self.columns, self.rows, self.labels, self.others = columns, rows, labels, others
        self.unlabelled = unlabelled

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, which: np.ndarray) -> "Table":
        """Selects examples by a bool mask or by indices, which may repeat."""
        return Table(
            {name: column[which] for name, column in self.columns.items()},
            self.rows[which],
            None if self.labels is None else self.labels[which],
            None if self.others is None else self.others[which],
            None if self.unlabelled is None else self.unlabelled[which],
        )


def parts(element: Any) -> tuple[Any, Any, list]:
    """Unpacks an element or a batch to (features, labels or None, [weight] or [])."""
    if not isinstance(element, tuple):
        return element, None, []
    if len(element) not in (1, 2, 3):
        raise UserError(
            "Cleaning: expected examples of features, (features, labels) or (features, labels, "
            f"sample_weight), received {len(element)} parts."
        )
    return element[0], element[1] if len(element) > 1 else None, list(element[2:])


def split(features: Any) -> dict[str, Any]:
    """The columns of features: those of a dict, or "0", "1", … for an array [n, k]."""
    if isinstance(features, dict):
        for name, value in features.items():
            if tf.nest.is_nested(value) and not isinstance(value, list):
                raise UserError(
                    f"Cleaning: the feature {name!r} is a {type(value).__name__}; features are "
                    "a dict of arrays, or one array."
                )
        return {name: _as_array(value) for name, value in features.items()}
    if isinstance(features, (tuple, list)):
        raise UserError(
            f"Cleaning: the features are a {type(features).__name__}; expected a dict of columns "
            "or one array of shape [n, k]."
        )
    array = _as_array(features)
    if len(array.shape) == 2:
        return {str(number): array[:, number] for number in range(array.shape[1])}
    return {"0": array}


def join(columns: dict[str, Any], features: Any) -> Any:
    """Joins columns to features with the structure of `features`."""
    if isinstance(features, dict):
        return columns
    if len(features.shape) != 2:
        return columns["0"]
    stack = tf.stack if tf.is_tensor(features) else np.stack
    return stack(list(columns.values()), axis=1)


def column_specs(spec: Any) -> dict[str, tf.TensorSpec]:
    """The spec of each column, without the batch dimension, for the spec of features."""
    if isinstance(spec, tf.TensorSpec):
        if spec.shape.rank == 1:
            return {str(j): tf.TensorSpec([], spec.dtype) for j in range(spec.shape[0])}
        return {"0": spec}
    if not isinstance(spec, dict) or not all(isinstance(s, tf.TensorSpec) for s in spec.values()):
        raise UserError(
            f"Cleaning: the features are {spec!r}; expected a dict of columns or one array."
        )
    return dict(spec)


def is_scalar(spec: tf.TensorSpec) -> bool:
    """Whether a column has one value per example: shape [n] or [n, 1]."""
    return spec.shape.as_list() in ([], [1])


def label_column(labels: Any) -> np.ndarray | None:
    """Labels as an array [n], with class numbers for one-hot labels; None for other shapes."""
    if labels is None or isinstance(labels, (dict, tuple, list)):
        return None
    labels = np.asarray(labels)
    if labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
        return labels.reshape(-1)
    if labels.ndim == 2 and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
        return labels.argmax(1)
    return None


def chunks(source: Source, names: Collection[str] | None, digests: bool) -> Iterator[Table]:
    """Reads a source once, in its own order, without bad records that the source skips.

    Args:
        source: the source to read.
        names: names of the columns; None: all scalar columns.
        digests: whether to compute `others`.
    """
    specs = column_specs(parts(source.element_spec)[0])
    names = [n for n, spec in specs.items() if is_scalar(spec) and (names is None or n in names)]
    size = _chunk_size(source.element_spec)
    for start in range(0, len(source), size):
        rows = np.arange(start, min(start + size, len(source)))
        batch, kept = read_good(source, rows)
        if batch is None:
            continue
        features, labels, _ = parts(batch)
        columns = split(features)
        yield Table(
            # copies, so that the larger arrays of the batch can be freed
            {name: np.ascontiguousarray(columns[name]).reshape(-1) for name in names},
            rows[kept],
            label_column(labels),
            _digests(columns, specs, labels) if digests else None,
            _unlabelled(labels),
        )


def read(source: Source, names: Collection[str] | None, digests: bool) -> Table:
    """Reads a source as one table; see `chunks`."""
    pieces = list(chunks(source, names, digests))
    if not pieces:
        raise UserError(f"Cleaning: all {len(source)} records are bad.")

    def whole(values: Any) -> Any:
        values = list(values)
        return None if any(v is None for v in values) else np.concatenate(values)

    rows, labels = whole(p.rows for p in pieces), whole(p.labels for p in pieces)
    others, unlabelled = whole(p.others for p in pieces), whole(p.unlabelled for p in pieces)
    columns = {}
    for name in list(pieces[0].columns):  # only one column at a time is in memory twice
        columns[name] = np.concatenate([piece.columns.pop(name) for piece in pieces])
    return Table(columns, rows, labels, others, unlabelled)


def _as_array(value: Any) -> Any:
    return value if tf.is_tensor(value) else np.asarray(value)


def _unlabelled(labels: Any) -> np.ndarray | None:
    """Whether any label of each example is missing, for any structure of labels."""
    masks = [missing(np.asarray(a)) for a in tf.nest.flatten(labels) if a is not None]
    masks = [mask.reshape(len(mask), -1).any(1) for mask in masks]
    return np.logical_or.reduce(masks) if masks else None


def _digests(columns: dict, specs: dict, labels: Any) -> np.ndarray | None:
    """A digest of 16 bytes per example of its arrays: images, one-hot labels, tokens."""
    arrays = [np.asarray(columns[n]) for n, spec in specs.items() if not is_scalar(spec)]
    leaves = [] if labels is None else [np.asarray(a) for a in tf.nest.flatten(labels)]
    arrays += [a for a in leaves if a.ndim > 1 or tf.nest.is_nested(labels)]
    if not arrays:
        return None
    hashed = []
    for example in zip(*arrays, strict=True):
        hashing = blake2b(digest_size=16)
        for array in example:
            data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            hashing.update(data)
        hashed.append(hashing.digest())
    return np.array(hashed, object)


def _chunk_size(spec: Any) -> int:
    leaves = tf.nest.flatten(spec)
    width = sum(max(1, s.shape.num_elements()) * max(1, s.dtype.size or 64) for s in leaves)
    return int(np.clip(_CHUNK_BYTES // width, 64, 2**16))
