"""What the README shows is true: its Python runs, its commands exist."""

import importlib
import pathlib
import re
import subprocess
import sys

import tfbig

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_twenty_lines_of_python_run_and_reach_the_accuracy(tmp_path):
    code = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    assert len(code.strip().splitlines()) <= 24
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert float(done.stdout.splitlines()[-1]) >= 0.97
    assert (tmp_path / "runs/readme/export/saved_model.pb").is_file()


def test_the_names_that_the_documentation_uses_exist():
    pages = {"README.md": README} | {p.name: p.read_text() for p in ROOT.glob("docs/*.md")}
    for page, text in pages.items():
        for name in set(re.findall(r"\btfbig((?:\.\w+)+)(?!\w*[/.])", text)):
            found = tfbig
            for part in name.strip(".").split("."):
                found = getattr(found, part, None) or importlib.import_module(f"tfbig{name}")
            assert found is not None, (page, name)


def test_every_command_and_file_that_is_named_exists():
    targets = set(re.findall(r"\bmake (\w+)", README)) - {"PYTHON"}
    makefile = (ROOT / "Makefile").read_text()
    assert {"train", "test"} <= targets
    assert not [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)]
    paths = re.findall(r"\b(?:docs|configs|benchmarks|examples)/[\w./]*", README)
    assert len(paths) >= 5
    assert not [path for path in paths if not (ROOT / path).exists()]
