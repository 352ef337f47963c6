"""Every private name of Keras and TensorFlow has a guard, and only _private_api uses one."""

import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

from tfbig import _private_api

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = [p for p in ROOT.glob("tfbig/**/*.py") if p.parent.name != "_private_api"]


def public_wrappers() -> dict[str, str]:
    """The docstring of each public function and class of _private_api, on one line, by name."""
    found = {}
    for path in (ROOT / "tfbig" / "_private_api").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            is_wrapper = isinstance(node, (ast.FunctionDef, ast.ClassDef))
            if is_wrapper and not node.name.startswith("_"):
                found[node.name] = " ".join((ast.get_docstring(node) or "").split())
    return found


WRAPPERS = public_wrappers()
STATEMENT = re.compile(r"Reason: .+?\. Guard: (tests/[\w/]+\.py(?:, tests/[\w/]+\.py)*)\.")


def test_each_wrapper_is_exported():
    assert set(WRAPPERS) == set(_private_api.__all__)


def test_each_wrapper_states_its_reason_and_its_guard():
    missing = [name for name, text in WRAPPERS.items() if not STATEMENT.search(text)]
    assert not missing, 'write "Reason: … Guard: tests/….py." in the docstrings of these'


def test_each_guard_is_a_file_of_tests_that_names_the_wrapper():
    wrong = []
    for wrapper, text in WRAPPERS.items():
        statement = STATEMENT.search(text)
        for name in statement[1].split(", ") if statement else ():
            code = (ROOT / name).read_text() if (ROOT / name).exists() else ""
            if "\ndef test_" not in code or not re.search(rf"\b{wrapper}\b", code):
                wrong.append(f"{wrapper}: {name}")
    assert not wrong, "these files have no test or do not mention the wrapper"


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
