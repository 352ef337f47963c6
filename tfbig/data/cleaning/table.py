"""The columns of a Source: features taken apart and put together, and read as a table."""

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
        rows: int64 [n]; the examples' numbers in the source.
        labels: [n] class numbers or values, None where a label is no single value.
        others: [n] digests of all that is in no column; None when not asked for.
        unlabelled: bool [n], whether a label, or one of several, is missing; None: no labels.
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
        """Those examples: a bool mask or positions, which may repeat."""
        return Table(
            {name: column[which] for name, column in self.columns.items()},
            self.rows[which],
            None if self.labels is None else self.labels[which],
            None if self.others is None else self.others[which],
            None if self.unlabelled is None else self.unlabelled[which],
        )


def parts(element: Any) -> tuple[Any, Any, list]:
    """(features, labels, [weight]) of an element or a batch; None and [] where there is none."""
    if not isinstance(element, tuple):
        return element, None, []
    if len(element) not in (1, 2, 3):
        raise UserError(
            "Cleaning: expected examples of features, (features, labels) or (features, labels, "
            f"sample_weight), received {len(element)} parts."
        )
    return element[0], element[1] if len(element) > 1 else None, list(element[2:])


def split(features: Any) -> dict[str, Any]:
    """The columns of features: those of a dict, or "0", "1", … of an array [n, k]."""
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
    """The features that these columns make, in the structure of `features`."""
    if isinstance(features, dict):
        return columns
    if len(features.shape) != 2:
        return columns["0"]
    stack = tf.stack if tf.is_tensor(features) else np.stack
    return stack(list(columns.values()), axis=1)


def column_specs(spec: Any) -> dict[str, tf.TensorSpec]:
    """Of an element's features: a spec without the batch dimension for each column."""
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
    """Whether a column has one value an example: shape [n] or [n, 1]."""
    return spec.shape.as_list() in ([], [1])


def label_column(labels: Any) -> np.ndarray | None:
    """Labels as [n]: as they are, or the class numbers of one-hot ones; None for others."""
    if labels is None or isinstance(labels, (dict, tuple, list)):
        return None
    labels = np.asarray(labels)
    if labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1):
        return labels.reshape(-1)
    if labels.ndim == 2 and ((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all():
        return labels.argmax(1)
    return None


def chunks(source: Source, names: Collection[str] | None, digests: bool) -> Iterator[Table]:
    """Reads a source once, in its own order, without the records that are bad and left out.

    Args:
        source: read from.
        names: of the columns; None: all that have one value an example.
        digests: whether `others` is asked for.
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
            # copies of what is a part of a larger array, which may then be forgotten
            {name: np.ascontiguousarray(columns[name]).reshape(-1) for name in names},
            rows[kept],
            label_column(labels),
            _digests(columns, specs, labels) if digests else None,
            _unlabelled(labels),
        )


def read(source: Source, names: Collection[str] | None, digests: bool) -> Table:
    """All of `chunks` as one table."""
    pieces = list(chunks(source, names, digests))
    if not pieces:
        raise UserError(f"Cleaning: all of the {len(source)} records are bad.")

    def whole(values: Any) -> Any:
        values = list(values)
        return None if any(v is None for v in values) else np.concatenate(values)

    rows, labels = whole(p.rows for p in pieces), whole(p.labels for p in pieces)
    others, unlabelled = whole(p.others for p in pieces), whole(p.unlabelled for p in pieces)
    columns = {}
    for name in list(pieces[0].columns):  # one column at a time is there twice
        columns[name] = np.concatenate([piece.columns.pop(name) for piece in pieces])
    return Table(columns, rows, labels, others, unlabelled)


def _as_array(value: Any) -> Any:
    return value if tf.is_tensor(value) else np.asarray(value)


def _unlabelled(labels: Any) -> np.ndarray | None:
    """Whether a label of an example is missing, whatever their structure."""
    masks = [missing(np.asarray(a)) for a in tf.nest.flatten(labels) if a is not None]
    masks = [mask.reshape(len(mask), -1).any(1) for mask in masks]
    return np.logical_or.reduce(masks) if masks else None


def _digests(columns: dict, specs: dict, labels: Any) -> np.ndarray | None:
    """16 bytes for each example of what has several values: images, one-hot labels, tokens."""
    arrays = [np.asarray(columns[n]) for n, spec in specs.items() if not is_scalar(spec)]
    leaves = [] if labels is None else [np.asarray(a) for a in tf.nest.flatten(labels)]
    arrays += [a for a in leaves if a.ndim > 1 or tf.nest.is_nested(labels)]
    if not arrays:
        return None
    hashed = []
    for example in zip(*arrays, strict=True):
        hashing = blake2b(digest_size=16)
        for array in example:
            told = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
            hashing.update(told)
        hashed.append(hashing.digest())
    return np.array(hashed, object)


def _chunk_size(spec: Any) -> int:
    leaves = tf.nest.flatten(spec)
    width = sum(max(1, s.shape.num_elements()) * max(1, s.dtype.size or 64) for s in leaves)
    return int(np.clip(_CHUNK_BYTES // width, 64, 2**16))
