"""The command's first word, and what it says when that word is wrong."""

import subprocess
import sys

import pytest

import tfbig

VERBS = "train, finetune, evaluate, launch, migrate"


def test_help_lists_the_verbs(command):
    result = command("--help", cold=True)
    assert result.code == 0
    assert result.out[0] == "usage: tfbig <verb> [flags]"
    listed = [line.split()[1] for line in result.out if line.startswith("  tfbig ")]
    assert listed == VERBS.split(", ")
    assert result.err == []


def test_version_is_the_packages(command):
    result = command("--version", cold=True)
    assert (result.code, result.out, result.err) == (0, [f"tfbig {tfbig.__version__}"], [])


def test_no_verb_shows_the_usage_and_is_a_usage_error(command):
    result = command(cold=True)
    assert result.code == 2
    assert result.out == []
    assert result.err[0] == "usage: tfbig <verb> [flags]"


def test_an_unknown_verb_lists_the_verbs_in_one_line(command):
    result = command("trian", "--config=x.py", cold=True)
    assert result.code == 2
    assert len(result.err) == 1
    assert result.err[0].startswith("error: unknown verb 'trian'; the verbs are: train, ")


@pytest.mark.parametrize("verb", ["predict", "export", "plan"])
def test_a_verb_that_is_not_built_says_so(command, verb):
    result = command(verb, cold=True)
    assert result.code == 2
    assert len(result.err) == 1
    assert result.err[0].startswith(f"error: tfbig {verb} is not built yet; the verbs are: train, ")


@pytest.mark.parametrize(
    "code",
    [
        "import tfbig",
        "from tfbig.cli.main import main; main(['tfbig', '--help'])",
        "from tfbig.cli.main import main; main(['tfbig', 'train', '--help'])",
        "from tfbig.cli.main import main; main(['tfbig', 'train', '--config=no.py'])",
        "from tfbig.cli.main import main; main(['tfbig', 'finetune', '--help'])",
        "from tfbig.cli.main import main; main(['tfbig', 'evaluate', '--help'])",
        "from tfbig.cli.main import main; main(['tfbig', 'launch', '--help'])",
        "from tfbig.cli.main import main; main(['tfbig', 'launch', '--workers=1', '--', 'true'])",
    ],
)
def test_what_needs_no_tensorflow_does_not_import_it(code):
    heavy = "tensorflow", "keras", "numpy", "sklearn", "tensorflow_datasets"
    check = f"{code}; import sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
