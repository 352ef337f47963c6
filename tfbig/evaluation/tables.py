"""Tables of figures, for a terminal and as plain text."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # the head, the rows


def show(title: str, tables: Iterable[Table], file: TextIO | None = None) -> None:
    """Prints tables: with lines and weights on a terminal, else as `text`.

    Args:
        title: printed above them.
        tables: cells are strings; the first column is aligned to the left.
        file: None: standard output.
    """
    file = file or sys.stdout
    if not file.isatty():
        print(text(title, tables), file=file)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    console = Console(file=file, highlight=False)
    console.print(f"[bold]{escape(title)}[/bold]")
    for head, rows in tables:
        table = RichTable()
        for place, column in enumerate(head):
            table.add_column(column, justify="right" if place else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)


def text(title: str, tables: Iterable[Table]) -> str:
    """The same as plain text, in columns."""
    return "\n".join([title, ""] + [_aligned(head, rows) for head, rows in tables])


def number(value: float) -> str:
    """A figure with four digits that mean something."""
    value = float(value)
    if math.isnan(value):
        return "undefined"
    if value.is_integer() and abs(value) >= 100:
        return f"{int(value)}"
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.4g}"


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in [head, *rows]) for place in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"
