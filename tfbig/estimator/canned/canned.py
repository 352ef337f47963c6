"""What the canned estimators have in common."""

from collections.abc import Callable, Sequence
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.estimator import Estimator
from tfbig.estimator.heads.classification import (
    BinaryClassHead,
    MultiClassHead,
    TF1BinaryClassHead,
)
from tfbig.estimator.heads.head import Head
from tfbig.programs.model_fn.spec import ModeKeys


class Canned(Estimator):
    """A canned estimator: an Estimator whose model_fn is made from arguments.

    Attributes:
        tf1: whether it is one of tf.compat.v1.estimator: names of optimizers are those of
            tf.compat.v1.train, and losses are summed over a batch.
    """

    tf1 = False

    def __init__(self, *arguments: Any, **placement: Any):
        for name in placement:
            if name not in ("strategy", "devices"):
                raise TypeError(
                    f"{type(self).__name__}() got an unexpected keyword argument {name!r}"
                )
        super().__init__(*arguments, **placement)

    @classmethod
    def reduction(cls, given: Any) -> Any:
        """The loss_reduction, whose default depends on the class."""
        if given is not None:
            return given
        return "sum" if cls.tf1 else "sum_over_batch_size"

    @classmethod
    def class_head(cls, n_classes: int, vocabulary: Any, weight_column: Any, given: Any) -> Head:
        """The head of a classifier.

        Args:
            n_classes, vocabulary, weight_column: as for DNNClassifier.
            given: its loss_reduction.

        Raises:
            UserError: an argument has an invalid value.
        """
        reduction = cls.reduction(given)
        if not isinstance(n_classes, int) or n_classes < 2:
            raise UserError(f"n_classes={n_classes!r}: expected 2 or more.")
        if n_classes != 2:
            return MultiClassHead(n_classes, weight_column, vocabulary, reduction)
        binary = TF1BinaryClassHead if cls.tf1 else BinaryClassHead
        return binary(weight_column, label_vocabulary=vocabulary, loss_reduction=reduction)


def checked_columns(name: str, columns: Any) -> list[Any]:
    """Returns the feature columns of an argument as a list.

    Raises:
        UserError: there are none, or the argument is no list of them.
    """
    if isinstance(columns, str) or not hasattr(columns, "__iter__"):
        raise UserError(f"{name}={columns!r}: expected a list of columns of tf.feature_column.")
    found = list(columns)
    if not found:
        raise UserError(f"{name} is empty; pass at least one column of tf.feature_column.")
    for column in found:
        if not hasattr(column, "parse_example_spec"):
            raise UserError(
                f"{name} has {column!r}, which is no column; write for example "
                'tf.feature_column.numeric_column("age").'
            )
    return found


def checked_units(name: str, units: Sequence[int]) -> list[int]:
    """Returns the sizes of the hidden layers.

    Raises:
        UserError: one is no integer of 1 or more.
    """
    sizes = list(units) if hasattr(units, "__iter__") else units
    if not isinstance(sizes, list) or not all(isinstance(u, int) and u > 0 for u in sizes):
        raise UserError(f"{name}={units!r}: expected a list of integers of 1 or more.")
    return sizes


def check_head(head: Any) -> None:
    """Raises a UserError if the argument `head` is no Head."""
    if not isinstance(head, Head):
        raise UserError(
            f"head={head!r}: expected a head of tfbig.estimator, such as MultiClassHead(3)."
        )


def if_training(mode: str, make: Callable[[], Any]) -> Any:
    """Makes an optimizer in TRAIN mode; None in the others."""
    return make() if mode == ModeKeys.TRAIN else None
