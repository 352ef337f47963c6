"""`tfbig finetune`: adapts a saved model as a config file describes."""

import os
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import TRAINING_FLAGS, Command, Flag, devices_of
from tfbig.cli.outcome import report
from tfbig.placement.clusters.find import TIMEOUT_VARIABLE

_PRETRAINED = Flag(
    "pretrained",
    "the saved model to start from, a .keras or .h5 file, a SavedModel's folder, or weights that "
    "go with the config's base_model_fn; overrides the config's pretrained",
    path=True,
)


def main(argv: list[str]) -> int:
    """Runs `tfbig finetune …` and returns its exit code.

    Example: `main(["tfbig", "finetune", "--config=configs/finetune_digits.py"])`.

    Args:
        argv: the words of the command line, "tfbig" and "finetune" included.

    Returns:
        0 done, 1 an error, 2 bad flags, 130 and 143 stopped by SIGINT and SIGTERM after saving.
    """
    return Command("finetune", (_PRETRAINED, *TRAINING_FLAGS), _finetune).main(argv)


def _finetune(config: Any, values: flags.FlagValues) -> int:
    # TensorFlow takes seconds to import, and help and bad flags need none of it.
    from tfbig.cli.experiment import finetune_arguments

    if values.max_steps is not None or values.epochs is not None:
        config.max_steps, config.epochs = values.max_steps, values.epochs
    if values.pretrained is not None:
        with config.unlocked():
            config.pretrained = values.pretrained
            config.pretrained_made_by = None  # which is how to make the config's own
    if values.cluster_timeout is not None:
        os.environ[TIMEOUT_VARIABLE] = str(values.cluster_timeout)
    result = tfbig.fine_tune(
        **finetune_arguments(config),
        strategy=values.strategy,
        devices=devices_of(values.devices),
        model_dir=values.model_dir,
    )
    return report(result, values.model_dir)
