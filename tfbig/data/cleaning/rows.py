"""Drops examples: duplicates, and those that a predicate rejects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig._optional import load
from tfbig.data.cleaning.step import Step, check_names
from tfbig.data.cleaning.table import Table
from tfbig.errors import UserError


@dataclass
class DropDuplicates(Step):
    """Drops the training examples that equal an earlier one; the first one stays.

    The comparison is exact, as in pandas (two missing values are equal). Evaluation data keep
    duplicates.

    Args:
        columns: names of columns to compare; None: the whole example with its label (not its
            weight), including values such as images.
    """

    columns: Sequence[str] | None = None
    training_only = True

    def __post_init__(self) -> None:
        check_names("DropDuplicates", self.columns)

    @override
    def touched(self, table: Table) -> np.ndarray:
        pd = load("pandas", "cleaning")

        compared = [table.columns[name] for name in self.fitted]
        if self.columns is None:
            compared += [a for a in (table.labels, table.others) if a is not None]
        return pd.DataFrame(dict(enumerate(compared))).duplicated().to_numpy()


@dataclass
class Filter(Step):
    """Keeps the examples for which a predicate is true, in training and in evaluation data.

    It has no effect in serving, and only its name is saved.

    Example: `Filter(lambda batch: batch["age"] >= 18, name="adults")`.

    Args:
        predicate: takes the scalar columns, as a dict of arrays [n], after the previous steps, and
            returns bool [n]: True for examples to keep.
        name: name in the report; None: the name of the function.
        columns: names of the columns that it takes; None: all.

    Raises:
        UserError: predicate is not a function; in fitting, it returns something else.
    """

    predicate: Callable[[dict[str, np.ndarray]], Any]
    name: str | None = None
    columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not callable(self.predicate):
            raise UserError(
                f"Filter({self.predicate!r}): expected a function of a dict of arrays, such as "
                'lambda batch: batch["age"] >= 18.'
            )
        check_names("Filter", self.columns)
        self.name = self.name or getattr(self.predicate, "__name__", "predicate")

    @override
    def touched(self, table: Table) -> np.ndarray:
        found = np.asarray(self.predicate({name: table.columns[name] for name in self.fitted}))
        if found.dtype != bool or found.shape != (len(table),):
            raise UserError(
                f"{self}: the predicate returned {found.dtype.name} of shape "
                f"{list(found.shape)}; expected bool of shape [{len(table)}], True to keep."
            )
        return ~found

    @override
    def arguments(self) -> dict[str, Any]:
        return {"name": self.name, "columns": self.columns}

    def __str__(self) -> str:
        return f"Filter({self.name!r})"
