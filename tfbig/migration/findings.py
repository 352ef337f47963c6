"""What is found in a file: changes that are mechanical, and those to make by hand."""

import dataclasses

from tfbig.migration.source import Span


@dataclasses.dataclass(frozen=True)
class Edit:
    """New text for a stretch of the old one."""

    span: Span
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to change.

    Args:
        line, column: where, both from 1.
        what: the code as it stands, on one line.
        instead: the code to write, or advice where it is to be changed by hand.
        edits: what the change is; empty if it is made by hand.
    """

    line: int
    column: int
    what: str
    instead: str
    edits: tuple[Edit, ...] = ()

    @property
    def mechanical(self) -> bool:
        """Whether `--write` makes the change."""
        return bool(self.edits)


def edited(text: str, edits: list[Edit]) -> str:
    """The text with all edits made; an edit inside another one is left out.

    Example: `edited("a + b", [Edit(Span(4, 5), "c")]) == "a + c"`.
    """
    out, at = [], 0
    # At one place: what is put in comes first, then the longest.
    for edit in sorted(
        set(edits), key=lambda e: (e.span.start, e.span.end > e.span.start, -e.span.end)
    ):
        if edit.span.start < at:
            continue
        out += [text[at : edit.span.start], edit.text]
        at = edit.span.end
    return "".join([*out, text[at:]])
