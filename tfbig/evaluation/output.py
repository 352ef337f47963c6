"""Prints results as tables and writes them as JSON files."""

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from tfbig.errors import UserError

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # the header and the rows


def print_tables(title: str, tables: Iterable[Table], file: TextIO | None = None) -> None:
    """Prints tables, with borders on a terminal, otherwise as `table_text`.

    Args:
        title: printed above the tables.
        tables: the tables; all cells are strings. The first column is left-aligned.
        file: the output file; None for standard output.
    """
    file = file or sys.stdout
    if not file.isatty():
        print(table_text(title, tables), file=file)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console(file=file, highlight=False)
    console.print(f"[bold]{escape(title)}[/bold]")
    for head, rows in tables:
        table = RichTable()
        for i, column in enumerate(head):
            table.add_column(column, justify="right" if i else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)


def table_text(title: str, tables: Iterable[Table]) -> str:
    """Returns tables as plain text in aligned columns."""
    return "\n".join([title, ""] + [_aligned(head, rows) for head, rows in tables])


def format_number(value: float) -> str:
    """Formats a number with four significant digits; NaN is "undefined"."""
    value = float(value)
    if math.isnan(value):
        return "undefined"
    if value.is_integer() and abs(value) >= 100:
        return f"{int(value)}"
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.4g}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def to_json(value: Any) -> Any:
    """Converts arrays and mappings for JSON; NaN and infinity become null."""
    if isinstance(value, Mapping):
        return {str(key): to_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, list | tuple):
        return [to_json(each) for each in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def write_json(path: str, value: Any) -> None:
    """Writes the result of `to_json` to a file, atomically.

    Raises:
        UserError: the file cannot be written.
    """

    def write(temporary: str) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(to_json(value), file, indent=1, allow_nan=False)
            file.write("\n")

    write_atomically(path, write)


def write_atomically(path: str, write: Callable[[str], None]) -> None:
    """Writes a file under a temporary name and renames it, so that it is never incomplete.

    Args:
        path: the path of the file; its folder is created.
        write: writes the file to the path that it receives.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be written: {error.strerror or error}; pass a directory that is "
            "writable."
        ) from error
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
