"""The runs of test_callbacks.py, one after the other in the same cluster."""

import json
import os
import pathlib

import keras
import numpy as np

import tfbig
from tfbig.errors import TfbigError


def task() -> int:
    """This task's index; 0 where there is no cluster."""
    text = os.environ.get("TF_CONFIG")
    return json.loads(text)["task"]["index"] if text else 0


def build(rate: float = 0.05) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", metrics=["mae"])
    return model


def arrays(rows: int = 90) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 3)).astype(np.float32)
    return x, (x @ random.normal(size=(3, 1))).astype(np.float32)


def source() -> tfbig.data.Source:
    return tfbig.data.ArraySource(arrays()).batch(16)  # the last batch has 10


def halve(model: keras.Model) -> None:
    model.set_weights([w * 0.5 for w in model.get_weights()])


class HalvesWeights(keras.callbacks.Callback):
    """Changes the weights where Keras's own callbacks would not."""

    def on_epoch_end(self, epoch, logs=None):
        halve(self.model)


class StopsInABatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch >= 12:
            self.model.stop_training = True


def callbacks_of(kind: str, folder: pathlib.Path) -> list:
    """The callbacks of a run, the same for all tasks but where the kind says otherwise."""
    kinds = keras.callbacks
    if kind == "early_stopping":
        # The weights get worse from the second epoch on, so that the best ones are brought back.
        worse = kinds.LambdaCallback(
            on_epoch_end=lambda epoch, logs: halve(early.model) if epoch >= 1 else None
        )
        early = kinds.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
        return [early, worse]
    if kind == "plateau":
        return [kinds.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0)]
    if kind == "schedule":
        return [kinds.LearningRateScheduler(lambda epoch, rate: 0.05 / (1 + epoch))]
    if kind == "weights":
        return [HalvesWeights()]
    if kind == "only the chief's":
        return [] if task() else [HalvesWeights()]
    if kind == "stops":
        return [StopsInABatch()]
    return [
        kinds.CSVLogger(str(folder / "log.csv")),
        kinds.TensorBoard(str(folder / "board")),
        kinds.ModelCheckpoint(str(folder / "best.keras"), save_best_only=True),
    ]


KINDS = ["early_stopping", "plateau", "schedule", "weights", "only the chief's", "stops", "files"]


def run_all(folder: str) -> dict:
    """Runs all kinds; each task has a folder of its own for what callbacks write."""
    return {kind: run(kind, pathlib.Path(folder, str(task()), kind)) for kind in KINDS}


def run(kind: str, folder: pathlib.Path) -> dict:
    if kind == "files" and not task():
        folder.mkdir(parents=True)  # CSVLogger makes no folder
    result = tfbig.train_distributed(
        build,
        source,
        eval_input_fn=source,
        strategy="auto" if os.environ.get("TF_CONFIG") else "one_device",
        epochs=6,
        model_dir=str(folder / "run") if kind == "files" else None,
        callbacks=callbacks_of(kind, folder),
        config=tfbig.RunConfig(
            tf_random_seed=1, jit_compile=False, steps_per_loop=4, log_step_count_steps=5
        ),
    )
    return {
        "step": result.global_step,
        "loss": result.loss,
        "metrics": result.metrics,
        "history": result.history,
        "weights": [w.ravel().tolist() for w in result.model.get_weights()],
        "optimizer": [
            np.asarray(v.numpy(), float).ravel().tolist() for v in result.model.optimizer.variables
        ],
        "files": sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
        ),
    }


def diverging(kind: str) -> dict:
    """Runs into a NaN; returns the error.

    Args:
        kind: "rate": the learning rate is far too high; "data": the data have a NaN in what is
            worker 1's share of the second batch; "find_op" and "tolerated": callbacks that deal
            with NaN, which are the chief's alone here.
    """
    x, y = arrays()
    if kind == "data":
        x[16 + 13, 1] = np.nan  # of 16, the second worker's are 8 … 15
    kinds = {"find_op": tfbig.callbacks.NaNGuard(find_op=True),
             "tolerated": keras.callbacks.TerminateOnNaN()}  # fmt: skip
    try:
        result = tfbig.train_distributed(
            lambda: build(0.05 if kind == "data" else 1e20),
            lambda: tfbig.data.ArraySource((x, y)).batch(16),
            max_steps=30,
            callbacks=[kinds[kind]] if kind in kinds and not task() else [],
            config=tfbig.RunConfig(
                tf_random_seed=1, jit_compile=False, steps_per_loop=4, data_distribution="none"
            ),
        )
    except TfbigError as error:
        return {"error": type(error).__name__, "text": str(error)}
    return {"step": result.global_step}
