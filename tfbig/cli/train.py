"""`tfbig train`: trains the model that a config file describes."""

import os
import signal
import sys
import textwrap
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.config_file import define_overrides, described_fields, load_config
from tfbig.cli.logs import RunLog
from tfbig.errors import TfbigError, UserError

_HELP = {
    "config": "the config file, FILE.py or FILE.py:ARGUMENT; every field of it is a flag too: "
    "--config.optimizer.learning_rate=1e-3",
    "strategy": "auto, one_device or mirrored",
    "devices": "how many devices, or their names: 2, or GPU:0,GPU:1; on a machine with CPUs only, "
    "so many logical CPU devices",
    "model_dir": "the folder for checkpoints, summaries, logs and the exported model; a run that "
    "is started again with the same one goes on where it was",
    "max_steps": "train until this step; overrides the config's max_steps and epochs",
    "epochs": "or this many passes over the data; overrides the config's max_steps and epochs",
}


class UsageError(Exception):
    """The flags cannot be read."""


def main(argv: list[str]) -> int:
    """Runs `tfbig train …` and returns its exit code.

    Example: `main(["tfbig", "train", "--config=configs/digits_mlp.py", "--max_steps=200"])`.

    Args:
        argv: the words of the command line, "tfbig" and "train" included.

    Returns:
        0 done, 1 an error, 2 bad flags, 130 and 143 stopped by SIGINT and SIGTERM after saving.
    """
    words = argv[2:]
    # What a config names is looked for in the current folder, as `python script.py` would.
    sys.path.insert(0, os.getcwd())
    log = RunLog("train", None)
    try:
        path, words = _take_config(words)
        if _asks_for_help(words):
            print(_help(path if "--helpfull" in words or "-helpfull" in words else None))
            return 0
        if path is None:
            raise UsageError("--config=FILE is missing")
        config = load_config(path)
        values = _parse(config, words)
        log = RunLog("train", values.model_dir)
        return _train(config, values)
    except UsageError as error:
        print(f"error: {error}; tfbig train --help lists the flags", file=sys.stderr)
        return 2
    except Exception as error:
        log.report(error)
        return 1
    finally:
        log.close()


def _train(config: Any, values: flags.FlagValues) -> int:
    # TensorFlow takes seconds to import, and help and bad flags need none of it.
    from tfbig.cli.experiment import train_arguments

    if values.max_steps is not None or values.epochs is not None:
        config.max_steps, config.epochs = values.max_steps, values.epochs
    model_dir = values.model_dir
    result = tfbig.train_distributed(
        **train_arguments(config),
        strategy=values.strategy,
        devices=_devices(values.devices),
        model_dir=model_dir,
    )
    if result.preempted:
        state = (
            f"its state is in {model_dir}" if model_dir else "without --model_dir nothing is kept"
        )
        print(f"stopped by {result.preempted} at step {result.global_step}; {state}")
        return 128 + signal.Signals[result.preempted]
    for name, value in result.metrics.items():
        print(f"held-out {name} {f'{value:.4g}' if isinstance(value, float) else value}")
    if model_dir is None:
        print("nothing is kept without --model_dir=FOLDER")
        return 0
    folder = {
        name: os.path.join(model_dir, name) for name in ("checkpoints", "summaries", "export")
    }
    print(f"checkpoints     {folder['checkpoints']}")
    print(f"summaries       {folder['summaries']} (tensorboard --logdir {model_dir})")
    if result.model is not None:
        print(f"exported model  {folder['export']}{_export(result, folder['export'])}")
    else:
        print("exported model  none: exporting an estimator-style model_fn is not built yet")
    return 0


def _export(result: Any, folder: str) -> str:
    """Exports the model, with its cleaning where it takes cleaned columns; says what it takes."""
    if result.cleaning is None:
        tfbig.export(result.model, folder)
        return ""
    if result.cleaning_is_all:  # else input_fn makes something else of the cleaned columns
        try:
            tfbig.export(result.model, folder, preprocessing=result.cleaning)
            return " (takes raw features and cleans them)"
        except UserError:  # the model does not take them by these names
            pass
    tfbig.export(result.model, folder)
    return f" (takes cleaned features: {os.path.join(result.model_dir, 'cleaning.json')})"


def _define_flags() -> flags.FlagValues:
    # Flags of our own: absl's global ones have dozens that say nothing about training.
    values = flags.FlagValues()
    flags.DEFINE_string("strategy", "auto", _HELP["strategy"], flag_values=values)
    flags.DEFINE_string("devices", None, _HELP["devices"], flag_values=values)
    flags.DEFINE_string("model_dir", None, _HELP["model_dir"], flag_values=values)
    flags.DEFINE_integer("max_steps", None, _HELP["max_steps"], flag_values=values)
    flags.DEFINE_integer("epochs", None, _HELP["epochs"], flag_values=values)
    return values


def _parse(config: Any, words: list[str]) -> flags.FlagValues:
    """Reads the flags; those that begin with --config. change the config.

    Raises:
        UsageError: a flag is unknown or has a value it cannot have.
        UserError: a field of the config is unknown.
    """
    values = _define_flags()
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
    if values.model_dir is not None:
        values.model_dir = os.path.expanduser(values.model_dir)
    return values


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


def _devices(text: str | None) -> int | list[str] | None:
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        return text.split(",")


def _asks_for_help(words: list[str]) -> bool:
    return any(word.lstrip("-") in ("help", "helpshort", "helpfull", "h") and word.startswith("-")
               for word in words)  # fmt: skip


def _help(config_path: str | None) -> str:
    lines = ["usage: tfbig train --config=FILE [flags]", ""]
    for name, text in _HELP.items():
        lines += textwrap.wrap(
            text, 96, initial_indent=f"  --{name:<11}", subsequent_indent=" " * 15
        )
    if config_path is None:
        lines += ["", "tfbig train --config=FILE --helpfull lists the fields of a config too."]
    else:
        lines += ["", f"The fields of {config_path}, as it sets them:", ""]
        lines += [f"  {line}" for line in described_fields(load_config(config_path))]
    return "\n".join(lines)
