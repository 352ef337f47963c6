"""Every private name of Keras and TensorFlow has a guard, and only _private_api uses one."""

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator

import pytest

from tests.equivalence.cases import CASES
from tfbig import _private_api

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [p for p in ROOT.glob("tfbig/**/*.py") if p.parent.name != "_private_api"]


def guards() -> dict[str, str]:
    """What follows "Guard:" or "guard:" in each function's docstring, on one line."""
    found = {}
    for name, function in inspect.getmembers(_private_api, inspect.isfunction):
        if function.__module__.startswith(f"{_private_api.__name__}."):
            text = " ".join((function.__doc__ or "").split())
            if "Guard: " in text:
                found[name] = text.split("Guard: ")[1]
    return found


def names_of_tests() -> set[str]:
    """The names of all test functions in this folder."""
    trees = [ast.parse(p.read_text()) for p in pathlib.Path(__file__).parent.glob("test_*.py")]
    return {n.name for tree in trees for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_each_promised_guard_exists():
    here = names_of_tests()
    assert len(guards()) > 10
    missing = []
    for function, guard in guards().items():
        names = re.findall(r"tests/[\w/]+(?:\.py)?|\btest_\w+|case \w+", guard)
        if not names:
            missing.append(f"{function}: no test in {guard!r}")
        for name in names:
            if name.startswith("tests/"):
                path = ROOT / name
                files = path.glob("test_*.py") if path.is_dir() else [path]
                found = any(f.exists() and "\ndef test_" in f.read_text() for f in files)
            elif name.startswith("case "):
                found = name.removeprefix("case ") in CASES
            else:
                found = name in here
            if not found:
                missing.append(f"{function}: {name}")
    assert not missing


def test_no_other_file_of_tfbig_uses_private_names():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        for line, name in private_names(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import keras.src.layers", ["keras.src.layers"]),
        ("from tensorflow.python import eager", ["tensorflow.python.eager"]),
        ("tf.python", ["tf.python"]),
        ("layer._inner", ["layer._inner"]),
        ("getattr(layer, '_inner')", ["getattr(layer, '_inner')"]),
        ("self._own + os._exit + value._replace", []),
    ],
)
def test_private_names_are_found(text, found):
    assert [name for _, name in private_names(ast.parse(text))] == found


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Gives the lines and the private names of other packages in a module."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            names = [name]
            own = ast.unparse(node.value) in ("self", "cls", "super()", "tfbig")
            own = own or name == "os._exit"  # which Python documents
            if re.match(r"_[a-z]", node.attr) and node.attr != "_replace" and not own:
                yield node.lineno, name  # `_replace` is a NamedTuple's
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and re.match(r"_[a-z]", name.value):
                yield node.lineno, ast.unparse(node)
        for name in names:
            if re.match(r"keras\.src\b|(tensorflow|tf)\.python\b", name):
                yield node.lineno, name
