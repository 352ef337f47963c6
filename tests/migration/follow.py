"""Does what the advice of `tfbig migrate` says, word for word, as a person would."""

import ast
import re

from tfbig.migration.migrate import migrate
from tfbig.migration.source import Finding, SourceFile

_WRITE = re.compile(r"(?:^|; )write (?=(?:tf|tfbig|ml_collections|dataset)\b)")
_IMPORT = re.compile(r", and import (\w+)$")


def followed(text: str) -> tuple[str, int]:
    """Migrates a program, and follows each line of advice.

    Returns:
        The program, and the number of lines that were changed by hand.

    Raises:
        AssertionError: an advice does not say what to do, or the program still has names that
            cannot work.
    """
    text = migrate(SourceFile("program.py", text.encode())).text
    lines = set()
    while found := migrate(SourceFile("program.py", text.encode())).by_hand:
        last = found[-1]  # so that the lines of the others keep their numbers
        lines.add(last.line)
        text = _edited(text, last)
        assert len(migrate(SourceFile("program.py", text.encode())).by_hand) < len(found), last
    return text, len(lines)


def _edited(text: str, finding: Finding) -> str:
    start = _offset(text, finding.line, finding.column - 1)
    write = _WRITE.search(finding.instead)
    if write is not None:
        code = _expression(finding.instead[write.end() :])
        begin, end, arguments = _call(text, start, outer="in place of apply" in finding.instead)
        text = text[:begin] + code.replace("…", arguments) + text[end:]
        module = _IMPORT.search(finding.instead)
        return f"import {module[1]}\n{text}" if module else text
    if finding.instead.startswith("its use_tpu is True; write use_tpu=False"):
        _, end, _ = _call(text, start)
        return f"{text[: end - 1]}, use_tpu=False{text[end - 1 :]}"
    if finding.instead.startswith("write use_tpu=False"):
        return text[:start] + "use_tpu=False" + text[start + len("use_tpu=True") :]
    assert re.match(r"leave (it|host_call|partitioners) out", finding.instead), finding
    if re.match(r"\w+=", text[start:]):  # an argument
        end = start + len(_source(text, start))
        return text[:start].rstrip(", \n") + text[end:]
    line = text.splitlines(keepends=True)
    return "".join(line[: finding.line - 1] + line[finding.line :])


def _offset(text: str, line: int, column: int) -> int:
    return sum(map(len, text.splitlines(keepends=True)[: line - 1])) + column


def _expression(text: str) -> str:
    """The code at the beginning of a text: up to the parenthesis that closes its first one."""
    for end in range(len(text), 0, -1):
        try:
            ast.parse(text[:end].replace("…", ""), mode="eval")
        except SyntaxError:
            continue
        if text[end - 1] == ")":
            return text[:end]
    raise AssertionError(f"no code in: {text}")


def _source(text: str, start: int) -> str:
    """The text of the keyword argument that begins at an offset."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword) and _offset(text, node.lineno, node.col_offset) == start:
            return ast.get_source_segment(text, node)
    raise AssertionError(f"no argument at {text[start:]!r}")


def _call(text: str, start: int, outer: bool = False) -> tuple[int, int, str]:
    """Where the call of the name at an offset begins and ends, and its arguments.

    Args:
        text: the program.
        start: the offset of the name.
        outer: take the call that this one is an argument of.
    """
    for node in ast.walk(ast.parse(text)):
        inner = node.args[0] if outer and isinstance(node, ast.Call) and node.args else node
        if not isinstance(node, ast.Call) or not isinstance(inner, ast.Call):
            continue
        if _offset(text, inner.lineno, inner.col_offset) != start:
            continue
        whole = ast.get_source_segment(text, node)
        begin = _offset(text, node.lineno, node.col_offset)
        function = ast.get_source_segment(text, node.func)
        return begin, begin + len(whole), whole[len(function) + 1 : -1]
    raise AssertionError(f"no call at {text[start:]!r}")
