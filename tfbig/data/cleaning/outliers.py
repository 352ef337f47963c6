"""Clips outliers to bounds, or drops their examples."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig._optional import load
from tfbig.data.cleaning import values as v
from tfbig.data.cleaning.step import Step, any_of, check_choice, check_names
from tfbig.data.cleaning.table import Table
from tfbig.errors import UserError

log = logging.getLogger("tfbig")

_FACTORS = {"iqr": 1.5, "zscore": 3.0}


@dataclass
class _Outliers(Step):
    columns: Sequence[str] | None = None
    method: str = "iqr"
    factor: float | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_names(name, self.columns)
        check_choice(name, "method", self.method, tuple(_FACTORS))
        if self.factor is None:
            return
        number = isinstance(self.factor, (int, float)) and not isinstance(self.factor, bool)
        if not (number and 0 < self.factor < np.inf):
            raise UserError(f"{name}(factor={self.factor!r}): expected a number above 0.")

    def fit(self, table: Table) -> None:
        self.fitted = {}
        for name in self._chosen(table):
            column = table.columns[name]
            if column.dtype.kind in "iuf":
                bounds = self._bounds(name, column.astype(np.float64))
                if bounds is not None:
                    self.fitted[name] = bounds
            elif self.columns is not None:
                held = "strings" if v.is_text(column) else column.dtype.name
                raise UserError(
                    f"{self}: bounds need numbers, but column {name!r} holds {held}; put "
                    f'FixTypes({{{name!r}: "float32"}}) before it.'
                )

    def touched(self, table: Table) -> np.ndarray:
        masks = [v.outside(table.columns[name], *bounds) for name, bounds in self.fitted.items()]
        return any_of(masks, len(table))

    def _bounds(self, name: str, column: np.ndarray) -> list[float] | None:
        pd = load("pandas", "cleaning")

        if not np.isfinite(column).any() or np.isinf(column).any():
            what = "infinite values" if np.isinf(column).any() else "no values"
            raise UserError(
                f"{self}: column {name!r} holds {what} in the {len(column)} training examples, so "
                "it has no bounds; name the other columns, or put "
                f'FixTypes({{{name!r}: "float32"}}) before it, which makes infinite values missing.'
            )
        series = pd.Series(column)
        if self.method == "iqr":
            low, high = series.quantile([0.25, 0.75])
            spread = high - low
        else:
            low = high = series.mean()
            spread = series.std(ddof=0)
        if spread == 0:
            log.warning(
                "%s: column %r is not changed, because its %s is 0.",
                *(self, name, "interquartile range" if self.method == "iqr" else "deviation"),
            )
            return None
        reach = spread * (_FACTORS[self.method] if self.factor is None else self.factor)
        return [float(low - reach), float(high + reach)]


@dataclass
class ClipOutliers(_Outliers):
    """Clips outliers to the nearest bound.

    The bounds come from the training examples: [Q1 - factor·(Q3 - Q1), Q3 + factor·(Q3 - Q1)]
    with the quartiles of pandas (Tukey, Exploratory Data Analysis, 1977), or the mean ± factor
    standard deviations (of the population). Missing values stay missing. A column without
    spread (Q1 = Q3, or all values equal) has no bounds; it does not change, and a warning is
    logged. Integer columns keep their type.

    Args:
        columns: names of columns; None: all numeric columns. Name them if some columns hold codes.
        method: "iqr" or "zscore".
        factor: width of the bounds, see above; None: 1.5 for "iqr", 3.0 for "zscore".

    Raises:
        UserError: an argument is invalid; in fitting, a column has no numbers.
    """

    verb = "clipped"
    drops = False

    @override
    def transform(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {
            name: v.clipped(columns[name], *bounds) for name, bounds in self.fitted.items()
        }


@dataclass
class DropOutliers(_Outliers):
    """Drops the training examples with a value that ClipOutliers would clip.

    Evaluation data keep them, because metrics without hard examples would be too good.

    Args:
        columns, method, factor: as for `ClipOutliers`.

    Raises:
        UserError: as for `ClipOutliers`.
    """

    training_only = True
