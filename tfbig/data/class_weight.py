"""Class weights as sample weights, for Sources and Datasets alike."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tensorflow as tf

from tfbig.data.class_weight_of_labels import LabelWeights, is_class_weight
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

    Keras does so for one output with one class an example. Here a model may have several outputs,
    and an example several places (time steps, pixels) with a class each.

    Example:

        def input_fn():
            return tfbig.data.with_class_weight(source.batch(64), {0: 1.0, 1: 5.0})

        # Labels {"kind": [n], "price": [n, 1]}: a weight for each class of "kind".
        tfbig.data.with_class_weight(source.batch(64), {"kind": {0: 1.0, 1: 5.0}})

        # Labels [n, time], int: one class for each time step, and so one weight for each.
        tfbig.data.with_class_weight(source.batch(64), {0: 1.0, 1: 5.0}, one_hot=False)

    Args:
        data: a Source or a batched Dataset of `(features, labels)` or
            `(features, labels, sample_weight)`; labels are an array, or a dict or a tuple of one
            for each output. An array holds class numbers of shape [n] or [n, 1], or
            [n, places…] or [n, places…, 1]; or it is one-hot, of shape [n, classes] or
            [n, places…, classes].
        class_weight: weight of each class number; classes left out weigh 1. Of labels that are a
            dict, `{output: {class: weight}}`; of a tuple, a list of such, with None for an output
            that is not weighted. An output left out weighs 1 (ones of shape [n, 1, …] with one
            dimension less than its labels; of a loss whose reduction is
            "mean_with_sample_weight" and that has a value for each place, write {0: 1.0} for it).
        one_hot: whether labels are one-hot; where labels are a dict or a tuple, by output, or one
            answer for all. None: floats whose last dimension is larger than 1 are, and integers of
            such a shape are refused, as they may be either.

    Returns:
        The same data with `(features, labels, sample_weight)`. The weights, float32, have the
        shape [n] for one class an example, else [n, places…], and the structure of the labels. A
        weight that is there already is multiplied.

    Raises:
        UserError: class_weight does not go with the labels, the data have no labels, or they may
            be one-hot or not. While the data are read: labels that are no class numbers, or not
            one-hot.
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
        if isinstance(weights, LabelWeights):
            return features, labels, weights(labels, given)
        found = {}
        for key, of_output in weights.items():
            own = given[key] if isinstance(given, (dict, tuple)) else given
            found[key] = of_output(labels[key], own)
        return features, labels, found if isinstance(labels, dict) else tuple(found.values())

    function: Any = weigh if batched else lambda batch: weigh(*batch)
    return data.map(function)


def _by_output(
    labels: Any, class_weight: Any, one_hot: Any, batched: bool
) -> LabelWeights | dict[Any, LabelWeights]:
    """What weighs the labels of the only output, or of each by its name or place."""
    if isinstance(labels, tf.TypeSpec):
        if not is_class_weight(class_weight):
            raise UserError(
                f"class_weight={class_weight!r}: expected a mapping from class numbers (0, 1, …) "
                "to weights."
            )
        return LabelWeights("", labels, class_weight, _flag("", one_hot), batched)
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
    if not kept or not all(is_class_weight(one) for one in kept.values()):
        held = ", ".join(map(repr, keys)) if isinstance(labels, dict) else f"{len(keys)} arrays"
        kind = "dict" if isinstance(labels, dict) else "tuple"
        raise UserError(
            f"class_weight={class_weight!r}: the labels are a {kind} ({held}), so expected class "
            f"weights for each output that is weighted, class numbers (0, 1, …) to weights; write "
            f"class_weight={example}."
        )
    nested = [key for key in keys if not isinstance(labels[key], tf.TypeSpec)]
    if nested:
        raise UserError(
            f"with_class_weight: the labels {nested[0]!r} are nested themselves; make the labels "
            "one dict of arrays, by output."
        )
    flags = _flags(keys, one_hot, isinstance(labels, dict))
    return {key: LabelWeights(key, labels[key], kept.get(key), flags[key], batched) for key in keys}


def _flags(keys: list, one_hot: Any, named: bool) -> dict[Any, bool | None]:
    if one_hot is None or isinstance(one_hot, bool):
        return dict.fromkeys(keys, one_hot)
    if named and isinstance(one_hot, Mapping) and set(one_hot) <= set(keys):
        return {key: _flag(key, one_hot.get(key)) for key in keys}
    if not named and isinstance(one_hot, (list, tuple)) and len(one_hot) == len(keys):
        return {key: _flag(key, one_hot[key]) for key in keys}
    wanted = "a dict of such by output" if named else f"a list of {len(keys)} such"
    raise UserError(f"one_hot={one_hot!r}: expected True, False or None, or {wanted}.")


def _flag(key: Any, one_hot: Any) -> bool | None:
    if one_hot is not None and not isinstance(one_hot, bool):
        raise UserError(f"one_hot={one_hot!r}: expected True, False or None.")
    return one_hot


def _check_given(given: Any, weights: LabelWeights | dict[Any, LabelWeights]) -> None:
    """Refuses sample weights that are there in another structure than the labels."""
    if isinstance(given, tf.TypeSpec):
        return
    keys = list(given) if isinstance(given, dict) else list(range(len(given)))
    if isinstance(weights, LabelWeights) or set(keys) != set(weights):
        raise UserError(
            f"with_class_weight: the sample weights that are there have the structure {given!r}, "
            "the labels have another; give one array, or one for each output."
        )
