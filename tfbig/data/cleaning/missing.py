"""Drops examples with missing values, or fills the values."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.data.cleaning import values as v
from tfbig.data.cleaning.step import Step, any_of, check_choice, check_names
from tfbig.data.cleaning.table import Table
from tfbig.errors import UserError

_STRATEGIES = ("median", "mean", "most_frequent", "constant")


@dataclass
class DropMissing(Step):
    """Drops the examples with a missing value: NaN, or an empty string.

    It drops evaluation examples too. In serving nothing is dropped: a missing value reaches the
    next step, so a later FillMissing can fill it.

    Args:
        columns: names of columns; None: all scalar columns and the label. If there are several
            labels per example, an example is dropped if any of them is missing.
    """

    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_names("DropMissing", self.columns)

    @override
    def touched(self, table: Table) -> np.ndarray:
        masks = [v.missing(table.columns[name]) for name in self.fitted]
        if self.columns is None and table.unlabelled is not None:
            masks.append(table.unlabelled)
        return any_of(masks, len(table))


@dataclass
class FillMissing(Step):
    """Replaces missing values: NaN, or empty strings.

    The statistics are those of scikit-learn's SimpleImputer; of equally frequent values, the
    smallest is used. Integers cannot be missing and do not change.

    Example: `FillMissing(columns=["city"], strategy="constant", value="unknown")`.

    Args:
        columns: names of columns; None: all columns that the strategy supports.
        strategy: "median" or "mean" of a numeric column, the "most_frequent" value of any
            column, or "constant".
        value: the constant: a number for numeric columns, a string for string columns.

    Raises:
        UserError: the strategy does not match the value or, in fitting, a column; or a column has
            no values.
    """

    columns: Sequence[str] | None = None
    strategy: str = "median"
    value: float | str | None = None
    verb = "filled"
    drops = False

    def __post_init__(self) -> None:
        check_names("FillMissing", self.columns)
        check_choice("FillMissing", "strategy", self.strategy, _STRATEGIES)
        number = isinstance(self.value, (int, float, np.number)) and not isinstance(
            self.value, bool
        )
        if self.strategy == "constant":
            if not (isinstance(self.value, str) and self.value) and not (
                number and np.isfinite(self.value)
            ):
                raise UserError(
                    f'FillMissing(strategy="constant", value={self.value!r}): expected a finite '
                    "number, or a string that is not empty."
                )
            self.value = self.value if isinstance(self.value, str) else float(self.value)
        elif self.value is not None:
            raise UserError(
                f"FillMissing(strategy={self.strategy!r}, value={self.value!r}): value is only "
                'used with strategy="constant".'
            )

    @override
    def fit(self, table: Table) -> None:
        self.fitted = {}
        for name in self._chosen(table):
            column = table.columns[name]
            if self._suits(column) and (v.is_text(column) or v.is_floating(column)):
                self.fitted[name] = self._statistic(name, column)
            elif not self._suits(column) and self.columns is not None:
                raise UserError(self._misfit(name, column))

    @override
    def touched(self, table: Table) -> np.ndarray:
        masks = [v.missing(table.columns[name]) for name in self.fitted]
        return any_of(masks, len(table))

    @override
    def transform(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {
            name: v.filled(columns[name], value) for name, value in self.fitted.items()
        }

    def _suits(self, column: np.ndarray) -> bool:
        if self.strategy == "most_frequent":
            return True
        return v.is_text(column) == isinstance(self.value, str)

    def _misfit(self, name: str, column: np.ndarray) -> str:
        if self.strategy == "constant":
            held = "strings" if v.is_text(column) else "numbers"
            return f"{self}: column {name!r} holds {held}; pass a value of the same type."
        return (
            f"{self}: the {self.strategy} needs numbers, but column {name!r} holds strings; put "
            f'FixTypes({{{name!r}: "float32"}}) before it, or use strategy="most_frequent".'
        )

    def _statistic(self, name: str, column: np.ndarray) -> float | str:
        if self.strategy == "constant":
            return self.value
        from sklearn.impute import SimpleImputer

        if v.missing(column).all():
            raise UserError(
                f"{self}: column {name!r} is missing in all of the {len(column)} training "
                f"examples, so it has no {self.strategy}; remove it from the data, or use "
                'strategy="constant" for it.'
            )
        if v.is_text(column):
            values, absent = np.array(v.texts(column), object), ""
        else:
            values, absent = column.astype(np.float64), np.nan
            if np.isinf(values).any():
                raise UserError(
                    f"{self}: column {name!r} holds infinite values; put "
                    f'FixTypes({{{name!r}: "float32"}}) before it, which makes them missing.'
                )
        imputer = SimpleImputer(strategy=self.strategy, missing_values=absent)
        found = imputer.fit(values[:, None]).statistics_[0]
        return str(found) if v.is_text(column) else float(found)
