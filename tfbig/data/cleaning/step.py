"""The base class of the steps of a Cleaning."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfbig.data.cleaning.table import Table, is_scalar
from tfbig.errors import UserError


class Step:
    """One step of a Cleaning; a subclass is a dataclass of its arguments.

    Attributes:
        fitted: JSON value with the result of `fit`; None before.
        verb: what the step does to the examples it touches, for the report.
        drops: whether it drops the examples it touches; else it changes them.
        training_only: whether it skips evaluation data.
    """

    columns: Sequence[str] | None
    fitted: Any = None
    verb: ClassVar[str] = "dropped"
    drops: ClassVar[bool] = True
    training_only: ClassVar[bool] = False

    @property
    def reads(self) -> Sequence[str] | None:
        """The names of the columns that `fit` needs; None: all."""
        return self.columns

    def fit(self, table: Table) -> None:
        """Learns from the training examples after the previous steps."""
        self.fitted = self._chosen(table)

    def touched(self, table: Table) -> np.ndarray:
        """The examples that the step drops or changes: bool [n]."""
        raise NotImplementedError

    def transform(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Changes columns, arrays or tensors, of each example independently of the others."""
        return columns

    def clean(self, table: Table) -> tuple[Table, int]:
        """Applies the step to a table; also returns the number of examples it touched."""
        touched = self.touched(table)
        if self.drops:
            return table.take(~touched), int(touched.sum())
        table.columns = self.transform(table.columns)
        return table, int(touched.sum())

    def arguments(self) -> dict[str, Any]:
        """The arguments of its constructor, as JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]

    def check_columns(self, specs: dict[str, tf.TensorSpec]) -> None:
        """Raises a UserError if a named column is missing, or has several values per example."""
        for name in self.reads or ():
            if name not in specs:
                raise UserError(
                    f"{self}: there is no column {name!r}; the columns are "
                    f"{', '.join(specs) or 'none'}."
                )
            if not is_scalar(specs[name]):
                raise UserError(
                    f"{self}: column {name!r} has the shape {specs[name].shape.as_list()} in each "
                    "example; only columns with one value per example can be cleaned."
                )

    def _chosen(self, table: Table) -> list[str]:
        return list(table.columns) if self.columns is None else list(self.columns)

    def __str__(self) -> str:
        given = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"


def any_of(masks: Sequence[np.ndarray], length: int) -> np.ndarray:
    """The elementwise OR of the masks; all False without masks."""
    return np.logical_or.reduce(masks) if masks else np.zeros([length], bool)


def check_names(owner: str, columns: Any) -> None:
    """Raises a UserError if an argument `columns` is not None or a list of names."""
    listed = isinstance(columns, (list, tuple)) and all(isinstance(n, str) for n in columns)
    if columns is not None and not (listed and columns):
        raise UserError(
            f"{owner}(columns={columns!r}): expected a list of column names, such as "
            "columns=['age'], or None for all."
        )


def check_choice(owner: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """Raises a UserError if an argument is not one of its choices."""
    if value not in choices:
        raise UserError(f"{owner}({name}={value!r}): expected one of {', '.join(choices)}.")
