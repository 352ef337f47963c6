"""What runs in the process of one placement: its cases, one after the other."""

import contextlib
import dataclasses
import glob
import json
import os
import pathlib
import tempfile
import traceback
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import tfbig
from tests.checkpoint_values import saved_values
from tests.equivalence import reference
from tests.equivalence.case import SEED, Case, Outcome
from tests.equivalence.cases import CASES
from tfbig.errors import PeerLost


def run_cases(folder: str, replicas: int, names: list[str]) -> None:
    """Trains the cases with train_distributed on one device, or mirrored on logical CPUs.

    Args:
        folder: for what the cases leave; an error becomes <name>.txt.
        replicas: how many.
        names: of the cases.
    """
    strategy = "one_device"
    if replicas > 1:
        # The one strategy of this process, which the cases share.
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    for name in names:
        _save(pathlib.Path(folder, name), lambda: train(CASES[name], strategy))  # noqa: B023


def run_on_gpus(folder: str, gpus: int, names: list[str]) -> None:
    """The same on GPUs."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    strategy = "one_device"
    if gpus > 1:
        strategy = tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(gpus)])
    for name in names:
        _save(pathlib.Path(folder, name), lambda: train(CASES[name], strategy))  # noqa: B023


def run_on_workers(folder: str, names: list[str]) -> None:
    """The same in the process of one worker of a cluster, which TF_CONFIG describes.

    After an error the workers are not together any more, and the cases that follow are not run.
    """
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    for name in names:
        path = pathlib.Path(folder, f"{name}-of-worker{index}")
        # A model_fn's weights are compared as the chief's checkpoint has them.
        shared = pathlib.Path(folder, f"{name}-model_dir")
        _save(path, lambda: train(CASES[name], "multi_worker", str(shared)))  # noqa: B023
        if path.with_suffix(".txt").exists():
            return


def run_on_servers(folder: str, names: list[str]) -> None:
    """The same in the process of one task of a cluster with ps; the chief alone has the model."""
    for name in names:
        if _is_chief():
            path = pathlib.Path(folder, name)
            shared = f"{path}-model_dir"
            _save(path, lambda: train(CASES[name], "parameter_server", shared))  # noqa: B023
        else:
            with contextlib.suppress(PeerLost):  # the chief has noted the error, and goes on
                train(CASES[name], "parameter_server")


def _is_chief() -> bool:
    return json.loads(os.environ["TF_CONFIG"])["task"]["type"] == "chief"


def run_references(folder: str, cases: list[tuple[str, int]]) -> None:
    """Trains (name, parts) with the plain loop."""
    for name, parts in cases:
        path = pathlib.Path(folder, reference_name(name, parts))
        run = CASES[name].reference or reference.train
        _save(path, lambda: run(CASES[name], parts))  # noqa: B023


def reference_name(name: str, parts: int) -> str:
    """Names the reference of a case; compiled, recomputed, owned or not, it is the same."""
    for ending in ("_owner_full", "_owner_gradients", "_owner", "_remat", "_jit"):
        name = name.removesuffix(ending)
    return f"{name}-{parts}"


def parts_of(case: Case, replicas: int) -> int:
    """How many parts of a batch the reference treats separately."""
    return replicas * case.config.get("accumulation_steps", 1) if case.parts else 1


def train(case: Case, strategy: str | tf.distribute.Strategy, shared: str | None = None):
    """Trains a case with train_distributed and returns the Outcome.

    `shared` is a folder that all its tasks see.
    """

    def input_fn():
        data = tf.data.Dataset.from_tensor_slices(case.arrays()).batch(case.batch_size)
        return data if case.read is None else case.read(data)

    if strategy == "parameter_server":
        case = dataclasses.replace(case, config={"max_staleness": 0, **case.config})
    config = {"jit_compile": False, "log_step_count_steps": case.log_every, **case.config}
    with contextlib.ExitStack() as stack:
        model_dir = shared or stack.enter_context(tempfile.TemporaryDirectory())
        result = tfbig.train_distributed(
            case.model_fn or case.build,
            input_fn,
            eval_input_fn=input_fn if case.evaluates else None,
            strategy=strategy,
            epochs=case.epochs,
            model_dir=model_dir if case.model_fn else None,
            config=tfbig.RunConfig(tf_random_seed=SEED, **config),
        )
        rates = ("steps_per_sec", "examples_per_sec", "learning_rate", "steps_skipped")
        history = [
            {k: v for k, v in at.items() if k not in rates and not k.startswith("val_")}
            for at in result.history
            if "loss" in at  # else an evaluation alone
        ]
        if strategy == "parameter_server" and not _is_chief():
            return None
        if case.model_fn:
            saved = _checkpoint(model_dir)
            return Outcome(saved["model"], saved["optimizer"], history, result.metrics)
    variables = [*result.model.variables, *result.model.optimizer.variables]
    return Outcome(
        [v.numpy() for v in result.model.variables],
        [v.numpy() for v in result.model.optimizer.variables],
        history,
        result.metrics,
        max(_difference_of_copies(v.value) for v in variables),
    )


def _checkpoint(model_dir: str) -> dict[str, list[np.ndarray]]:
    """The model's and the optimizer's variables in the newest checkpoint, by name."""
    values = saved_values(sorted(glob.glob(f"{model_dir}/checkpoints/ckpt-*"))[-1])
    groups: dict[str, list] = {"model": [], "optimizer": []}
    for name, value in values.items():
        groups[name.split("/")[0]].append(value)
    return groups


def _difference_of_copies(variable: tf.Variable) -> float:
    copies = [np.asarray(c) for c in getattr(variable, "values", [variable])]
    return max(float(np.max(np.abs(c.astype(float) - copies[0]), initial=0)) for c in copies)


def _save(path: pathlib.Path, run: Callable[[], Outcome]) -> None:
    try:
        run().save(path)
    except Exception:
        path.with_suffix(".txt").write_text(traceback.format_exc())
