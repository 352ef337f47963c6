"""`tfbig migrate` as a user runs it."""

import pytest

OLD = "import tensorflow as tf\nx = tf.layers.dense(x, 3)\n"
NEW = "import tfbig\nimport tensorflow as tf\nx = tfbig.compat.v1.layers.dense(x, 3)\n"
DONE = [
    "  train.py:1:1: the imports -> add import tfbig",
    "  train.py:2:5: tf.layers.dense -> tfbig.compat.v1.layers.dense",
]


def test_it_lists_changes_and_makes_them_with_write(command, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(OLD)
    ran = command("migrate", "train.py")
    assert (ran.code, ran.err) == (3, [])
    assert ran.out == ["train.py: mechanical, --write makes them:", *DONE]
    assert script.read_text() == OLD
    ran = command("migrate", "train.py", "--write")
    assert (ran.code, ran.out, ran.err) == (0, ["train.py: changed:", *DONE], [])
    assert script.read_text() == NEW
    ran = command("migrate", "train.py", "--write")
    assert (ran.code, ran.out, ran.err) == (0, ["train.py: nothing to change"], [])


def test_changes_by_hand_are_exit_code_3(command, tmp_path):
    (tmp_path / "train.py").write_text("import tensorflow as tf\ntf.Session()\n")
    ran = command("migrate", "--write", "train.py")
    assert (ran.code, ran.err) == (3, [])
    assert ran.out[0] == "train.py: by hand:"
    assert ran.out[1].startswith("  train.py:2:1: tf.Session: there are no sessions")


def test_an_unreadable_file_is_one_line_and_the_others_are_processed(command, tmp_path):
    (tmp_path / "old.py").write_text("print 'x'\n")
    (tmp_path / "notes.ipynb").write_text("{}")
    (tmp_path / "train.py").write_text("x = 1\n")
    ran = command("migrate", "none.py", "old.py", "notes.ipynb", ".", "train.py")
    assert (ran.code, ran.out) == (1, ["train.py: nothing to change"])
    assert ran.err == [
        "error: none.py: No such file or directory; pass Python files.",
        "error: old.py:1:1: is Python 2 (Missing parentheses in call to 'print'. Did you mean "
        "print(...)?); convert it to Python 3 first, for example with 2to3 or futurize.",
        "error: notes.ipynb: is a notebook; save its code as a script first (jupyter nbconvert "
        "--to script).",
        "error: .: Is a directory; pass Python files.",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is no file; write tfbig migrate FILE… [--write]"),
        (["--wirte", "a.py"], "Unknown command line flag 'wirte'. Did you mean: write ?"),
    ],
)
def test_bad_flags_are_one_line_and_exit_code_2(command, words, message):
    ran = command("migrate", *words)
    assert (ran.code, ran.out) == (2, [])
    assert ran.err == [f"error: {message}; tfbig migrate --help lists the flags"]


def test_help_lists_the_flags_and_the_exit_codes(command):
    ran = command("migrate", "--help")
    assert (ran.code, ran.err) == (0, [])
    assert ran.out[0] == "usage: tfbig migrate FILE… [--write]"
    assert any(
        "Exit codes: 0 nothing is left to change, 3 something is" in line for line in ran.out
    )
