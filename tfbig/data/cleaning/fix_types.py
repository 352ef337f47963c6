"""Converts columns to other types, such as strings to numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.cleaning import values as v
from tfbig.data.cleaning.step import Step, any_of
from tfbig.data.cleaning.table import Table
from tfbig.errors import UserError

_TYPES = ("float32", "int32", "int64", "string")


@dataclass
class FixTypes(Step):
    """Converts columns to other types; values that cannot be converted become missing.

    A string is converted to a number if all of it is one (" -1.5e3 "; not "nan", "inf" or
    "1,000"). Infinite values become missing too. An integer cannot be missing: first convert to
    float32, fill, then convert to int64. The report counts examples with a value that became
    missing.

    Example: `FixTypes({"age": "float32", "zip": "string"})`.

    Args:
        types: by column name, one of "float32", "int32", "int64" (from whole numbers) and
            "string" (from integers).

    Raises:
        UserError: a type has another value; in fitting and reading, a value is not an integer.
    """

    types: Mapping[str, str]
    verb = "had a value that cannot be converted"
    drops = False

    def __post_init__(self) -> None:
        if not isinstance(self.types, Mapping) or not self.types:
            raise UserError(
                f"FixTypes({self.types!r}): expected the types of columns by name, such "
                'as {"age": "float32"}.'
            )
        for name, kind in self.types.items():
            if kind not in _TYPES:
                raise UserError(
                    f"FixTypes({{{name!r}: {kind!r}}}): expected one of {', '.join(_TYPES)}."
                )
        self.types = dict(self.types)

    @property
    @override
    def reads(self) -> list[str]:
        return list(self.types)

    @override
    def fit(self, table: Table) -> None:
        for name, kind in self.types.items():
            column = table.columns[name]
            if kind == "string" and not v.is_text(column) and column.dtype.kind not in "iu":
                raise UserError(
                    f"{self}: column {name!r} is {column.dtype.name}, whose string form is not "
                    "unique; only integers can become strings."
                )
        self.fitted = dict(self.types)

    @override
    def touched(self, table: Table) -> np.ndarray:
        masks = [
            v.missing(v.as_float32(column)) & ~v.missing(column)
            for name, kind in self.fitted.items()
            if kind == "float32"
            for column in [table.columns[name]]
        ]
        return any_of(masks, len(table))

    @override
    def transform(self, columns: dict[str, Any]) -> dict[str, Any]:
        return columns | {
            name: self._converted(name, columns[name], kind) for name, kind in self.fitted.items()
        }

    def _converted(self, name: str, column: Any, kind: str) -> Any:
        if kind == "float32":
            return v.as_float32(column)
        if kind == "string":
            return v.as_text(column)
        integers, good = v.as_integers(column, kind)
        if tf.is_tensor(integers):
            problem = f"column {name} has a value that is not a valid {kind}"
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(good), [problem])]):
                return tf.identity(integers)
        if not good.all():
            first = np.asarray(column)[~good][0]
            raise UserError(
                f"{self}: column {name!r} has {(~good).sum()} values that are not valid {kind}, "
                f"such as {first!r}, and an integer cannot be missing; convert to float32 first, "
                f"then use FillMissing, then convert to {kind}."
            )
        return integers
