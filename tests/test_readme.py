"""What the README shows is true: its Python runs, its commands and paths exist."""

import importlib
import re
import subprocess
import sys

import pytest

import tfbig
from tests.docs_blocks import PAGES, ROOT, blocks

README = PAGES["README.md"].read_text()


@pytest.mark.slow
def test_the_python_runs_in_one_script_and_reaches_its_figures(tmp_path):
    first, *others = (b.code for b in blocks("README.md") if b.language == "python")
    assert len(first.strip().splitlines()) <= 24
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([first, *others])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    accuracy, error = re.findall(r"^\d\.\d+$", done.stdout, re.MULTILINE)
    assert float(accuracy) >= 0.97
    assert float(error) < 0.5
    assert (tmp_path / "runs/readme/export/saved_model.pb").is_file()


def test_the_names_that_the_documentation_uses_exist():
    for page, path in PAGES.items():
        for name in set(re.findall(r"\btfbig((?:\.\w+)+)(?!\w*[/.(*])", path.read_text())):
            found = tfbig
            for part in name.strip(".").split("."):
                found = getattr(found, part, None) or importlib.import_module(f"tfbig{name}")
            assert found is not None, (page, name)


def test_every_command_and_file_that_is_named_exists():
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    makefile = (ROOT / "Makefile").read_text()
    assert {"train", "test"} <= targets
    assert not [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)]


def test_every_path_that_a_page_names_exists():
    for page, path in PAGES.items():
        if page.startswith("docs/decisions"):
            continue  # records of a day, whose paths may be gone
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        folders = "tfbig|tests|docs|configs|benchmarks|examples"
        for name in re.findall(rf"(?<![\w./])(?:{folders})/[\w/]*(?:\.\w+)?", text):
            assert (ROOT / name).exists(), (page, name)


def test_every_link_to_a_page_and_its_section_exists():
    for page, path in PAGES.items():
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", path.read_text()):
            name, _, section = target.partition("#")
            linked = (path.parent / name).resolve() if name else path
            assert linked.is_file(), (page, target)
            if section:
                titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
                anchors = [re.sub(r"[^\w -]", "", t.lower()).replace(" ", "-") for t in titles]
                assert section in anchors, (page, target)
