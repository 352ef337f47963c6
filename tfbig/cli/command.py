"""What all verbs share: their flags and config, help, log and exit codes."""

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
from tfbig.errors import TfbigError
from tfbig.placement.clusters.find import is_chief

_CONFIG_HELP = (
    "the config: FILE.py, FILE.py:ARGUMENT, or the name of one that comes with tfbig, such as "
    "digits_mlp; every field of it is a flag too: "
    "--config.optimizer.learning_rate=1e-3"
)


class UsageError(Exception):
    """The flags cannot be read."""


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag of a verb.

    Args:
        name: without dashes.
        help: one line or several, for --help.
        default: its value where it is not given.
        integer: whether it is a whole number; else it is text.
        path: whether "~" in it means the home folder.
        required: the name of its value in the usage line, where it must be given.
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
    "how many devices, or their names: 2, or GPU:0,GPU:1; on a machine with CPUs only, so many "
    "logical CPU devices",
)
MODEL_DIR = Flag(
    "model_dir",
    "the folder for checkpoints, summaries, logs and the exported model; a run that is started "
    "again with the same one goes on where it was",
    path=True,
)
MAX_STEPS = Flag(
    "max_steps",
    "train until this step; overrides the config's max_steps and epochs",
    integer=True,
)
EPOCHS = Flag(
    "epochs",
    "or this many passes over the data; overrides the config's max_steps and epochs",
    integer=True,
)
CLUSTER_TIMEOUT = Flag(
    "cluster_timeout",
    "seconds in which all tasks of a cluster have to be there, 300 unless given; after them the "
    "command ends and names those that are missing",
    integer=True,
)
TRAINING_FLAGS = (STRATEGY, DEVICES, MODEL_DIR, MAX_STEPS, EPOCHS, CLUSTER_TIMEOUT)


@dataclasses.dataclass(frozen=True)
class Command:
    """One verb: its flags, and what it does with them and with a config.

    Example:

        def main(argv: list[str]) -> int:
            return Command("train", TRAINING_FLAGS, _train).main(argv)

    Args:
        verb: the word after tfbig; names the log file too.
        flags: all but --config, which every verb has. One named "model_dir" is the folder of the
            log file.
        work: called with the ConfigDict and the values of the flags; returns the exit code. What
            imports TensorFlow is imported in it: help and bad flags need none of it.
    """

    verb: str
    flags: tuple[Flag, ...]
    work: Callable[[Any, FlagValues], int]

    def main(self, argv: list[str]) -> int:
        """Runs the verb and returns its exit code.

        Args:
            argv: the words of the command line, "tfbig" and the verb included.

        Returns:
            0 done, 1 an error, 2 bad flags, or what the work returns.
        """
        words = argv[2:]
        # What a config names is looked for in the current folder, as `python script.py` would.
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
            # The other tasks of a cluster do not write to the chief's folder.
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
        """Reads the flags; those that begin with --config. change the config.

        Raises:
            UsageError: a flag is unknown, missing, or has a value it cannot have.
            UserError: a field of the config is unknown.
        """
        values = self._define_flags()
        try:
            define_overrides(config, words, values)
            rest = values(["tfbig", *words])
        except TfbigError:
            raise
        # config_flags raises whatever a value that does not fit a field made Python raise.
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
        # Flags of our own: absl's global ones have dozens that say nothing about training.
        values = flags.FlagValues()
        for flag in self.flags:
            define = flags.DEFINE_integer if flag.integer else flags.DEFINE_string
            define(flag.name, flag.default, flag.help, flag_values=values)
        return values

    def _help(self, config_path: str | None) -> str:
        needed = [f"--{flag.name}={flag.required} " for flag in self.flags if flag.required]
        lines = [f"usage: tfbig {self.verb} {''.join(needed)}--config=FILE [flags]", ""]
        for name, text in [("config", _CONFIG_HELP), *((f.name, f.help) for f in self.flags)]:
            lines += textwrap.wrap(
                text, 96, initial_indent=f"  --{name:<15} ", subsequent_indent=" " * 20
            )
        if config_path is None:
            more = f"tfbig {self.verb} --config=FILE --helpfull lists the fields of a config too."
            lines += ["", more]
        else:
            lines += ["", f"The fields of {config_path}, as it sets them:", ""]
            lines += [f"  {line}" for line in described_fields(load_config(config_path))]
        return "\n".join(lines)


def devices_of(text: str | None) -> int | list[str] | None:
    """What --devices means to train_distributed: `devices_of("2") == 2`."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text.split(",")


def _take_config(words: list[str]) -> tuple[str | None, list[str]]:
    """The value of --config, and the words without it."""
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
    """Whether one of the words is --help, -h or the like."""
    return any(word.lstrip("-") in ("help", "helpshort", "helpfull", "h") and word.startswith("-")
               for word in words)  # fmt: skip
