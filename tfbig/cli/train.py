"""`tfbig train`: trains the model that a config file describes."""

import os
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import TRAINING_FLAGS, Command, devices_of
from tfbig.cli.outcome import report
from tfbig.placement.clusters.find import TIMEOUT_VARIABLE


def main(argv: list[str]) -> int:
    """Runs `tfbig train …` and returns its exit code.

    Example: `main(["tfbig", "train", "--config=configs/digits_mlp.py", "--max_steps=200"])`.

    Args:
        argv: the words of the command line, "tfbig" and "train" included.

    Returns:
        0 done, 1 an error, 2 bad flags, 130 and 143 stopped by SIGINT and SIGTERM after saving.
    """
    return Command("train", TRAINING_FLAGS, _train).main(argv)


def _train(config: Any, values: flags.FlagValues) -> int:
    # TensorFlow takes seconds to import, and help and bad flags need none of it.
    from tfbig.cli.experiment import train_arguments

    if values.max_steps is not None or values.epochs is not None:
        config.max_steps, config.epochs = values.max_steps, values.epochs
    if values.cluster_timeout is not None:
        os.environ[TIMEOUT_VARIABLE] = str(values.cluster_timeout)
    result = tfbig.train_distributed(
        **train_arguments(config),
        strategy=values.strategy,
        devices=devices_of(values.devices),
        model_dir=values.model_dir,
    )
    return report(result, values.model_dir)
