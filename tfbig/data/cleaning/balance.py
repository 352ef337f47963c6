"""Balances rare classes by weights, or by repeating or dropping examples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.data.cleaning.step import Step, check_choice
from tfbig.data.cleaning.table import Table, label_column
from tfbig.errors import UserError

_VERBS = {"weights": "weighed", "oversample": "repeated", "undersample": "dropped"}


@dataclass
class Balance(Step):
    """Gives all classes of the label the same influence in training; must be the last step.

    Labels are class numbers or names of shape [n] or [n, 1], or one-hot of shape [n, classes].
    Evaluation data do not change.

    Args:
        method: "weights" gives each example the sample weight n / (classes · examples of its
            class), scikit-learn's "balanced", multiplied by an existing weight. "oversample"
            repeats examples, each the same number of times or once more, until every class is as
            large as the largest. "undersample" drops examples until every class is as small as
            the smallest.
        seed: seed for the choice of examples that are repeated once more, or dropped.

    Raises:
        UserError: method has another value; in fitting, the labels are not classes.
    """

    method: str = "weights"
    seed: int = 0
    training_only = True

    def __post_init__(self) -> None:
        check_choice("Balance", "method", self.method, tuple(_VERBS))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise UserError(f"Balance(seed={self.seed!r}): expected an integer of 0 or more.")

    @property
    @override
    def verb(self) -> str:
        return _VERBS[self.method]

    @property
    @override
    def reads(self) -> list[str]:
        return []

    @override
    def fit(self, table: Table) -> None:
        from sklearn.utils.class_weight import compute_class_weight

        self._classes, codes = np.unique(self._labels(table), return_inverse=True)
        names = self._classes.tolist()
        numbers = np.arange(len(names))
        weights = compute_class_weight("balanced", classes=numbers, y=codes)
        self._weights = weights.astype(np.float32)
        self.fitted = {
            "classes": [n.decode() if isinstance(n, bytes) else n for n in names],
            "counts": np.bincount(codes).tolist(),
        }

    @override
    def clean(self, table: Table) -> tuple[Table, int]:
        if self.method == "weights":
            return table, int((self.weights(table.labels) != 1).sum())
        codes = np.searchsorted(self._classes, table.labels)
        counts = np.bincount(codes)
        size = counts.max() if self.method == "oversample" else counts.min()
        random = np.random.RandomState(self.seed)
        chosen = [_drawn(np.flatnonzero(codes == k), size, random) for k in range(len(counts))]
        times = np.bincount(np.concatenate(chosen), minlength=len(table))
        return table.take(np.repeat(np.arange(len(table)), times)), int((times != 1).sum())

    def weights(self, labels: Any) -> np.ndarray:
        """The weights of training examples with these labels: float32 [n]."""
        return self._weights[np.searchsorted(self._classes, label_column(labels))]

    def _labels(self, table: Table) -> np.ndarray:
        labels = table.labels
        if labels is None:
            raise UserError(
                f"{self}: the examples do not have one class label each; expected (features, "
                "labels) with labels of shape [n], or one-hot of shape [n, classes]. For several "
                "outputs or several labels per example, use "
                "tfbig.data.with_class_weight(source, {…})."
            )
        if labels.dtype.kind == "f" and (labels != np.floor(labels)).any():
            first = labels[labels != np.floor(labels)][0]
            raise UserError(
                f"{self}: the labels are not classes; one is {first}. If labels are missing, put "
                "DropMissing() before this step."
            )
        return labels


def _drawn(members: np.ndarray, size: int, random: np.random.RandomState) -> np.ndarray:
    """Draws `size` members: each the same number of times, and the remainder at random."""
    whole, rest = divmod(size, len(members))
    return np.concatenate([np.tile(members, whole), random.permutation(members)[:rest]])
