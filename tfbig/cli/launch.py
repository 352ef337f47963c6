"""`tfbig launch`: runs a command as the tasks of a cluster on this machine."""

import sys
import textwrap

from absl import flags

from tfbig.cli.command import UsageError, asks_for_help
from tfbig.errors import UserError
from tfbig.launch.local import launch

_USAGE = "usage: tfbig launch [flags] -- command …"
_EXAMPLE = "tfbig launch --workers=2 -- python train.py"
# Name, default, minimum and help.
_NUMBERS = (
    ("workers", 2, 1, "the number of workers; the first is the chief, unless there is a ps"),
    ("ps", 0, 0, "the number of parameter servers; with one, there is a chief besides the workers"),
    (
        "restarts",
        3,
        0,
        "how often all tasks are restarted after a failure; a command with a model_dir resumes "
        "from its checkpoint; with --ps also how often each worker is restarted alone",
    ),
    (
        "threads_per_task",
        None,
        1,
        "the number of threads of each task; by default, the tasks that train share the cores, "
        "unless TF_NUM_INTRAOP_THREADS or similar variables are set",
    ),
)
_EVALUATOR = "also run an evaluator, which evaluates each checkpoint"


def main(argv: list[str]) -> int:
    """Runs `tfbig launch …` and returns its exit code.

    Example: `main(["tfbig", "launch", "--workers=2", "--", "python", "train.py"])`.

    Args:
        argv: the command line, including "tfbig" and "launch".

    Returns:
        The exit code of the chief, 1 for an error, 2 for bad flags.
    """
    words, separator, command = _split(argv[2:])
    try:
        if asks_for_help(words):
            print(_help())
            return 0
        values = _parse(words)
        if not command:
            missing = "there is no command after --" if separator else "there is no -- and command"
            raise UsageError(f"{missing}; write {_EXAMPLE}")
        return launch(command, **values)
    except UsageError as error:
        print(f"error: {error}; tfbig launch --help lists the flags", file=sys.stderr)
        return 2
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _split(words: list[str]) -> tuple[list[str], bool, list[str]]:
    """Returns the words before the first "--", whether there is one, and the words after it."""
    if "--" not in words:
        return words, False, []
    index = words.index("--")
    return words[:index], True, words[index + 1 :]


def _parse(words: list[str]) -> dict[str, int | bool | None]:
    values = flags.FlagValues()
    for name, default, minimum, text in _NUMBERS:
        flags.DEFINE_integer(name, default, text, lower_bound=minimum, flag_values=values)
    flags.DEFINE_boolean("evaluator", False, _EVALUATOR, flag_values=values)
    try:
        rest = values(["tfbig", *words])[1:]
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split()).rstrip(".")) from error
    if rest:
        raise UsageError(
            f"expected flags, received {rest[0]!r}; the command comes after --: {_EXAMPLE}"
        )
    return {name: values[name].value for name in (*(n for n, *_ in _NUMBERS), "evaluator")}


def _help() -> str:
    texts = {
        name: text if default is None else f"{text} (default: {default})"
        for name, default, _, text in _NUMBERS
    }
    lines = [_USAGE, "", f"for example: {_EXAMPLE}", ""]
    for name, text in (texts | {"evaluator": _EVALUATOR}).items():
        lines += textwrap.wrap(
            text, 96, initial_indent=f"  --{name:<17}", subsequent_indent=" " * 21
        )
    lines += [
        "",
        "Every task reads its role from TF_CONFIG. The exit code is that of the chief.",
    ]
    return "\n".join(lines)
