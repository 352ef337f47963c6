"""Class weights as sample weights, for Sources and Datasets alike."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import tensorflow as tf

from tfbig.data.source import Source
from tfbig.errors import UserError

Data = TypeVar("Data", Source, tf.data.Dataset)


def with_class_weight(data: Data, class_weight: Mapping[int, float]) -> Data:
    """Gives every example the weight of its class, as Keras's `fit(class_weight=…)` does.

    Example:

        def input_fn():
            return tfbig.data.with_class_weight(source.batch(64), {0: 1.0, 1: 5.0})

    Args:
        data: a Source or a batched Dataset of `(features, labels)` or
            `(features, labels, sample_weight)`; labels are class numbers of shape [n] or
            [n, 1], or one-hot of shape [n, classes].
        class_weight: weight of each class number; classes left out weigh 1.

    Returns:
        The same data with `(features, labels, sample_weight)`; a weight that is there already
        is multiplied.

    Raises:
        UserError: class_weight is empty or has keys that are not class numbers, or the data
            have no labels.
    """
    if not class_weight or not all(
        isinstance(k, (int, np.integer)) and k >= 0 for k in class_weight
    ):
        raise UserError(
            f"class_weight={class_weight!r}: expected a mapping from class numbers (0, 1, …) to "
            "weights."
        )
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) not in (2, 3):
        raise UserError(
            "with_class_weight: expected data of (features, labels) or (features, labels, "
            f"sample_weight), received the structure {data.element_spec!r}."
        )
    table = np.ones([max(int(k) for k in class_weight) + 1], np.float32)
    for number, weight in class_weight.items():
        table[int(number)] = weight

    def in_numpy(batch):
        features, labels, *weight = batch
        numbers = np.argmax(labels, -1) if _one_hot(labels) else np.reshape(labels, [-1])
        numbers = numbers.astype(np.int64)
        known = (numbers >= 0) & (numbers < len(table))
        found = np.where(known, table[np.where(known, numbers, 0)], np.float32(1))
        if weight:
            given = np.asarray(weight[0], np.float32)
            found = given * found.reshape([-1] + [1] * (given.ndim - 1))
        return features, labels, found

    def in_graph(features, labels, *weight):
        numbers = tf.argmax(labels, -1) if _one_hot(labels) else tf.reshape(labels, [-1])
        numbers = tf.cast(numbers, tf.int64)
        known = (numbers >= 0) & (numbers < len(table))
        found = tf.where(known, tf.gather(table, tf.where(known, numbers, 0)), 1.0)
        if weight:
            given = tf.cast(weight[0], tf.float32)
            found = given * tf.reshape(found, [-1] + [1] * (given.shape.rank - 1))
        return features, labels, found

    return data.map(in_numpy if isinstance(data, Source) else in_graph)


def _one_hot(labels) -> bool:
    return len(labels.shape) == 2 and labels.shape[-1] not in (1, None)
