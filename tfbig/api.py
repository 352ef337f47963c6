"""The public functions, each a short story told in the words of the rooms below."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig.data.feed import Feed
from tfbig.data.source import Source
from tfbig.errors import NotBuiltError, UserError
from tfbig.finetuning.loading import load_model
from tfbig.finetuning.recipe import Recipe
from tfbig.finetuning.tune import tuning_builder
from tfbig.placement.strategies import make_placement
from tfbig.programs.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.serving.saved_model import checked_preprocessing, export_saved_model
from tfbig.training.predictor import Predictor
from tfbig.training.result import TrainResult
from tfbig.training.session import TrainingSession, make_feed


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
            with its weights and compile options), or an estimator-style
            `model_fn(features, labels, mode, params, config)` that returns an EstimatorSpec.
        input_fn: returns a tf.data.Dataset or a tfbig.data.Source of `features`,
            `(features, labels)` or `(features, labels, sample_weight)`, batched to the global
            batch size; takes any of mode, params, config and input_context by name.
        eval_input_fn: like input_fn; read once, in its own order, for each evaluation.
        strategy: "auto", "one_device", "mirrored", or a tf.distribute strategy of these kinds.
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
        A TrainResult: global_step, loss, metrics, history, model_dir, model, preempted.

    Raises:
        UserError: something given cannot be used; nothing has been written by then.
        NotBuiltError: it is in the API and is not built yet.
        TrainingDiverged: the loss became NaN or infinite.
        CheckpointError: a checkpoint cannot be written or read, or is another model's.
    """
    config = _checked_config(config)
    _check_limits(max_steps, epochs)
    _check_callable("input_fn", input_fn)
    if eval_input_fn is not None:
        _check_callable("eval_input_fn", eval_input_fn)
    if not callable(model_fn):
        raise UserError(
            f"model_fn={model_fn!r}: expected a function that builds a compiled keras.Model, such "
            "a model, or an estimator-style model_fn(features, labels, mode)."
        )
    session = TrainingSession(
        config=config,
        model_dir=_checked_model_dir(model_dir),
        placement=make_placement(strategy, devices),
        params=params,
    )
    session.read_data(
        lambda: call_input_fn(input_fn, ModeKeys.TRAIN, params, config),
        eval_input_fn
        and (lambda: call_input_fn(eval_input_fn, ModeKeys.EVAL, params, config, "eval_input_fn")),
        max_steps=max_steps,
        epochs=epochs,
    )
    session.build_model(model_fn)
    return session.train(callbacks)


def export(
    model_or_path: keras.Model | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    signatures: Any = None,
    preprocessing: Any = None,
) -> str:
    """Writes a trained Keras model as a SavedModel, which TensorFlow Serving can load.

    Example:

        path = tfbig.export(result.model, "runs/digits/export")
        served = tf.saved_model.load(path)
        outputs = served.serve(images)

        tfbig.export(model, "runs/adult/export", preprocessing=cleaning)
        tf.saved_model.load("runs/adult/export").serve({"age": tf.constant(["41", "", "?"])})

    Args:
        model_or_path: a built keras.Model, or the path of a `.keras` file (loaded in safe mode).
        directory: where to; written beside and renamed, an earlier export is replaced.
        signatures: not built yet.
        preprocessing: a fitted `tfbig.data.cleaning.Cleaning`, or a list of one and functions
            (or Keras layers) that go on with what it returns, made of TF operations. The
            SavedModel then takes raw features: the columns that the Cleaning was fitted on,
            missing values as NaN or "". In its signature a column has its name, with "_" for
            what is no letter or digit.

    Returns:
        The directory.

    Raises:
        UserError: there is no model, the preprocessing does not go with it, or the directory
            cannot be written.
        NotBuiltError: signatures were given.
    """
    if signatures is not None:
        raise NotBuiltError("export(signatures=…) is not built yet; leave it None.")
    steps = checked_preprocessing(preprocessing)
    model = _given_model("export", model_or_path)
    return export_saved_model(model, os.fspath(directory), steps)


def fine_tune(
    pretrained: keras.Model | str | os.PathLike,
    input_fn: Callable,
    *,
    model_fn: Callable | None = None,
    recipe: Recipe | None = None,
    base_model_fn: Callable | None = None,
    **keywords: Any,
) -> TrainResult:
    """Goes on training a saved model, as a whole or in parts, with a new head or its own.

    Example:

        recipe = tfbig.Recipe(head=5, freeze="backbone", unfreeze={500: "*"}, rate_decay=0.7)
        tuned = tfbig.fine_tune("pretrained.keras", input_fn, recipe=recipe, max_steps=1000)

    Args:
        pretrained: a keras.Model, or the path of a `.keras` or `.h5` file or of a SavedModel; or,
            with base_model_fn, of weights, a tf.train.Checkpoint or a tfbig model_dir. Files are
            loaded in safe mode.
        input_fn: as for train_distributed.
        model_fn: `model_fn(loaded_model)` or `model_fn(loaded_model, params)`, returns a compiled
            keras.Model made of it.
        recipe: or a tfbig.Recipe. With neither, the model is trained as it was compiled.
        base_model_fn: builds the architecture for files that hold weights only.
        **keywords: all others of train_distributed, with the same meaning. A checkpoint in
            model_dir wins over `pretrained`.

    Returns:
        A TrainResult, as train_distributed does.

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
    # The placement settles TensorFlow's devices, which loading a model would do otherwise.
    make_placement(keywords.get("strategy", "auto"), keywords.get("devices"))
    base = load_model(pretrained, base_model_fn=base_model_fn, params=keywords.get("params"))
    builder = tuning_builder(base, model_fn, recipe, keywords.get("max_steps"))
    return train_distributed(builder, input_fn, **keywords)


def evaluate(*args, **kwargs):
    """Evaluates a model on data; not built yet.

    Raises:
        NotBuiltError: always.
    """
    raise NotBuiltError(
        "tfbig.evaluate is not built yet; pass eval_input_fn to tfbig.train_distributed."
    )


def predict(
    model_or_path: keras.Model | str | os.PathLike,
    input_fn: Callable,
    *,
    strategy: str | tf.distribute.Strategy = "auto",
    devices: int | list[str] | str | None = None,
) -> Iterator[Any]:
    """Predicts for every example that input_fn gives, in their order.

    Batches are read, and cut over the replicas, as in evaluation; the results come as they are
    made, so that data of any size can be predicted.

    Example:

        for probabilities in tfbig.predict("runs/digits/model.keras", input_fn):
            print(probabilities.argmax())

    Args:
        model_or_path: a keras.Model, or the path of a `.keras` file (loaded in safe mode).
        input_fn: as for train_distributed, called with mode "infer"; labels and weights are left
            aside.
        strategy, devices: as for train_distributed.

    Yields:
        What the model returns for one example: a NumPy array, or a structure of them.

    Raises:
        UserError: there is no such model, or the data cannot be used; before the first
            prediction is asked for.
    """
    _check_callable("input_fn", input_fn)
    placement = make_placement(strategy, devices)  # before TensorFlow settles its devices
    model = _given_model("predict", model_or_path)
    data = call_input_fn(input_fn, ModeKeys.PREDICT, None, RunConfig())
    feed = make_feed(data, seed=None, multiple=placement.num_replicas, order="own", training=False)
    return _one_by_one(Predictor(model, placement, feed), feed)


def cross_validate(*args, **kwargs):
    """Trains and evaluates over folds; not built yet.

    Raises:
        NotBuiltError: always.
    """
    raise NotBuiltError(
        "tfbig.cross_validate is not built yet; call tfbig.train_distributed for each fold."
    )


def call_input_fn(
    input_fn: Callable, mode: str, params: Any, config: RunConfig, name: str = "input_fn"
) -> tf.data.Dataset | Source:
    """Calls an input_fn with those of mode, params, config and input_context that it asks for.

    Raises:
        UserError: it asks for something else, or returns neither a Dataset nor a Source.
    """
    given = {
        "mode": mode,
        "params": params,
        "config": config,
        "input_context": tf.distribute.InputContext(),
    }
    arguments = {}
    for key, parameter in inspect.signature(input_fn).parameters.items():
        if key in given:
            arguments[key] = given[key]
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            raise UserError(
                f"{name} asks for an argument {key!r}; it can ask for mode, params, config and "
                "input_context by name. Give other arguments a default, or use "
                "functools.partial."
            )
    data = input_fn(**arguments)
    if not isinstance(data, (tf.data.Dataset, Source)):
        raise UserError(
            f"{name} returned {_shown(data)}; return a batched tf.data.Dataset or a "
            "tfbig.data.Source, for example tfbig.data.ArraySource((features, labels)).batch(64)."
        )
    return data


def _checked_config(config: Any) -> RunConfig:
    if config is None:
        return RunConfig()
    if not isinstance(config, RunConfig):
        raise UserError(
            f"config={config!r}: expected a tfbig.RunConfig; write "
            "config=tfbig.RunConfig(accumulation_steps=2), say."
        )
    return config


def _checked_model_dir(model_dir: Any) -> str | None:
    if model_dir is None:
        return None
    if not isinstance(model_dir, (str, os.PathLike)) or not os.fspath(model_dir):
        raise UserError(
            f"model_dir={model_dir!r}: expected a directory's path, or None to keep nothing."
        )
    return os.fspath(model_dir)


def _check_limits(max_steps: Any, epochs: Any) -> None:
    if max_steps is not None and epochs is not None:
        raise UserError(
            f"max_steps={max_steps} and epochs={epochs} were both given; give one of them."
        )
    for name, value in (("max_steps", max_steps), ("epochs", epochs)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise UserError(f"{name}={value!r}: expected an integer of 1 or more, or None.")
        if value is not None and value < 1:
            raise UserError(f"{name}={value}: expected an integer of 1 or more, or None.")


def _check_callable(name: str, value: Any) -> None:
    if not callable(value):
        raise UserError(
            f"{name}={_shown(value)}: expected a function that returns a tf.data.Dataset or a "
            f"tfbig.data.Source; write {name}=lambda: data."
        )


def _shown(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _given_model(verb: str, model_or_path: Any) -> Any:
    """The model itself, or the one in a `.keras` file."""
    if not isinstance(model_or_path, (str, os.PathLike)):
        return model_or_path
    path = os.fspath(model_or_path)
    if not path.endswith(".keras") or not os.path.isfile(path):
        raise UserError(
            f"{verb}({path!r}): expected a keras.Model or the path of a .keras file that exists."
        )
    return keras.saving.load_model(path, safe_mode=True)


def _one_by_one(predictor: Predictor, feed: Feed) -> Iterator[Any]:
    try:
        for *_, outputs in predictor.batches():
            flat = tf.nest.flatten(outputs)
            for row in range(len(flat[0])):
                yield tf.nest.map_structure(lambda a: a[row], outputs)  # noqa: B023
    finally:
        feed.close()
