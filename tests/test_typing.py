"""What editors and type checkers see of the package, whose public names are loaded lazily."""

import ast
import configparser
import importlib
import pathlib
import subprocess
import sys

import pytest

import tfbig

ROOT = pathlib.Path(tfbig.__file__).parents[1]
LAZY = (
    *("tfbig", "tfbig.callbacks", "tfbig.compat", "tfbig.compat.v1", "tfbig.compat.v1.layers"),
    *("tfbig.data", "tfbig.datasets", "tfbig.estimator", "tfbig.finetuning", "tfbig.layers"),
    "tfbig.models",
)


def names_for_type_checkers(module):
    """The names that a module binds under `if TYPE_CHECKING`, in the form that re-exports them."""
    names = set()
    for block in ast.parse(pathlib.Path(module.__file__).read_text()).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for statement in block.body:
                if isinstance(statement, ast.ImportFrom):
                    names.update(a.name for a in statement.names if a.asname == a.name)
                elif isinstance(statement, ast.Assign):
                    names.add(statement.targets[0].id)
    return names


@pytest.mark.parametrize("name", LAZY)
def test_type_checkers_see_every_lazy_name_and_no_other(name):
    module = importlib.import_module(name)
    assert names_for_type_checkers(module) == {*module.__all__} - {"__version__"}


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "tfbig" / "py.typed").exists()


@pytest.mark.slow
def test_the_type_checker_refuses_a_misspelt_argument(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import tfbig\n"
        "tfbig.RunConfig(max_stepz=1)\n"
        "tfbig.train_distributed(print, print, max_stepz=1)\n"
        "tfbig.no_such_name\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=setup.cfg", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [line.split(": ", 2) for line in done.stdout.splitlines() if ": error: " in line]
    assert [(place.rpartition(":")[2], said.split(" for ")[0]) for place, _, said in errors] == [
        ("2", 'Unexpected keyword argument "max_stepz"'),
        ("3", 'Unexpected keyword argument "max_stepz"'),
        ("4", 'Module has no attribute "no_such_name"  [attr-defined]'),
    ], done.stdout + done.stderr


def test_the_modules_that_are_checked_strictly_exist():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    patterns = [
        p for s in config.sections() if s.startswith("mypy-tfbig") for p in s[5:].split(",")
    ]
    assert len(patterns) > 30
    for pattern in patterns:
        path = ROOT / pattern.removesuffix(".*").replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), pattern
