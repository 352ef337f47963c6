"""`tfbig evaluate`: tells how good a saved model is on the held-out data of a config."""

import os
from typing import Any

from absl import flags

import tfbig
from tfbig.cli.command import DEVICES, STRATEGY, Command, Flag, devices_of
from tfbig.errors import UserError
from tfbig.placement.clusters.find import is_chief

_FLAGS = (
    Flag(
        "model",
        "the model: a .keras or .h5 file, a SavedModel's folder, or weights, a checkpoint or the "
        "--model_dir of a training, which go with the config's model_fn",
        path=True,
        required="PATH",
    ),
    Flag(
        "model_dir",
        "the folder for metrics.json, plots and logs; without it they are written to that of the "
        "training, if --model is one",
        path=True,
    ),
    STRATEGY,
    DEVICES,
    Flag("steps", "evaluate on so many batches; without it on all", integer=True),
    Flag("intervals", "the number of bootstrap samples for intervals: 1000, say", integer=True),
)


def main(argv: list[str]) -> int:
    """Runs `tfbig evaluate …` and returns its exit code.

    Example: `main(["tfbig", "evaluate", "--model=runs/digits", "--config=configs/digits_mlp.py"])`.

    Args:
        argv: the words of the command line, "tfbig" and "evaluate" included.

    Returns:
        0 done, 1 an error, 2 bad flags.
    """
    return Command("evaluate", _FLAGS, _evaluate).main(argv)


def _evaluate(config: Any, values: flags.FlagValues) -> int:
    # TensorFlow takes seconds to import, and help and bad flags need none of it.
    from tfbig.cli.experiment import evaluate_arguments
    from tfbig.evaluation.report import Report
    from tfbig.finetuning.hub import is_handle

    model = values.model
    there = os.path.exists(model) or os.path.exists(f"{model}.index")
    if not there and not is_handle(model):
        raise UserError(f"--model={model}: there is no such file, folder or checkpoint.")
    arguments = evaluate_arguments(config)
    is_run = os.path.isdir(os.path.join(model, "checkpoints"))
    folder = values.model_dir or (model if is_run else None)
    tuned = is_run and config.get("pretrained") is not None
    taken = _exported(model) if tuned else model
    if taken.endswith(".keras") or os.path.isfile(os.path.join(taken, "saved_model.pb")):
        arguments["base_model_fn"] = None  # which only weights need
    figures = tfbig.evaluate(
        taken,
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
        print("nothing is kept without --model_dir=FOLDER")
    else:
        print(f"metrics.json and plots are in {folder}")
    return 0


def _exported(run: str) -> str:
    """The exported model of a fine-tuning, whose architecture no model_fn builds by itself."""
    path = os.path.join(run, "export")
    if not os.path.isdir(path):
        raise UserError(
            f"--model={run}: a fine-tuning's weights go with the model that it made of another "
            f"one, and there is no {path}; let tfbig finetune come to its end, which exports it."
        )
    return path
