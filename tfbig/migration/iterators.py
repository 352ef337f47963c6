"""input_fns that end in get_next(): they return the Dataset instead."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import libcst as cst

from tfbig.migration.source import Edit, SourceFile, Span

METHODS = ("make_one_shot_iterator", "make_initializable_iterator")
_ONE_SHOT = "make_one_shot_iterator"
_EQUALS = re.compile(r"[\s\\)]*=[\s\\]*")


class Returned(NamedTuple):
    """Statements that get the next element and return it.

    Attributes:
        first: the first of the statements.
        edits: the edits that make them `return dataset`; empty if a comment would be lost.
        function: the function that makes the iterator.
        gone: lines that the edits remove.
    """

    first: cst.CSTNode
    edits: tuple[Edit, ...]
    function: cst.CSTNode
    gone: tuple[cst.CSTNode, ...]


def find_returned(
    source: SourceFile, body: Sequence[cst.CSTNode], full: Callable[[cst.CSTNode], tuple]
) -> list[Returned]:
    """Finds such statements in a block: one line, or up to three that follow each other.

    Args:
        source: the file.
        body: the statements of the block.
        full: returns the parts of the name of TensorFlow that an expression is, or ().
    """
    found = []
    for index, line in enumerate(body):
        count, iterator = 0, None
        match _only(line):
            case cst.Return(value=cst.Call() as value) if _made(_iterator_of(value), full):
                count, iterator = 1, _iterator_of(value)
            case cst.Assign(targets=[cst.AssignTarget(target=target)], value=cst.Call() as value):
                if _made(_iterator_of(value), full) and _returns(body, index + 1, target):
                    count, iterator = 2, _iterator_of(value)
                elif isinstance(target, cst.Name) and _made(value, full):
                    iterator = value
                    count = _returning_lines(body, index + 1, target.value)
                    count = count + 1 if count and _uses(body, target.value) == 2 else 0
        if count:
            found.append(_returned(source, body[index : index + count], iterator))
    return found


def _only(line: cst.CSTNode) -> cst.CSTNode | None:
    """The statement of a line with one statement."""
    if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1:
        return line.body[0]
    return None


def _iterator_of(value: cst.BaseExpression) -> cst.BaseExpression | None:
    """The iterator in `iterator.get_next()`."""
    match value:
        case cst.Call(func=cst.Attribute(value=iterator, attr=cst.Name("get_next")), args=[]):
            return iterator
    return None


def _made(value: cst.BaseExpression | None, full: Callable[[cst.CSTNode], tuple]) -> bool:
    """Whether it is `dataset.make_one_shot_iterator()`, or the same function of tf.data."""
    match value:
        case cst.Call(func=function, args=[cst.Arg(keyword=None, star="")]):
            return full(function) == ("data", _ONE_SHOT)
        case cst.Call(func=cst.Attribute(value=dataset, attr=cst.Name(name)), args=[]):
            return name == _ONE_SHOT and not full(dataset)
    return False


def _returns(body: Sequence[cst.CSTNode], index: int, target: cst.BaseExpression) -> bool:
    """Whether a statement returns what an assignment has just set."""
    small = _only(body[index]) if index < len(body) else None
    if not isinstance(small, cst.Return) or small.value is None:
        return False
    return _plain(small.value).deep_equals(_plain(target))


def _plain(node: cst.BaseExpression) -> cst.BaseExpression:
    return node.with_changes(lpar=[], rpar=[])


def _returning_lines(body: Sequence[cst.CSTNode], index: int, iterator: str) -> int:
    """The number of the next statements that only return the iterator's next element."""
    small = _only(body[index]) if index < len(body) else None
    match small:
        case cst.Return(value=value) if _is_next(value, iterator):
            return 1
        case cst.Assign(targets=[cst.AssignTarget(target=target)], value=value) if _is_next(
            value, iterator
        ):
            return 2 if _returns(body, index + 1, target) else 0
    return 0


def _is_next(value: cst.BaseExpression | None, iterator: str) -> bool:
    found = _iterator_of(value)
    return isinstance(found, cst.Name) and found.value == iterator


def _uses(body: Sequence[cst.CSTNode], name: str) -> int:
    found = _Uses(name)
    for line in body:
        line.visit(found)
    return found.number


class _Uses(cst.CSTVisitor):
    def __init__(self, name: str):
        super().__init__()
        self._name = name
        self.number = 0

    def visit_Name(self, node: cst.Name) -> None:
        self.number += node.value == self._name


def _returned(
    source: SourceFile, lines: Sequence[cst.CSTNode], iterator: cst.BaseExpression
) -> Returned:
    """`return dataset` in place of the first statement; the other lines are removed."""
    first = _only(lines[0])
    value, edits = first.value, []
    if isinstance(first, cst.Assign):
        end = source.span(first.targets[0]).end
        equals = _EQUALS.match(source.text, end)
        edits.append(Edit(Span(source.span(first).start, equals.end()), "return "))
    outer, inner = source.span(value), _dataset_span(source, iterator)
    # Without the parentheses of a call, several lines need others.
    left, right = "", ""
    if iterator.args and "\n" in source.text[inner.start : inner.end]:
        left, right = "(", ")"
    edits.append(Edit(Span(outer.start, inner.start), left))
    edits.append(Edit(Span(inner.end, outer.end), right))
    for line in lines[1:]:
        end = source.line_end(source.span(_only(line)).end - 1)
        edits.append(Edit(Span(source.line_start(source.position(line)[0]), end), ""))
    lost = any("#" in source.text[e.span.start : e.span.end] for e in edits)
    edits = [e for e in edits if e.text or e.span.end > e.span.start]
    return Returned(first, () if lost else tuple(edits), iterator.func, tuple(lines[1:]))


def _dataset_span(source: SourceFile, iterator: cst.BaseExpression) -> Span:
    """The text of the dataset, with its parentheses."""
    if iterator.args:
        return source.span(iterator.args[0])
    return Span(source.span(iterator.func).start, source.span(iterator.func.dot).start)
