"""train_distributed and fine_tune: the public functions for training."""

import contextlib
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
from tfbig.finetuning.mapped_weights import weights_in_files
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
    """Trains a model on one or several devices, with the same numbers on all of them.

    A run that is restarted with the same model_dir resumes from its last checkpoint, as if it had
    never been interrupted.

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
        model_fn: one of three: a function that returns a compiled keras.Model; a compiled
            keras.Model; or an estimator-style `model_fn(features, labels, mode, params, config)`
            that returns an EstimatorSpec. A keras.Model is rebuilt with its weights and compile
            options, and is not modified. If it cannot be rebuilt, the model itself is trained on
            one device, with a warning.
        input_fn: returns a tf.data.Dataset or a tfbig.data.Source of `features`,
            `(features, labels)` or `(features, labels, sample_weight)`, batched to the global
            batch size. It may take mode, params, config and input_context by name.
        eval_input_fn: like input_fn. It is read once per evaluation, in its own order.
        strategy: "auto", "one_device", "mirrored", "multi_worker", "parameter_server", or a
            tf.distribute strategy of one of the first three kinds. "auto" selects
            "parameter_server" if the environment describes a cluster with parameter servers, and
            "multi_worker" if it describes another cluster.
        devices: the number of devices, or their names; None for all GPUs, or the CPU. On a
            machine with CPUs only, a number creates that many logical CPU devices.
        model_dir: the folder for checkpoints and summaries; None saves nothing.
        max_steps: the global step at which training ends.
        epochs: the number of passes over the data, instead of max_steps.
        params: passed to model_fn and input_fn if they have a `params` argument.
        config: a RunConfig; None for the defaults.
        callbacks: callbacks of Keras, of tfbig, and your own. Progress and Summaries are added
            unless they are in the list.

    Returns:
        A TrainResult: global_step, loss, metrics, history, model_dir, model, preempted. Under
        "parameter_server", only the chief has the model; it is None on workers and servers.

    Raises:
        UserError: an argument has an invalid value; nothing has been written.
        NotBuiltError: the feature is part of the API but not built yet.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written or read, or belongs to another model.
        PeerLost: another task of the cluster failed or did not start in time.
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
    model_dir = checked_model_dir(model_dir, config)
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
    """Continues training a saved model, completely or partly, with a new head or its own.

    A model that is passed as an object is not modified; the result has another one.

    Example:

        recipe = tfbig.Recipe(head=5, freeze="backbone", unfreeze={500: "*"}, rate_decay=0.7)
        tuned = tfbig.fine_tune("pretrained.keras", input_fn, recipe=recipe, max_steps=1000)

    Args:
        pretrained: a keras.Model, or the path of a `.keras` or `.h5` file, of a SavedModel or of
            a KerasHub preset (or its handle, "hf://user/name"). With base_model_fn, it may also
            be the path of weights, a tf.train.Checkpoint or a tfbig model_dir. Files are loaded
            in safe mode.
        input_fn: as for train_distributed.
        model_fn: `model_fn(loaded_model)` or `model_fn(loaded_model, params)`; returns a compiled
            keras.Model made from the loaded one.
        recipe: a tfbig.Recipe, instead of model_fn. Without both, the model is trained as it is
            compiled.
        base_model_fn: builds the architecture if the file has weights only.
        remat: sets RunConfig.remat, which recomputes activations block by block to save memory.
        **keywords: further arguments of train_distributed. A checkpoint in model_dir takes
            precedence over `pretrained`.

    Returns:
        A TrainResult, as of train_distributed. With Recipe.lora_rank and a model_dir, the
        adapters and the new head are also written to model_dir/adapters.npz, for
        `tfbig.finetuning.load_adapters`.

    Raises:
        UserError: the file, the recipe or another argument has an invalid value.
    """
    if model_fn is not None and recipe is not None:
        raise UserError("fine_tune: model_fn and recipe were both given; give one of them.")
    if recipe is not None and not isinstance(recipe, Recipe):
        raise UserError(
            f"fine_tune(recipe={recipe!r}): expected a tfbig.Recipe, such as "
            'recipe=tfbig.Recipe(head=5, freeze="backbone").'
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
        sliced = checked_config(keywords.get("config")).model_distribution == "owner_full"
        with weights_in_files() if sliced else contextlib.nullcontext():
            base = load_model(
                pretrained, base_model_fn=base_model_fn, params=keywords.get("params")
            )
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
    return config.replace(remat=remat)


def _check_keywords(keywords: dict[str, Any]) -> None:
    """Refuses keywords that train_distributed does not accept, before anything is loaded."""
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
