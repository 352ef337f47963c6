"""Command: flags, config, help, log and exit codes of a verb."""

import dataclasses
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from absl import flags
from absl.flags import FlagValues

from tfbig.cli.config_file import define_overrides, described_fields, load_config
from tfbig.cli.logs import RunLog
from tfbig.clusters.find import is_chief
from tfbig.errors import TfbigError

_CONFIG_HELP = (
    "the config: FILE.py, FILE.py:ARGUMENT, or the name of one that comes with tfbig, such as "
    "digits_mlp; each of its fields is a flag as well: "
    "--config.optimizer.learning_rate=1e-3"
)


class UsageError(Exception):
    """A flag is unknown, missing, or has an invalid value."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a verb.

    Args:
        name: the name without dashes.
        help: the text for --help.
        default: the default value.
        integer: whether the value is an integer; otherwise it is a string.
        path: whether the value is a path, in which "~" is the home folder.
        required: for a required flag, the name of its value in the usage line.
    """

    name: str
    help: str
    default: Any = None
    integer: bool = False
    path: bool = False
    required: str | None = None


STRATEGY = Flag(
    "strategy",
    "auto, one_device, mirrored or multi_worker; auto is multi_worker where the environment "
    "describes a cluster (TF_CONFIG, SLURM, Kubernetes)",
    default="auto",
)
DEVICES = Flag(
    "devices",
    "the number of devices, or their names: 2, or GPU:0,GPU:1; on a machine with CPUs only, the "
    "number of logical CPU devices",
)
MODEL_DIR = Flag(
    "model_dir",
    "the folder for checkpoints, summaries, logs and the exported model; a run that is restarted "
    "with the same folder resumes",
    path=True,
)
MAX_STEPS = Flag(
    "max_steps",
    "train until this step; overrides the config's max_steps and epochs",
    integer=True,
)
EPOCHS = Flag(
    "epochs",
    "train for this many passes over the data; overrides the config's max_steps and epochs",
    integer=True,
)
CLUSTER_TIMEOUT = Flag(
    "cluster_timeout",
    "the number of seconds to wait for all tasks of a cluster, 300 by default; then the command "
    "fails and names the missing ones",
    integer=True,
)
TRAINING_FLAGS = (STRATEGY, DEVICES, MODEL_DIR, MAX_STEPS, EPOCHS, CLUSTER_TIMEOUT)


@dataclasses.dataclass(frozen=True)
class Command:
    """A verb: its flags, and the function that runs it with a config.

    Example:

        def main(argv: list[str]) -> int:
            return Command("train", TRAINING_FLAGS, _train).main(argv)

    Args:
        verb: the word after tfbig, and the name of the log file.
        flags: all flags except --config, which every verb has. "model_dir", if it is one of
            them, is the folder of the log file.
        work: receives the ConfigDict and the values of the flags, and returns the exit code. It
            should import modules that need TensorFlow itself, because --help and bad flags do not
            need it.
    """

    verb: str
    flags: tuple[Flag, ...]
    work: Callable[[Any, FlagValues], int]

    def main(self, argv: list[str]) -> int:
        """Runs the verb and returns its exit code.

        Args:
            argv: the command line, including "tfbig" and the verb.

        Returns:
            The result of `work`, 0 for --help, 1 for an error, 2 for bad flags.
        """
        words = argv[2:]
        # Dotted names in a config may be modules of the current folder, as with `python script.py`.
        sys.path.insert(0, os.getcwd())
        log = RunLog(self.verb, None)
        try:
            path, words = _take_config(words)
            if asks_for_help(words):
                full = "--helpfull" in words or "-helpfull" in words
                print(self._help(path if full else None))
                return 0
            if path is None:
                raise UsageError("--config=FILE is missing")
            config = load_config(path)
            values = self._parse(config, words)
            # Only the chief of a cluster writes to model_dir.
            log = RunLog(self.verb, getattr(values, "model_dir", None) if is_chief() else None)
            return self.work(config, values)
        except UsageError as error:
            print(f"error: {error}; tfbig {self.verb} --help lists the flags", file=sys.stderr)
            return 2
        except Exception as error:
            log.report(error)
            return 1
        finally:
            log.close()

    def _parse(self, config: Any, words: list[str]) -> FlagValues:
        """Parses the flags; those that start with --config. change the config.

        Raises:
            UsageError: a flag is unknown, missing, or has an invalid value.
            UserError: a field of the config is unknown.
        """
        values = self._define_flags()
        try:
            define_overrides(config, words, values)
            rest = values(["tfbig", *words])
        except TfbigError:
            raise
        # For an invalid value, config_flags raises whatever Python raised when it converted it.
        except (flags.Error, ValueError, TypeError, LookupError, AttributeError) as error:
            raise UsageError(" ".join(str(error).split()).rstrip(".")) from error
        if rest[1:]:
            raise UsageError(f"expected flags, received {rest[1]!r}")
        for flag in self.flags:
            value = getattr(values, flag.name)
            if flag.required and value is None:
                raise UsageError(f"--{flag.name}={flag.required} is missing")
            if flag.path and value is not None:
                setattr(values, flag.name, os.path.expanduser(value))
        return values

    def _define_flags(self) -> FlagValues:
        # Use our own FlagValues: absl's global one has dozens of unrelated flags.
        values = flags.FlagValues()
        for flag in self.flags:
            define = flags.DEFINE_integer if flag.integer else flags.DEFINE_string
            define(flag.name, flag.default, flag.help, flag_values=values)
        return values

    def _help(self, config_path: str | None) -> str:
        required = [f"--{flag.name}={flag.required} " for flag in self.flags if flag.required]
        lines = [f"usage: tfbig {self.verb} {''.join(required)}--config=FILE [flags]", ""]
        for name, text in [("config", _CONFIG_HELP), *((f.name, f.help) for f in self.flags)]:
            lines += textwrap.wrap(
                text, 96, initial_indent=f"  --{name:<15} ", subsequent_indent=" " * 20
            )
        if config_path is None:
            more = f"tfbig {self.verb} --config=FILE --helpfull also lists the fields of a config."
            lines += ["", more]
        else:
            lines += ["", f"The fields of {config_path} and their values:", ""]
            lines += [f"  {line}" for line in described_fields(load_config(config_path))]
        return "\n".join(lines)


def devices_of(text: str | None) -> int | list[str] | None:
    """Converts --devices for train_distributed: "2" to 2, and "GPU:0,GPU:1" to a list."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text.split(",")


def _take_config(words: list[str]) -> tuple[str | None, list[str]]:
    """Returns the value of --config, and the remaining words."""
    path, rest, words = None, [], list(words)
    while words:
        word = words.pop(0)
        if word in ("--config", "-config"):
            if not words:
                raise UsageError("--config needs a file")
            path = words.pop(0)
        elif word.startswith(("--config=", "-config=")):
            path = word.partition("=")[2]
        else:
            rest.append(word)
    return path, rest


def asks_for_help(words: list[str]) -> bool:
    """Returns whether one of the words is --help, -h or a similar flag."""
    return any(word.lstrip("-") in ("help", "helpshort", "helpfull", "h") and word.startswith("-")
               for word in words)  # fmt: skip
