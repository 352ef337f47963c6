"""`tfbig launch` as a user runs it."""

import sys

import pytest

EXAMPLE = "tfbig launch --workers=2 -- python train.py"
LISTS = "; tfbig launch --help lists the flags"


def test_a_command_is_run_as_every_task(command):
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    ran = command(
        "launch", "--workers=1", "--ps=1", "--evaluator", "--threads_per_task=3", "--",
        sys.executable, "-c", code,
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, [])
    assert sorted(ran.out) == ["[chief] 3", "[evaluator] 3", "[ps 0] 3", "[worker 0] 3"]


def test_words_after_the_dashes_belong_to_the_command(command):
    code = "import sys; print(sys.argv[1:]); sys.exit(5)"
    ran = command(
        "launch", "--workers=1", "--restarts=0", "--", sys.executable, "-c", code, "--workers=7",
        "--", "--help",
    )  # fmt: skip
    assert (ran.code, ran.out) == (5, ["[worker 0] ['--workers=7', '--', '--help']"])
    assert ran.err == ["tfbig launch: worker 0 ended with exit code 5"]


def test_help_lists_the_flags(command):
    ran = command("launch", "--help")
    assert (ran.code, ran.err) == (0, [])
    assert ran.out[0] == "usage: tfbig launch [flags] -- command …"
    flags = [line.split()[0] for line in ran.out if line.startswith("  --")]
    assert flags == ["--workers", "--ps", "--restarts", "--threads_per_task", "--evaluator"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], f"there is no -- and command; write {EXAMPLE}"),
        (["--workers=2"], f"there is no -- and command; write {EXAMPLE}"),
        (["--workers=2", "--"], f"there is no command after --; write {EXAMPLE}"),
        (
            ["--workers=2", "python", "x.py"],
            f"expected flags, received 'python'; the command comes after --: {EXAMPLE}",
        ),
        (["--workers=0", "--", "true"], "flag --workers=0: 0 is not a positive integer"),
        (["--ps=-1", "--", "true"], "flag --ps=-1: -1 is not a non-negative integer"),
        (
            ["--workers=two", "--", "true"],
            "flag --workers=two: invalid literal for int() with base 10: 'two'",
        ),
        (
            ["--wrkers=2", "--", "true"],
            "Unknown command line flag 'wrkers'. Did you mean: workers ?",
        ),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(command, words, message):
    ran = command("launch", *words)
    assert (ran.code, ran.out, ran.err) == (2, [], [f"error: {message}{LISTS}"])


def test_a_missing_command_is_one_line_and_exit_code_1(command):
    ran = command("launch", "--workers=2", "--", "no-such-program")
    assert (ran.code, ran.out) == (1, [])
    assert ran.err == [
        "error: 'no-such-program' was not found or is not executable; pass a program on PATH, or a "
        "path."
    ]
