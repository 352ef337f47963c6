"""`tfbig train`: trains a model as described in a config file."""

import os
import signal
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import TRAINING_FLAGS, Command, devices_of
from tfbig.clusters.find import TIMEOUT_VARIABLE, is_chief
from tfbig.errors import UserError


def main(argv: list[str]) -> int:
    """Runs `tfbig train …` and returns its exit code.

    Example: `main(["tfbig", "train", "--config=configs/digits_mlp.py", "--max_steps=200"])`.

    Args:
        argv: the command line, including "tfbig" and "train".

    Returns:
        0 for success, 1 for an error, 2 for bad flags, 130 and 143 if SIGINT and SIGTERM stopped
        the run after saving.
    """
    return Command("train", TRAINING_FLAGS, _train).main(argv)


def _train(config: Any, values: flags.FlagValues) -> int:
    # Import TensorFlow here: it takes seconds, and --help and bad flags do not need it.
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
    return report_result(result, result.model_dir)


def report_result(result: Any, model_dir: str | None) -> int:
    """Prints the result of a training run, exports the model, and returns the exit code.

    In a cluster, only the chief prints and exports.

    Args:
        result: a TrainResult.
        model_dir: the model_dir of the run, or None.

    Returns:
        0, or 130 and 143 if SIGINT or SIGTERM stopped the run.
    """
    if result.preempted:
        state = (
            f"its state is in {model_dir}" if model_dir else "nothing was saved without --model_dir"
        )
        if is_chief():
            print(f"stopped by {result.preempted} at step {result.global_step}; {state}")
        return 128 + signal.Signals[result.preempted]
    if not is_chief():
        return 0
    for name, value in result.metrics.items():
        print(f"held-out {name} {f'{value:.4g}' if isinstance(value, float) else value}")
    if model_dir is None:
        print("nothing was saved without --model_dir=FOLDER")
        return 0
    folders = {
        name: os.path.join(model_dir, name) for name in ("checkpoints", "summaries", "export")
    }
    print(f"checkpoints     {folders['checkpoints']}")
    print(f"summaries       {folders['summaries']} (tensorboard --logdir {model_dir})")
    if result.model is not None:
        print(f"exported model  {folders['export']}{_export(result, folders['export'])}")
    else:
        print("exported model  none: exporting an estimator-style model_fn is not built yet")
    return 0


def _export(result: Any, folder: str) -> str:
    """Exports the model, with its cleaning if possible; returns a note about its inputs."""
    if result.cleaning is None:
        tfbig.export(result.model, folder)
        return ""
    if result.cleaning_is_all:  # otherwise input_fn converts the cleaned columns
        try:
            tfbig.export(result.model, folder, preprocessing=result.cleaning)
            return " (accepts raw features and cleans them)"
        except UserError:  # the model does not accept features with these names
            pass
    tfbig.export(result.model, folder)
    return f" (accepts cleaned features: {os.path.join(result.model_dir, 'cleaning.json')})"
