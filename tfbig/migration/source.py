"""A Python file as text in which places can be found and changed, the rest staying as it is."""

import ast
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
    """A stretch of text: offsets of its first character and of that after its last one."""

    start: int
    end: int


class Source:
    """A parsed file.

    Example: `Source.read("train.py").tree`.

    Args:
        path: as it is shown to the person.
        data: its bytes.

    Raises:
        UserError: it is no Python 3; the message begins with path:line:column.
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
            raise UserError(f"{path}: cannot be written back as it is; change it by hand")
        wrapper = MetadataWrapper(self.tree, unsafe_skip_copy=True)
        self._positions = wrapper.resolve(PositionProvider)
        self._names = wrapper.resolve(QualifiedNameProvider)
        self.text = self.tree.code
        ends = (m.end() for m in re.finditer(r"\r\n|\n|\r", self.text))
        self._lines = [0, *ends]

    @classmethod
    def read(cls, path: str) -> "Source":
        """Reads a file.

        Raises:
            UserError: it cannot be read, or is no Python 3.
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
            raise UserError(f"{path}: {error.strerror}; name Python files") from error
        return cls(path, data)

    def write(self, text: str) -> None:
        """Replaces the file: written beside, with its permissions, and renamed.

        Raises:
            UserError: it cannot be written.
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
        """Where a node of the tree stands in the text."""
        found = self._positions[node]
        return Span(*(self._lines[p.line - 1] + p.column for p in (found.start, found.end)))

    def place(self, node: cst.CSTNode) -> tuple[int, int]:
        """Line and column of a node, both from 1."""
        start = self._positions[node].start
        return start.line, start.column + 1

    def line_start(self, line: int) -> int:
        """The offset of the first character of a line, counted from 1."""
        return self._lines[line - 1]

    def line_end(self, offset: int) -> int:
        """The offset after the end of the line that an offset is in."""
        return next((start for start in self._lines if start > offset), len(self.text))

    def imported_as(self, name: cst.Name) -> set[str] | None:
        """The full names that a bare name is imported for; None if it is (also) something else."""
        found = self._names.get(name)
        found = found() if callable(found) else found
        if not found or any(each.source.name != "IMPORT" for each in found):
            return None
        return {each.name for each in found}


def _check_syntax(path: str, data: bytes) -> None:
    try:
        ast.parse(data)
    except SyntaxError as error:
        place = f"{path}:{error.lineno or 1}:{error.offset or 1}"
        if _PYTHON_2.search(error.msg):
            raise UserError(
                f"{place}: is Python 2 ({error.msg}); convert it to Python 3 first, for example "
                "with 2to3 or futurize"
            ) from error
        raise UserError(f"{place}: is no Python: {error.msg}") from error
    except ValueError as error:  # null bytes
        raise UserError(f"{path}: is no Python: {error}") from error
