"""The weights of one output's labels by their classes."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.errors import UserError


def is_class_weight(value: Any) -> bool:
    """Whether it maps class numbers to weights."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, (int, np.integer)) and k >= 0 for k in value)
        and all(isinstance(w, (Real, np.number)) and np.isfinite(w) for w in value.values())
    )


class LabelWeights:
    """Weighs the labels of one output, as arrays or as tensors.

    Args:
        output: its name or place, for messages; "" for the only one.
        spec: of its labels.
        class_weight: the weight of each class number; None: every label weighs 1.
        one_hot: whether the last dimension is that of the classes; None: the type decides.
        batched: whether the spec has the batch dimension.

    Raises:
        UserError: the labels have no classes, or may be one-hot or not.
    """

    def __init__(
        self,
        output: Any,
        spec: Any,
        class_weight: Mapping[int, float] | None,
        one_hot: bool | None,
        batched: bool,
    ):
        self._what = "the labels" + (f" {output!r}" if output != "" else "")
        if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
            raise UserError(
                f"with_class_weight: {self._what} are {spec!r}; expected a dense array of class "
                "numbers or one-hot rows of known rank."
            )
        shape = spec.shape.as_list() if batched else [None, *spec.shape]
        self._rank, self._table = len(shape), None
        if class_weight is None:
            return
        dtype = spec.dtype
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise UserError(
                f"with_class_weight: {self._what} are {dtype.name}; map them to class numbers "
                "before."
            )
        self._table = np.ones([max(int(k) for k in class_weight) + 1], np.float32)
        for number, weight in class_weight.items():
            self._table[int(number)] = weight
        self._one_hot = self._decided(one_hot, shape, dtype)
        self._column = not self._one_hot and self._rank > 1 and shape[-1] == 1
        self._exact = not self._one_hot and not dtype.is_floating

    def _decided(self, one_hot: bool | None, shape: list, dtype: tf.DType) -> bool:
        if self._rank == 1 or shape[-1] == 1:
            if one_hot:
                raise UserError(
                    f"one_hot=True, but {self._what} have the shape {_shown(shape)}, which has no "
                    "dimension of classes; leave one_hot out."
                )
            return False
        if one_hot is not None:
            return one_hot
        if dtype.is_floating:
            return True
        if shape[-1] is not None and len(self._table) > shape[-1]:
            return False  # class_weight has a class that a row of this length cannot show
        raise UserError(
            f"with_class_weight: {self._what}, {dtype.name} of shape {_shown(shape)}, may be one "
            f"class for each place, or one-hot. Write one_hot=False for one weight for each place "
            f"(sample_weight of shape {_shown(shape)}), or one_hot=True for one weight for each "
            f"row (of shape {_shown(shape[:-1])})."
        )

    def __call__(self, labels: Any, given: Any = None) -> Any:
        """The weights of a batch's labels, float32, times the weights that are given."""
        found = self._in_graph(labels) if tf.is_tensor(labels) else self._in_numpy(labels)
        if given is None:
            return found
        given = tf.cast(given, tf.float32) if tf.is_tensor(given) else np.asarray(given, "f4")
        ranks = len(found.shape), len(given.shape)
        return _of_rank(found, max(ranks)) * _of_rank(given, max(ranks))

    def _in_numpy(self, labels: Any) -> np.ndarray:
        labels = np.asarray(labels)
        if self._table is None:
            return np.ones([len(labels), *[1] * (self._rank - 2)], np.float32)
        if self._one_hot:
            sums = labels.sum(-1, dtype=np.float64)
            none = (labels == 0).all(-1)
            good = (labels >= 0).all(-1) & (none | (np.abs(sums - 1) < 0.01))
            numbers = np.where(none, -1, labels.argmax(-1))
        else:
            numbers = labels[..., 0] if self._column else labels
            good = self._exact or numbers == np.floor(numbers)
            if not self._exact:
                numbers = np.where(good, numbers, -1)
            numbers = numbers.astype(np.int64)
        if not np.all(good):
            raise UserError(self._wrong())
        known = (numbers >= 0) & (numbers < len(self._table))
        return np.where(known, self._table[np.where(known, numbers, 0)], np.float32(1))

    def _in_graph(self, labels: tf.Tensor) -> tf.Tensor:
        if self._table is None:
            return tf.ones([tf.shape(labels)[0], *[1] * (self._rank - 2)])
        if self._one_hot:
            labels = tf.cast(labels, tf.float32)
            sums = tf.reduce_sum(labels, -1)
            none = tf.reduce_all(labels == 0, -1)
            good = tf.reduce_all(labels >= 0, -1) & (none | (tf.abs(sums - 1) < 0.01))
            numbers = tf.where(none, tf.constant(-1, tf.int64), tf.argmax(labels, -1))
        else:
            numbers = labels[..., 0] if self._column else labels
            good = True if self._exact else tf.equal(numbers, tf.floor(numbers))
            if not self._exact:
                numbers = tf.where(good, numbers, tf.constant(-1, numbers.dtype))
            numbers = tf.cast(numbers, tf.int64)
        known = (numbers >= 0) & (numbers < len(self._table))
        found = tf.where(known, tf.gather(self._table, tf.where(known, numbers, 0)), 1.0)
        if self._exact:
            return found
        checked = tf.debugging.Assert(tf.reduce_all(good), [self._wrong()])
        with tf.control_dependencies([checked]):
            return tf.identity(found)

    def _wrong(self) -> str:
        if self._one_hot:
            return (
                f"with_class_weight: {self._what} are read as one-hot, but a row adds up to "
                "neither 1 nor 0; write one_hot=False for class numbers, or give sample weights."
            )
        return (
            f"with_class_weight: {self._what} are no class numbers (one is NaN, or no whole "
            "number); leave them out of class_weight, or map them before."
        )


def _of_rank(weight: Any, rank: int) -> Any:
    added = rank - len(weight.shape)
    if not added:
        return weight
    if tf.is_tensor(weight):
        return weight[(..., *[tf.newaxis] * added)]
    return weight.reshape(weight.shape + (1,) * added)


def _shown(shape: list) -> str:
    return "[" + ", ".join(["n", *("?" if d is None else str(d) for d in shape[1:])]) + "]"
