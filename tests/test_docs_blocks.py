"""Every code block of README.md, CONTRIBUTING.md and docs/ runs, or says why it does not."""

import os
import signal
import subprocess
import sys

import pytest

from tests import docs_blocks, nursery
from tests.docs_blocks import PAGES, Block, blocks

SECONDS = 600

# Pages with Python that another test runs, because it looks at what the code gives.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/callbacks.md": "tests/training/test_callbacks_docs.py",
    "docs/from_estimator.md": "tests/test_from_estimator.py",
}

# How many blocks of a page do not run. Each says why after its backticks.
NOT_RUN = {
    "README.md": 2,
    "CONTRIBUTING.md": 1,
    "docs/finetuning.md": 1,
    "docs/from_estimator.md": 7,
    "docs/numbers.md": 1,
}


def runs(block: Block, *, slow: bool) -> bool:
    return block.how == "" or (slow and block.how == "slow")


def run_page(page: str, folder, *, slow: bool) -> None:
    """Runs the Python of a page in one process, then each of its commands in its own."""
    place = folder / "here"
    docs_blocks.make_folder(place)
    mine = [b for b in blocks(page) if runs(b, slow=slow)]
    lines = [b.line for b in mine if b.language == "python" and page not in ELSEWHERE]
    if lines:
        run(folder / "python", docs_blocks.in_folder, str(place), page, lines)
    for block in mine:
        if block.language == "sh":
            for number, words in enumerate(docs_blocks.commands(block)):
                run_command(words, place, folder / f"sh{block.line}.{number}", page)


def run_command(words: list[str], place, folder, page: str) -> None:
    if words[0] == "tfbig" and words[1] != "launch":
        code = run(folder, docs_blocks.command_in_folder, str(place), words)
        assert code == 0, (page, words)
    elif words[0] in ("tfbig", "python"):
        start = ["-m", "tfbig", *words[1:]] if words[0] == "tfbig" else words[1:]
        python = [sys.executable, *start]
        programs = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        paths = {"PATH": programs, "PYTHONPATH": str(docs_blocks.ROOT)}
        done = subprocess.run(
            python,
            cwd=place,
            env={**os.environ, **paths, "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, (page, words, done.stdout[-3000:], done.stderr[-6000:])
    else:
        raise AssertionError(f"{page}: {words[0]} cannot run in a test; write no-run and why")


def run(folder, function, *arguments):
    """Calls a function in a forked process; returns its result."""
    process = nursery.start(function, folder, arguments)
    try:
        assert process.ended(SECONDS), f"not done after {SECONDS} s:\n{process.out}{process.err}"
    finally:
        process.send(signal.SIGKILL)
    assert process.code == 0, f"{process.out[-3000:]}{process.err[-6000:]}"
    return process.result()


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(runs(b, slow=False) for b in blocks(p))])
def test_the_blocks_of_a_page_run(page, tmp_path):
    run_page(page, tmp_path, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.how == "slow" for b in blocks(p))])
def test_the_slow_blocks_of_a_page_run(page, tmp_path):
    run_page(page, tmp_path, slow=True)


def test_every_fence_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            at = f"{page}:{block.line}: ```{block.language} {block.how}"
            assert block.language in docs_blocks.LANGUAGES, at
            reason = block.how.removeprefix("no-run: ")
            assert block.how in ("", "slow") or (reason != block.how and reason), at
            assert block.language != "text" or not block.how, at


def test_the_blocks_that_do_not_run_are_counted():
    found = {p: sum(b.how.startswith("no-run") for b in blocks(p)) for p in PAGES}
    assert {page: count for page, count in found.items() if count} == NOT_RUN
    assert set(ELSEWHERE) <= set(PAGES)
    assert all(os.path.exists(docs_blocks.ROOT / test) for test in ELSEWHERE.values())
