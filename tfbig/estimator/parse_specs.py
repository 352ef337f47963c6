"""What tf.io.parse_example needs for the features and labels of canned estimators."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfbig.errors import UserError


def classifier_parse_example_spec(
    feature_columns: Sequence[Any],
    label_key: str,
    label_dtype: Any = tf.int64,
    label_default: Any = None,
    weight_column: Any = None,
) -> dict[str, Any]:
    """Returns what tf.io.parse_example needs to read the features and the label of a classifier.

    Example: `tf.io.parse_example(records, classifier_parse_example_spec(columns, "label"))`

    Args:
        feature_columns: of the estimator.
        label_key: the name of the label.
        label_dtype: tf.int64, or tf.string for a label_vocabulary.
        label_default: for records without a label; None: there are none.
        weight_column: as for the estimator.

    Raises:
        UserError: a name occurs twice.
    """
    label = tf.io.FixedLenFeature((1,), label_dtype, label_default)
    return _with_label(feature_columns, label_key, label, weight_column)


def regressor_parse_example_spec(
    feature_columns: Sequence[Any],
    label_key: str,
    label_dtype: Any = tf.float32,
    label_default: Any = None,
    label_dimension: int = 1,
    weight_column: Any = None,
) -> dict[str, Any]:
    """Returns what tf.io.parse_example needs to read the features and the label of a regressor.

    Example: `tf.io.parse_example(records, regressor_parse_example_spec(columns, "price"))`

    Args:
        feature_columns, label_key, label_default, weight_column: as for
            classifier_parse_example_spec.
        label_dtype: of the label.
        label_dimension: the number of labels of an example.

    Raises:
        UserError: a name occurs twice.
    """
    label = tf.io.FixedLenFeature((label_dimension,), label_dtype, label_default)
    return _with_label(feature_columns, label_key, label, weight_column)


def _with_label(columns: Sequence[Any], label_key: str, label: Any, weight: Any) -> dict[str, Any]:
    spec = dict(tf.feature_column.make_parse_example_spec(list(columns)))
    added = {label_key: label}
    if isinstance(weight, str):
        weight = tf.feature_column.numeric_column(weight)
    if weight is not None:
        if not hasattr(weight, "parse_example_spec"):
            raise UserError(
                f"weight_column={weight!r}: expected the name of a feature, or a "
                "tf.feature_column.numeric_column."
            )
        added |= weight.parse_example_spec
    for name, feature in added.items():
        if name in spec:
            what = "label" if name == label_key else "weight_column"
            raise UserError(
                f"{what} should not be used as feature: {name!r} is the name of a column of "
                "feature_columns too; give it another one."
            )
        spec[name] = feature
    return spec
