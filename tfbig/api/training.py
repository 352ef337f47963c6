"""train_distributed and fine_tune."""

import dataclasses
import difflib
import functools
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tfbig.arguments import (
    call_input_fn,
    check_callable,
    check_limits,
    checked_config,
    checked_model_dir,
)
from tfbig.errors import UserError
from tfbig.estimator.spec_options import options_of_spec
from tfbig.finetuning.checks import check_names, checked_model_fn
from tfbig.finetuning.loading import load_model
from tfbig.finetuning.lora import save_adapters
from tfbig.finetuning.recipe import Recipe
from tfbig.finetuning.tune import tuning_builder
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.strategies import find_role
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.training.request import TrainRequest
from tfbig.training.result import TrainResult
from tfbig.training.run import run_training
from tfbig.training.run_length import RunLength

_FINE_TUNES_OWN = ("model_fn", "recipe", "base_model_fn", "remat")


def train_distributed(
    model_fn: Callable | keras.Model,
    input_fn: Callable,
    *,
    eval_input_fn: Callable | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    devices: int | list[str] | str | None = None,
    model_dir: str | os.PathLike | None = None,
    max_steps: int | None = None,
    epochs: int | None = None,
    params: Any = None,
    config: RunConfig | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> TrainResult:
    """Trains a model, on one device or many, with the same numbers.

    A run that is started again with the same model_dir goes on where its last checkpoint
    stands, as if it had never been stopped.

    Example:

        def build_model():
            model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
            return model

        def input_fn():
            return tfbig.data.ArraySource((images, labels)).batch(64)

        result = tfbig.train_distributed(
            build_model, input_fn, strategy="mirrored", devices=2, max_steps=1000)

    Args:
        model_fn: a builder that returns a compiled keras.Model, a compiled keras.Model (rebuilt
            with its weights and compile options, and left as it is; one that cannot be rebuilt
            is trained itself on one device, with a warning), or an estimator-style
            `model_fn(features, labels, mode, params, config)` that returns an EstimatorSpec.
        input_fn: returns a tf.data.Dataset or a tfbig.data.Source of `features`,
            `(features, labels)` or `(features, labels, sample_weight)`, batched to the global
            batch size; takes any of mode, params, config and input_context by name.
        eval_input_fn: like input_fn; read once, in its own order, for each evaluation.
        strategy: "auto", "one_device", "mirrored", "multi_worker", "parameter_server", or a
            tf.distribute strategy of the first kinds. "auto" is "parameter_server" where the
            environment describes a cluster with ps, and "multi_worker" where it describes another.
        devices: number of devices or their names; on a machine with CPUs only, a number means
            logical CPU devices; None: all GPUs, or the CPU.
        model_dir: where checkpoints and summaries are kept; None keeps nothing.
        max_steps: the global step at which training ends.
        epochs: or the number of passes over the data.
        params: handed to model_fn and input_fn if they ask for it.
        config: how the run is carried out.
        callbacks: Keras's, tfbig's and your own. Progress and Summaries are added unless there
            are such.

    Returns:
        A TrainResult: global_step, loss, metrics, history, model_dir, model, preempted. Under
        "parameter_server" the model is the chief's, and None for workers and ps.

    Raises:
        UserError: something given cannot be used; nothing has been written by then.
        NotBuiltError: it is in the API and is not built yet.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written or read, or is another model's.
        PeerLost: another task of the cluster is gone, or has not come.
    """
    config = checked_config(config)
    check_limits(max_steps, epochs)
    check_callable("input_fn", input_fn)
    if eval_input_fn is not None:
        check_callable("eval_input_fn", eval_input_fn)
    if not callable(model_fn):
        raise UserError(
            f"model_fn={model_fn!r}: expected a function that builds a compiled keras.Model, such "
            "a model, or an estimator-style model_fn(features, labels, mode)."
        )
    read_eval = None
    if eval_input_fn is not None:
        read_eval = functools.partial(
            call_input_fn, eval_input_fn, ModeKeys.EVAL, params, config, "eval_input_fn"
        )
    model_dir = checked_model_dir(model_dir)
    request = TrainRequest(
        model_fn=model_fn,
        read=functools.partial(call_input_fn, input_fn, ModeKeys.TRAIN, params, config),
        read_eval=read_eval,
        config=config,
        strategy=strategy,
        devices=devices,
        model_dir=model_dir,
        params=params,
        max_steps=max_steps,
        epochs=epochs,
        callbacks=keras.tree.flatten([] if callbacks is None else callbacks),
        options_of_spec=functools.partial(options_of_spec, model_dir=model_dir),
    )
    return run_training(request)


def fine_tune(
    pretrained: keras.Model | str | os.PathLike,
    input_fn: Callable,
    *,
    model_fn: Callable | None = None,
    recipe: Recipe | None = None,
    base_model_fn: Callable | None = None,
    remat: bool | None = None,
    **keywords: Any,
) -> TrainResult:
    """Goes on training a saved model, as a whole or in parts, with a new head or its own.

    A model that is given stays as it is; the result's is another one.

    Example:

        recipe = tfbig.Recipe(head=5, freeze="backbone", unfreeze={500: "*"}, rate_decay=0.7)
        tuned = tfbig.fine_tune("pretrained.keras", input_fn, recipe=recipe, max_steps=1000)

    Args:
        pretrained: a keras.Model, or the path of a `.keras` or `.h5` file, of a SavedModel or of
            a KerasHub preset (or its handle, "hf://user/name"); or, with base_model_fn, of
            weights, a tf.train.Checkpoint or a tfbig model_dir. Files are loaded in safe mode.
        input_fn: as for train_distributed.
        model_fn: `model_fn(loaded_model)` or `model_fn(loaded_model, params)`, returns a compiled
            keras.Model made of it.
        recipe: or a tfbig.Recipe. With neither, the model is trained as it was compiled.
        base_model_fn: builds the architecture for files that hold weights only.
        remat: sets RunConfig.remat: activations are recomputed by block, for less memory.
        **keywords: all others of train_distributed, with the same meaning. A checkpoint in
            model_dir wins over `pretrained`.

    Returns:
        A TrainResult, as train_distributed does. With Recipe.lora_rank and a model_dir, the
        adapters and the new head are in model_dir/adapters.npz too, for
        `tfbig.finetuning.load_adapters`.

    Raises:
        UserError: the file, the recipe or something else given cannot be used.
    """
    if model_fn is not None and recipe is not None:
        raise UserError("fine_tune: model_fn and recipe were both given; give one of them.")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UserError(
            f"fine_tune(recipe={recipe!r}): expected a tfbig.Recipe; write "
            'recipe=tfbig.Recipe(head=5, freeze="backbone"), say.'
        )
    check_callable("input_fn", input_fn)
    model_fn = checked_model_fn(model_fn)
    if recipe is not None:
        check_names(recipe)
    _check_keywords(keywords)
    if remat is not None:
        keywords["config"] = _with_remat(checked_config(keywords.get("config")), remat)
    # This configures TensorFlow's devices, before loading a model would do it.
    peers = find_role(keywords.get("strategy", "auto"), keywords.get("devices")).peers
    with cluster_error_scope(peers):
        base = load_model(pretrained, base_model_fn=base_model_fn, params=keywords.get("params"))
        length = RunLength(input_fn, keywords.get("max_steps"), keywords.get("epochs"))
        keep = base is pretrained
        builder = tuning_builder(base, model_fn, recipe, length.total_steps, keep=keep)
        result = train_distributed(builder, length.input_fn, **keywords)
        folder = None if result.preempted or not peers.is_chief else result.model_dir
        if recipe is not None and recipe.lora_rank and folder:
            save_adapters(result.model, os.path.join(folder, "adapters.npz"))
    return result


def _with_remat(config: RunConfig, remat: bool) -> RunConfig:
    if config.remat and remat is False:
        raise UserError(
            "fine_tune: remat=False, but config has remat=True; write it in one place only."
        )
    return dataclasses.replace(config, remat=remat)


def _check_keywords(keywords: dict[str, Any]) -> None:
    """Refuses what train_distributed does not take, before anything is loaded."""
    parameters = inspect.signature(train_distributed).parameters
    known = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in keywords:
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *_FINE_TUNES_OWN], n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(
                f"fine_tune has no argument {name!r}{meant}; besides {', '.join(_FINE_TUNES_OWN)} "
                f"there are those of train_distributed: {', '.join(known)}."
            )
    check_limits(keywords.get("max_steps"), keywords.get("epochs"))
