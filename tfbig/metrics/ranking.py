"""Exact ranking metrics, computed over every threshold that occurs in the scores."""

import numpy as np


def thresholds(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts the scores in decreasing order and finds the last index of each threshold.

    Args:
        scores: float [n]; equal scores form one threshold.

    Returns:
        The sorting indices [n], and the last index of each threshold in this order,
        [number of different scores].
    """
    order = np.argsort(scores, kind="stable")[::-1]
    ordered = scores[order]
    return order, np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)


def counts_above(
    positive: np.ndarray,
    order: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the weight of true and false positives at each threshold, from the highest.

    Args:
        positive: bool [n], whether an example is positive.
        order, ends: the result of `thresholds`.
        weights: float [n]; None for 1 each.

    Returns:
        True positives and false positives, float64 [number of thresholds] each.
    """
    positive = positive[order]
    weights = np.ones(len(order)) if weights is None else weights[order]
    true = np.cumsum(np.where(positive, weights, 0.0))[ends]
    return true, np.cumsum(np.where(positive, 0.0, weights))[ends]


def roc_curve(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns false and true positive rates from (0, 0) to (1, 1); NaN if a class is empty.

    Args:
        true, false: the result of `counts_above`.
    """
    if not len(true) or not true[-1] or not false[-1]:
        return np.array([np.nan]), np.array([np.nan])
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def roc_auc(true: np.ndarray, false: np.ndarray) -> float:
    """Returns the area under the ROC curve; NaN if there are no positives or no negatives."""
    rates = roc_curve(true, false)
    return float(np.trapezoid(rates[1], rates[0])) if len(rates[0]) > 1 else float("nan")


def average_precision(true: np.ndarray, false: np.ndarray) -> float:
    """Returns the area under the precision-recall curve: Σ (recall_i - recall_i-1) precision_i.

    As in scikit-learn's average_precision_score, it is not interpolated, and it is 0 if there are
    no positives.
    """
    if not len(true):
        return float("nan")
    if not true[-1]:
        return 0.0
    total = true + false
    precision = np.divide(true, total, out=np.zeros(len(true)), where=total > 0)
    return float(np.sum(np.diff(true, prepend=0.0) / true[-1] * precision))
