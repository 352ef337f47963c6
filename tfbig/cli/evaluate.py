"""`tfbig evaluate`: evaluates a saved model on the held-out data of a config."""

import os
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import DEVICES, STRATEGY, Command, Flag, devices_of
from tfbig.clusters.find import is_chief
from tfbig.errors import UserError

_FLAGS = (
    Flag(
        "model",
        "the model: a .keras or .h5 file, the folder of a SavedModel, or weights, a checkpoint or "
        "the --model_dir of a training run, for the model_fn of the config",
        path=True,
        required="PATH",
    ),
    Flag(
        "model_dir",
        "the folder for metrics.json, plots and logs; the default is --model, if that is the "
        "model_dir of a training run",
        path=True,
    ),
    STRATEGY,
    DEVICES,
    Flag("steps", "the number of batches to evaluate; the default is all", integer=True),
    Flag("intervals", "the number of bootstrap samples for intervals, such as 1000", integer=True),
)


def main(argv: list[str]) -> int:
    """Runs `tfbig evaluate …` and returns its exit code.

    Example: `main(["tfbig", "evaluate", "--model=runs/digits", "--config=configs/digits_mlp.py"])`.

    Args:
        argv: the command line, including "tfbig" and "evaluate".

    Returns:
        0 for success, 1 for an error, 2 for bad flags.
    """
    return Command("evaluate", _FLAGS, _evaluate).main(argv)


def _evaluate(config: Any, values: flags.FlagValues) -> int:
    # Import TensorFlow here: it takes seconds, and --help and bad flags do not need it.
    from tfbig.cli.experiment import evaluate_arguments
    from tfbig.evaluation.report import Report
    from tfbig.finetuning.hub import is_handle

    model = values.model
    exists = os.path.exists(model) or os.path.exists(f"{model}.index")
    if not exists and not is_handle(model):
        raise UserError(f"--model={model}: there is no such file, folder or checkpoint.")
    arguments = evaluate_arguments(config)
    is_run = os.path.isdir(os.path.join(model, "checkpoints"))
    folder = values.model_dir or (model if is_run else None)
    is_tuned = is_run and config.get("pretrained") is not None
    path = _exported(model) if is_tuned else model
    if path.endswith(".keras") or os.path.isfile(os.path.join(path, "saved_model.pb")):
        arguments["base_model_fn"] = None  # only weights need it
    figures = tfbig.evaluate(
        path,
        **arguments,
        strategy=values.strategy,
        devices=devices_of(values.devices),
        steps=values.steps,
        intervals=values.intervals or False,
        model_dir=folder,
    )
    intervals = figures.pop("intervals", {})
    if not is_chief():
        return 0
    Report(figures, intervals=intervals, title=f"{model} on {config.eval_input_fn}").show()
    if folder is None:
        print("nothing was saved without --model_dir=FOLDER")
    else:
        print(f"metrics.json and plots are in {folder}")
    return 0


def _exported(run: str) -> str:
    """Returns the exported model of a fine-tuning run; no model_fn can build its architecture."""
    path = os.path.join(run, "export")
    if not os.path.isdir(path):
        raise UserError(
            f"--model={run}: the weights of a fine-tuning run need its exported model, but there "
            f"is no {path}; run tfbig finetune to its end, which exports it."
        )
    return path
