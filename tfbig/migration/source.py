"""A Python file with the positions of its syntax nodes, for edits that keep the rest unchanged."""

import ast
import dataclasses
import os
import re
import shutil
from typing import NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider, QualifiedNameProvider

from tfbig.errors import UserError

_PYTHON_2 = re.compile(
    r"Missing parentheses in call to '(print|exec)'|multiple exception types must be parenth|"
    r"leading zeros in decimal|invalid (decimal|hexadecimal) literal"
)


class Span(NamedTuple):
    """A span of text: the offset of its first character, and the one after its last character."""

    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Edit:
    """New text for a span of the old text."""

    span: Span
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to change.

    Args:
        line, column: position, both from 1.
        what: the old code, on one line.
        instead: the new code, or advice for a manual change.
        edits: the edits of the change; empty for a manual change.
    """

    line: int
    column: int
    what: str
    instead: str
    edits: tuple[Edit, ...] = ()

    @property
    def mechanical(self) -> bool:
        """Whether `--write` applies the change."""
        return bool(self.edits)


class SourceFile:
    """A parsed file.

    Example: `SourceFile.read("train.py").tree`.

    Args:
        path: path of the file, for messages.
        data: bytes of the file.

    Raises:
        UserError: the file is not Python 3; the message begins with path:line:column.
    """

    def __init__(self, path: str, data: bytes):
        self.path = path
        _check_syntax(path, data)
        try:
            self.tree = cst.parse_module(data)
        except cst.ParserSyntaxError as error:
            first = error.message.splitlines()[0]
            raise UserError(f"{path}: cannot be read: {first}") from error
        if self.tree.bytes != data:
            raise UserError(f"{path}: cannot be reproduced exactly; change it by hand")
        wrapper = MetadataWrapper(self.tree, unsafe_skip_copy=True)
        self._positions = wrapper.resolve(PositionProvider)
        self._names = wrapper.resolve(QualifiedNameProvider)
        self.text = self.tree.code
        ends = (m.end() for m in re.finditer(r"\r\n|\n|\r", self.text))
        self._lines = [0, *ends]

    @classmethod
    def read(cls, path: str) -> "SourceFile":
        """Reads a file.

        Raises:
            UserError: the file cannot be read, or is not Python 3.
        """
        if path.endswith(".ipynb"):
            raise UserError(
                f"{path}: is a notebook; save its code as a script first (jupyter nbconvert --to "
                "script)"
            )
        try:
            with open(path, "rb") as file:
                data = file.read()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; pass Python files") from error
        return cls(path, data)

    def write(self, text: str) -> None:
        """Replaces the file atomically, with the same permissions.

        Raises:
            UserError: the file cannot be written.
        """
        path = os.path.realpath(self.path)  # a link stays a link
        beside = f"{path}.tmp-{os.getpid()}"
        try:
            with open(beside, "wb") as file:
                file.write(text.encode(self.tree.encoding))
            shutil.copymode(path, beside)
            os.replace(beside, path)
        except OSError as error:
            if os.path.exists(beside):
                os.remove(beside)
            raise UserError(f"{self.path}: cannot be written: {error.strerror}") from error

    def span(self, node: cst.CSTNode) -> Span:
        """The span of a node in the text."""
        found = self._positions[node]
        return Span(*(self._lines[p.line - 1] + p.column for p in (found.start, found.end)))

    def position(self, node: cst.CSTNode) -> tuple[int, int]:
        """The line and column of a node, both from 1."""
        start = self._positions[node].start
        return start.line, start.column + 1

    def line_start(self, line: int) -> int:
        """The offset of the first character of a line, counted from 1."""
        return self._lines[line - 1]

    def line_end(self, offset: int) -> int:
        """The offset after the end of the line that an offset is in."""
        return next((start for start in self._lines if start > offset), len(self.text))

    def imported_as(self, name: cst.Name) -> set[str] | None:
        """The full names that a name is imported from; None if it has other definitions too."""
        found = self._names.get(name)
        found = found() if callable(found) else found
        if not found or any(each.source.name != "IMPORT" for each in found):
            return None
        return {each.name for each in found}


def edited(text: str, edits: list[Edit]) -> str:
    """Applies edits to a text; an edit inside another one is skipped.

    Example: `edited("a + b", [Edit(Span(4, 5), "c")]) == "a + c"`.
    """
    out, at = [], 0
    # At the same offset: insertions first, then the longest edit.
    for edit in sorted(
        set(edits), key=lambda e: (e.span.start, e.span.end > e.span.start, -e.span.end)
    ):
        if edit.span.start < at:
            continue
        out += [text[at : edit.span.start], edit.text]
        at = edit.span.end
    return "".join([*out, text[at:]])


def _check_syntax(path: str, data: bytes) -> None:
    try:
        ast.parse(data)
    except SyntaxError as error:
        position = f"{path}:{error.lineno or 1}:{error.offset or 1}"
        if _PYTHON_2.search(error.msg):
            raise UserError(
                f"{position}: is Python 2 ({error.msg}); convert it to Python 3 first, for example "
                "with 2to3 or futurize"
            ) from error
        raise UserError(f"{position}: is not Python: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise UserError(f"{path}: is not Python: {error}") from error
