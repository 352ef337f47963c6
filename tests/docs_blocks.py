"""The code blocks of README.md and docs/: finds them, and runs those of a page one after another.

The first word after a fence's backticks is the language, and what follows says how the block runs:

    ```python                    runs in the quick tests, after the page's earlier blocks
    ```python slow               runs in the slow tests, after the page's earlier blocks
    ```sh no-run: needs a GPU    does not run, for this reason
    ```text                      no code: output, a picture
"""

import dataclasses
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted(ROOT.glob("docs/**/*.md")),
    ]
}
LANGUAGES = ("python", "sh", "text")
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the first word after the backticks.
        how: what follows it: "", "slow" or "no-run: <reason>".
        code: its lines.
        line: the number of its first line in the page.
    """

    language: str
    how: str
    code: str
    line: int


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page of PAGES, in their order."""
    text = PAGES[page].read_text()
    found = []
    for match in _FENCE.finditer(text):
        language, _, how = match[1].partition(" ")
        line = text.count("\n", 0, match.start(2)) + 1
        found.append(Block(language, how.strip(), match[2], line))
    return found


def commands(block: Block) -> list[list[str]]:
    """The command lines of a block of language "sh", without their comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [w for w in words if w]


def run_python(page: str, lines: Sequence[int]) -> None:
    """Runs the Python blocks of a page that begin at these lines, in the present folder.

    They share their names, as the cells of a notebook do.
    """
    names: dict = {"__name__": "__main__"}
    for block in blocks(page):
        if block.line in lines:  # empty lines before it, so that errors name the page's line
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, page, "exec"), names)


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder that has configs/ and examples/, as the clone has."""
    folder.mkdir()
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)


def in_folder(folder: str, page: str, lines: Sequence[int]) -> None:
    """Runs Python blocks in a folder."""
    _enter(folder)
    run_python(page, lines)


def command_in_folder(folder: str, words: Sequence[str]) -> int:
    """Runs the command `tfbig …` in a folder; returns the exit code."""
    from tfbig.cli.main import main

    _enter(folder)
    return main(list(words))


def _enter(folder: str) -> None:
    import tensorflow as tf

    # A page may train on one device before it trains on two, and TensorFlow starts once only.
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    os.chdir(folder)
    sys.path.insert(0, str(ROOT))
