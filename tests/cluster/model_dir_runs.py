"""The runs of test_model_dir.py: each task is given a model_dir of its own, or a shared one."""

import json
import os
import pathlib

import tfbig
from tests.cluster import callback_runs


def run(folders: list[str], max_steps: int, read_only: int | None = None) -> dict:
    """Trains; returns the step, the one that it went on from, and the weights.

    Args:
        folders: the model_dir of each task.
        max_steps: where it ends.
        read_only: a task that may not write there.
    """
    task = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    folder = pathlib.Path(folders[task])
    if task == read_only:
        _forbid_writing(folder)
    began = []

    class Begins(tfbig.callbacks.LoopCallback):
        def on_train_begin(self, logs=None):
            began.append(self.run.start_step)

    result = tfbig.train_distributed(
        callback_runs.build,
        callback_runs.source,
        model_dir=folder,
        max_steps=max_steps,
        callbacks=[Begins()],
        config=tfbig.RunConfig(
            tf_random_seed=1, jit_compile=False, steps_per_loop=4, save_checkpoints_steps=10
        ),
    )
    return {
        "step": result.global_step,
        "began": began,
        "weights": [w.ravel().tolist() for w in result.model.get_weights()],
        "optimizer": [v.numpy().ravel().tolist() for v in result.model.optimizer.variables],
        "model_dir": str(result.model_dir),
    }


def _forbid_writing(folder: pathlib.Path) -> None:
    """Makes an error of all that writes below a folder; root may write everywhere."""

    def refuse(event: str, arguments: tuple) -> None:
        writes = {"os.mkdir": 0, "os.rename": 1, "os.remove": 0, "os.rmdir": 0}
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            _, _mode, flags = arguments
            if not (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            path = os.fsdecode(arguments[0])
        elif event in writes:
            path = os.fsdecode(arguments[writes[event]])
        else:
            return
        if os.path.abspath(path).startswith(str(folder)):
            raise PermissionError(13, f"{event} by a task that may only read", path)

    import sys

    sys.addaudithook(refuse)
