"""Class weights as sample weights, for Sources and Datasets alike."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfbig.data.source import Source
from tfbig.errors import UserError

Data = TypeVar("Data", Source, tf.data.Dataset)


def with_class_weight(
    data: Data,
    class_weight: Mapping[int, float] | Mapping[str, Mapping[int, float]] | Sequence,
    *,
    one_hot: bool | Mapping[str, bool] | Sequence | None = None,
) -> Data:
    """Gives every label the weight of its class, as Keras's `fit(class_weight=…)` does.

    Keras supports one output with one class per example. Here a model may have several outputs,
    and an example may have several positions (time steps, pixels) with one class each.

    Example:

        def input_fn():
            return tfbig.data.with_class_weight(source.batch(64), {0: 1.0, 1: 5.0})

        # Labels {"kind": [n], "price": [n, 1]}: a weight for each class of "kind".
        tfbig.data.with_class_weight(source.batch(64), {"kind": {0: 1.0, 1: 5.0}})

        # Labels [n, time], int: one class for each time step, and so one weight for each.
        tfbig.data.with_class_weight(source.batch(64), {0: 1.0, 1: 5.0}, one_hot=False)

    Args:
        data: a Source or a batched Dataset of `(features, labels)` or
            `(features, labels, sample_weight)`; labels are an array, or a dict or a tuple with one
            array per output. An array holds class numbers of shape [n] or [n, 1], or
            [n, positions…] or [n, positions…, 1]; or it is one-hot, of shape [n, classes] or
            [n, positions…, classes].
        class_weight: weight of each class number; other classes have weight 1. For a dict of
            labels: `{output: {class: weight}}`. For a tuple of labels: a list of such mappings,
            with None for an output without weights. An output without weights gets ones of shape
            [n, 1, …] with one dimension less than its labels. If its loss has a value per
            position and the reduction "mean_with_sample_weight", write {0: 1.0} for it.
        one_hot: whether labels are one-hot. With several outputs: one value for all, or one per
            output. None: floats whose last dimension is larger than 1 are one-hot, and integers
            of such a shape are an error, because they could be either.

    Returns:
        The same data with `(features, labels, sample_weight)`. The weights are float32, have the
        structure of the labels, and the shape [n] (one class per example) or [n, positions…].
        An existing sample weight is multiplied with them.

    Raises:
        UserError: class_weight does not match the labels, the data have no labels, or it is
            unclear whether they are one-hot. While data are read: a label is not a class number,
            or is not one-hot.
    """
    spec = data.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3):
        raise UserError(
            "with_class_weight: expected data of (features, labels) or (features, labels, "
            f"sample_weight), received the structure {spec!r}."
        )
    batched = isinstance(data, tf.data.Dataset)
    weights = _by_output(spec[1], class_weight, one_hot, batched)
    if len(spec) == 3:
        _check_given(spec[2], weights)

    def weigh(features: Any, labels: Any, given: Any = None) -> Any:
        if isinstance(weights, _LabelWeights):
            return features, labels, weights(labels, given)
        found = {}
        for key, of_output in weights.items():
            own = given[key] if isinstance(given, (dict, tuple)) else given
            found[key] = of_output(labels[key], own)
        return features, labels, found if isinstance(labels, dict) else tuple(found.values())

    function: Any = weigh if batched else lambda batch: weigh(*batch)
    return data.map(function)


def _is_class_weight(value: Any) -> bool:
    """Whether a value is a mapping from class numbers to weights."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, (int, np.integer)) and k >= 0 for k in value)
        and all(
            isinstance(w, (Real, np.number)) and np.isfinite(np.asarray(w)) for w in value.values()
        )
    )


class _LabelWeights:
    """Computes the weights of one output's labels, from arrays or from tensors.

    Args:
        output: name or index of the output, for messages; "" if there is only one.
        spec: tf.TensorSpec of its labels.
        class_weight: the weight of each class number; None: every label has weight 1.
        one_hot: whether the last dimension is the classes; None: the dtype decides.
        batched: whether the spec includes the batch dimension.

    Raises:
        UserError: the labels have no classes, or it is unclear whether they are one-hot.
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
                "first."
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
                    "dimension of classes; omit one_hot."
                )
            return False
        if one_hot is not None:
            return one_hot
        if dtype.is_floating:
            return True
        if shape[-1] is not None and len(self._table) > shape[-1]:
            return False  # class_weight has a class number beyond the last dimension
        raise UserError(
            f"with_class_weight: {self._what}, {dtype.name} of shape {_shown(shape)}, may be one "
            f"class per position, or one-hot. Pass one_hot=False for one weight per position "
            f"(sample_weight of shape {_shown(shape)}), or one_hot=True for one weight per "
            f"row (of shape {_shown(shape[:-1])})."
        )

    def __call__(self, labels: Any, given: Any = None) -> Any:
        """The weights of a batch's labels, float32, multiplied with the existing weights."""
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
                f"with_class_weight: {self._what} are read as one-hot, but a row sums to "
                "neither 1 nor 0; pass one_hot=False for class numbers, or give sample weights."
            )
        return (
            f"with_class_weight: {self._what} are not class numbers (a value is NaN or not an "
            "integer); omit them from class_weight, or map them to class numbers first."
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


def _by_output(
    labels: Any, class_weight: Any, one_hot: Any, batched: bool
) -> _LabelWeights | dict[Any, _LabelWeights]:
    """The weights of the only output, or of each output by its name or index."""
    if isinstance(labels, tf.TypeSpec):
        if not _is_class_weight(class_weight):
            raise UserError(
                f"class_weight={class_weight!r}: expected a mapping from class numbers (0, 1, …) "
                "to weights."
            )
        return _LabelWeights("", labels, class_weight, _flag("", one_hot), batched)
    if isinstance(labels, dict):
        shown = next(iter(labels))
        keys, example = list(labels), f"{{{shown!r}: {{0: 1.0, 1: 5.0}}}}"
        fits = isinstance(class_weight, Mapping) and set(class_weight) <= set(keys)
        given = class_weight
    else:
        keys = list(range(len(labels)))
        example = f"[{', '.join(['{0: 1.0, 1: 5.0}'] + ['None'] * (len(keys) - 1))}]"
        fits = isinstance(class_weight, (list, tuple)) and len(class_weight) == len(keys)
        given = dict(enumerate(class_weight)) if fits else {}
    kept = {key: one for key, one in given.items() if one is not None} if fits else {}
    if not kept or not all(_is_class_weight(one) for one in kept.values()):
        held = ", ".join(map(repr, keys)) if isinstance(labels, dict) else f"{len(keys)} arrays"
        kind = "dict" if isinstance(labels, dict) else "tuple"
        raise UserError(
            f"class_weight={class_weight!r}: the labels are a {kind} ({held}), so expected a "
            f"mapping from class numbers (0, 1, …) to weights for each weighted output, such as "
            f"class_weight={example}."
        )
    nested = [key for key in keys if not isinstance(labels[key], tf.TypeSpec)]
    if nested:
        raise UserError(
            f"with_class_weight: the labels {nested[0]!r} are nested; make the labels one dict "
            "of arrays, one per output."
        )
    flags = _flags(keys, one_hot, isinstance(labels, dict))
    return {
        key: _LabelWeights(key, labels[key], kept.get(key), flags[key], batched) for key in keys
    }


def _flags(keys: list, one_hot: Any, named: bool) -> dict[Any, bool | None]:
    if one_hot is None or isinstance(one_hot, bool):
        return dict.fromkeys(keys, one_hot)
    if named and isinstance(one_hot, Mapping) and set(one_hot) <= set(keys):
        return {key: _flag(key, one_hot.get(key)) for key in keys}
    if not named and isinstance(one_hot, (list, tuple)) and len(one_hot) == len(keys):
        return {key: _flag(key, one_hot[key]) for key in keys}
    wanted = "a dict of these by output" if named else f"a list of {len(keys)} of these"
    raise UserError(f"one_hot={one_hot!r}: expected True, False or None, or {wanted}.")


def _flag(key: Any, one_hot: Any) -> bool | None:
    if one_hot is not None and not isinstance(one_hot, bool):
        raise UserError(f"one_hot={one_hot!r}: expected True, False or None.")
    return one_hot


def _check_given(given: Any, weights: _LabelWeights | dict[Any, _LabelWeights]) -> None:
    """Raises a UserError if existing sample weights have another structure than the labels."""
    if isinstance(given, tf.TypeSpec):
        return
    keys = list(given) if isinstance(given, dict) else list(range(len(given)))
    if isinstance(weights, _LabelWeights) or set(keys) != set(weights):
        raise UserError(
            f"with_class_weight: the existing sample weights have the structure {given!r}, which "
            "differs from that of the labels; use one array, or one per output."
        )
