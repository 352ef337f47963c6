"""`tfbig finetune`: adapts a saved model as described in a config file."""

import os
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import TRAINING_FLAGS, Command, Flag, devices_of
from tfbig.cli.train import report_result
from tfbig.clusters.find import TIMEOUT_VARIABLE

_PRETRAINED = Flag(
    "pretrained",
    "the saved model to start from: a .keras or .h5 file, the folder of a SavedModel, or weights "
    "for the base_model_fn of the config; overrides the config's pretrained",
    path=True,
)


def main(argv: list[str]) -> int:
    """Runs `tfbig finetune …` and returns its exit code.

    Example: `main(["tfbig", "finetune", "--config=configs/finetune_digits.py"])`.

    Args:
        argv: the command line, including "tfbig" and "finetune".

    Returns:
        0 for success, 1 for an error, 2 for bad flags, 130 and 143 if SIGINT and SIGTERM stopped
        the run after saving.
    """
    return Command("finetune", (_PRETRAINED, *TRAINING_FLAGS), _finetune).main(argv)


def _finetune(config: Any, values: flags.FlagValues) -> int:
    # Import TensorFlow here: it takes seconds, and --help and bad flags do not need it.
    from tfbig.cli.experiment import finetune_arguments

    if values.max_steps is not None or values.epochs is not None:
        config.max_steps, config.epochs = values.max_steps, values.epochs
    if values.pretrained is not None:
        with config.unlocked():
            config.pretrained = values.pretrained
            config.pretrained_made_by = None  # it would create the config's own pretrained model
    if values.cluster_timeout is not None:
        os.environ[TIMEOUT_VARIABLE] = str(values.cluster_timeout)
    result = tfbig.fine_tune(
        **finetune_arguments(config),
        strategy=values.strategy,
        devices=devices_of(values.devices),
        model_dir=values.model_dir,
    )
    return report_result(result, result.model_dir)
