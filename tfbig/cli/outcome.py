"""What `tfbig train` and `tfbig finetune` say and leave when training has ended."""

import os
import signal
from typing import Any

import tfbig
from tfbig.errors import UserError
from tfbig.placement.clusters.find import is_chief


def report(result: Any, model_dir: str | None) -> int:
    """Prints how a training ended, exports its model, and returns the exit code.

    Args:
        result: a TrainResult.
        model_dir: of the run, or None.

    Returns:
        0, or 130 and 143 for a run that SIGINT or SIGTERM stopped. Of a cluster's tasks, the chief
        prints and exports.
    """
    if result.preempted:
        state = (
            f"its state is in {model_dir}" if model_dir else "without --model_dir nothing is kept"
        )
        if is_chief():
            print(f"stopped by {result.preempted} at step {result.global_step}; {state}")
        return 128 + signal.Signals[result.preempted]
    if not is_chief():
        return 0
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
