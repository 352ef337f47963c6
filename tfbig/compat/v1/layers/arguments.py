"""The arguments that TF1's layers share, checked."""

import numbers
from collections.abc import Sequence
from typing import Any

from tfbig.errors import UserError


def whole_number(function: str, name: str, value: Any) -> int:
    """A size of 1 or more."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != value:
        raise UserError(f"layers.{function}: {name}={value!r}: expected a whole number from 1.")
    return number


def sizes(function: str, name: str, value: Any, count: int) -> tuple[int, ...]:
    """One number for each of the spatial dimensions, from one for all or a sequence."""
    if isinstance(value, numbers.Number):
        value = (value,) * count
    if not isinstance(value, Sequence) or len(value) != count:
        raise UserError(
            f"layers.{function}: {name}={value!r}: expected a number or {count} numbers."
        )
    return tuple(whole_number(function, name, v) for v in value)


def padding_of(function: str, padding: Any) -> str:
    """Spells "valid" and "same" as TensorFlow's operations do."""
    found = str(padding).upper()
    if found not in ("VALID", "SAME"):
        raise UserError(f"layers.{function}: padding={padding!r}: expected 'valid' or 'same'.")
    return found


def channels_first(function: str, data_format: Any) -> bool:
    """Whether the channels are dimension 1, and not the last one."""
    found = str(data_format).lower()
    if found not in ("channels_last", "channels_first"):
        raise UserError(
            f"layers.{function}: data_format={data_format!r}: expected 'channels_last' or "
            "'channels_first'."
        )
    return found == "channels_first"
