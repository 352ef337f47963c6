"""`tfbig migrate`: lists what must change in TF1 and tf.estimator scripts, and changes part."""

import sys
import textwrap
from typing import TYPE_CHECKING

from absl import flags

from tfbig.cli.command import UsageError, asks_for_help
from tfbig.errors import UserError

if TYPE_CHECKING:
    from tfbig.migration.migrate import Migration
    from tfbig.migration.source import Finding

_WRITE = "make the mechanical changes in the files; everything else stays unchanged"
_HELP = f"""usage: tfbig migrate FILE… [--write]

for example: tfbig migrate train.py model.py --write

  --write   {_WRITE}

Prints FILE:LINE:COLUMN, the code, and its replacement.
Exit codes: 0 nothing is left to change, 3 something is left (mechanical changes without --write, or
changes by hand), 1 a file cannot be read or written, 2 bad flags. Without --write it can be a check
in CI."""


def main(argv: list[str]) -> int:
    """Runs `tfbig migrate …` and returns its exit code.

    Example: `main(["tfbig", "migrate", "train.py", "--write"])`.

    Args:
        argv: the command line, including "tfbig" and "migrate".

    Returns:
        0 if nothing is left to change, 1 for an error, 2 for bad flags, 3 if something is left.
    """
    words = argv[2:]
    if asks_for_help(words):
        print(_HELP)
        return 0
    try:
        paths, write = _parse(words)
    except UsageError as error:
        print(f"error: {error}; tfbig migrate --help lists the flags", file=sys.stderr)
        return 2
    try:  # --help works without libcst
        from tfbig.migration.migrate import migrate
        from tfbig.migration.source import SourceFile
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    left = failed = False
    for path in paths:
        try:
            source = SourceFile.read(path)
            found = migrate(source)
            if write and found.mechanical:
                source.write(found.text)
        except UserError as error:
            print(f"error: {error}.", file=sys.stderr)
            failed = True
            continue
        print("\n".join(_report(found, write)))
        left = left or bool(found.by_hand) or (bool(found.mechanical) and not write)
    return 1 if failed else 3 if left else 0


def _parse(words: list[str]) -> tuple[list[str], bool]:
    values = flags.FlagValues()
    flags.DEFINE_boolean("write", False, _WRITE, flag_values=values)
    values.set_gnu_getopt(True)  # flags may come after the files
    try:
        paths = values(["tfbig", *words])[1:]
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split()).rstrip(".")) from error
    if not paths:
        raise UsageError("there is no file; write tfbig migrate FILE… [--write]")
    return list(dict.fromkeys(paths)), values.write


def _report(found: "Migration", written: bool) -> list[str]:
    """Returns the lines about one file: mechanical changes, changes by hand, and names to keep."""
    lines = []
    if found.mechanical:
        lines += [f"{found.path}: {'changed' if written else 'mechanical, --write makes them'}:"]
        lines += [_line(found.path, f, "->") for f in found.mechanical]
    if found.by_hand:
        lines += [f"{found.path}: by hand:"]
        lines += [_line(found.path, f, ":") for f in found.by_hand]
    if not lines:
        lines += [f"{found.path}: nothing to change"]
    if found.kept:
        text = f"can stay: {', '.join(found.kept)}"
        lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent="    ")
    return lines


def _line(path: str, finding: "Finding", sign: str) -> str:
    what = finding.what if len(finding.what) <= 60 else f"{finding.what[:59]}…"
    sign = f" {sign} " if sign == "->" else f"{sign} "
    return f"  {path}:{finding.line}:{finding.column}: {what}{sign}{finding.instead}"
