"""evaluate, predict and export: what is done with a model that has been trained."""

import functools
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig._optional import check as check_installed
from tfbig.arguments import call_input_fn, check_callable, check_count, checked_model_dir
from tfbig.data.feeds.feed import Feed
from tfbig.errors import NotBuiltError, UserError
from tfbig.evaluation.curves import read_history
from tfbig.evaluation.holdout import evaluate_model
from tfbig.finetuning.hub import is_handle
from tfbig.finetuning.loading import load_model
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.preflight import compare
from tfbig.placement.placement import Placement
from tfbig.placement.strategies import make_placement
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.serving.saved_model import checked_preprocessing, export_saved_model
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.feeds import described_feed, make_feed


def evaluate(
    model_or_path: keras.Model | str | os.PathLike,
    input_fn: Callable,
    *,
    metrics: Sequence[Any] | None = None,
    strategy: str | tf.distribute.Strategy = "auto",
    devices: int | list[str] | str | None = None,
    steps: int | None = None,
    task: str | None = None,
    model_dir: str | os.PathLike | None = None,
    base_model_fn: Callable | None = None,
    params: Any = None,
    intervals: bool | int = False,
    class_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Tells how good a model is on data that it was not trained on.

    The figures are the same wherever they are computed, however the data are batched.

    Example:

        figures = tfbig.evaluate("runs/digits/model.keras", input_fn, model_dir="runs/digits")
        print(figures["accuracy"], figures["f1_macro"], figures["loss"])

    Args:
        model_or_path: a keras.Model, which is left as it is, or what
            `tfbig.finetuning.load_model` takes: a `.keras` or `.h5` file, a SavedModel, or with
            base_model_fn a file of weights, a checkpoint or a tfbig model_dir.
        input_fn: as for train_distributed, called with mode "eval" and read once.
        metrics: names of `tfbig.evaluation.metrics.metrics_for`, tfbig Metrics, and
            keras.metrics objects; None: the usual list of the task; []: none. The loss and the
            metrics that the model is compiled with are told besides, under Keras's names.
        strategy, devices: as for train_distributed.
        steps: the number of batches; None: all.
        task: "binary", "classes", "regression" or "language"; None: told by the first batch.
        model_dir: where metrics.json and the plots are written; None: nowhere. The learning
            curves are those of the run that has left its summaries there, or in model_or_path.
        base_model_fn: builds the architecture for weights alone.
        params: handed to input_fn and base_model_fn if they ask for it.
        intervals: True, or the number of bootstrap samples: "intervals" is then a dict of
            `tfbig.evaluation.statistics.Interval` by name.
        class_names: in the order of class numbers, for the plots and metrics.json.

    Returns:
        By name a float, a dict by class number ("f1_per_class" …), or an array
        ("confusion_matrix"). Where a compiled metric has a hold-out metric's name and says
        something else (as Keras's accuracy of logits), it is "compiled_<name>".

    Raises:
        UserError: the model cannot be loaded, or the data do not go with it or the metrics.
    """
    check_callable("input_fn", input_fn)
    check_count("steps", steps)
    samples = 1000 if intervals is True else intervals or None
    check_count("intervals", samples)
    model_dir = checked_model_dir(model_dir)
    if model_dir is not None:
        check_installed("matplotlib", "evaluate(model_dir=…), which draws plots,")
    placement = make_placement(strategy, devices)  # before TensorFlow settles its devices
    given = isinstance(model_or_path, keras.Model)
    with cluster_error_scope(placement.peers):
        model = _given_model("evaluate", model_or_path, base_model_fn, params)
        path = None if given else os.fspath(model_or_path)
        data = call_input_fn(input_fn, ModeKeys.EVAL, params, RunConfig())
        feed = _make_feed(data, placement)
        if placement.peers.count > 1:
            compare(placement.peers, _facts(model, feed))
        report = evaluate_model(
            model,
            placement,
            feed,
            metrics=metrics,
            task=task,
            steps=steps,
            samples=samples or 0,
            class_names=class_names,
            history=read_history(model_dir, None if path is None or is_handle(path) else path),
            title=model.name if given else os.path.basename(os.path.abspath(model_or_path)),
            keep=given,
        )
    if model_dir is not None and placement.peers.is_chief:
        report.write(model_dir)
    return {**report.figures, **({"intervals": report.intervals} if samples else {})}


def predict(
    model_or_path: keras.Model | str | os.PathLike,
    input_fn: Callable,
    *,
    strategy: str | tf.distribute.Strategy = "auto",
    devices: int | list[str] | str | None = None,
    base_model_fn: Callable | None = None,
    params: Any = None,
) -> Iterator[Any]:
    """Predicts for every example that input_fn gives, in their order.

    Batches are read, and cut over the replicas, as in evaluation; the results come as they are
    made, so that data of any size can be predicted.

    Example:

        for probabilities in tfbig.predict("runs/digits/model.keras", input_fn):
            print(probabilities.argmax())

    Args:
        model_or_path: a keras.Model, or the path of a saved one, as for `evaluate`.
        input_fn: as for train_distributed, called with mode "infer"; labels and weights are left
            aside.
        strategy, devices: as for train_distributed.
        base_model_fn, params: as for `evaluate`.

    Yields:
        What the model returns for one example: a NumPy array, or a structure of them.

    Raises:
        UserError: there is no such model, or the data cannot be used; before the first
            prediction is asked for.
    """
    check_callable("input_fn", input_fn)
    placement = make_placement(strategy, devices)  # before TensorFlow settles its devices
    with cluster_error_scope(placement.peers):
        model = _given_model("predict", model_or_path, base_model_fn, params)
        data = call_input_fn(input_fn, ModeKeys.PREDICT, params, RunConfig())
        feed = _make_feed(data, placement)
        if placement.peers.count > 1:
            compare(placement.peers, _facts(model, feed))
        predictor = Predictor(model, placement, feed)
    return _one_by_one(predictor, feed, placement.peers)


def export(
    model_or_path: keras.Model | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    signatures: Any = None,
    preprocessing: Any = None,
    example: Any = None,
    base_model_fn: Callable | None = None,
    params: Any = None,
) -> str:
    """Writes a trained Keras model as a SavedModel, which TensorFlow Serving can load.

    Before it is done, another process loads what was written, and its outputs for a batch are
    compared with the model's.

    Example:

        path = tfbig.export(result.model, "runs/digits/export")
        served = tf.saved_model.load(path)
        outputs = served.serve(images)

        tfbig.export(model, "runs/adult/export", preprocessing=cleaning)
        tf.saved_model.load("runs/adult/export").serve({"age": tf.constant(["41", "", "?"])})

    Args:
        model_or_path: a built keras.Model, or the path of a saved one, as for `evaluate`.
        directory: where to; written beside, checked, and renamed: an earlier export is replaced.
        signatures: not built yet.
        preprocessing: a fitted `tfbig.data.cleaning.Cleaning`, or a list of one and functions
            (or Keras layers) that go on with what it returns, made of TF operations. The
            SavedModel then takes raw features: the columns that the Cleaning was fitted on,
            missing values as NaN or "". In its signature a column has its name, with "_" for
            what is no letter or digit.
        example: a batch of what the SavedModel takes, arrays [n, …], to check it with; None: a
            batch is made up from the signature and from the vocabularies of lookup layers. A
            subclassed model is exported for the example's dtypes, of which Keras knows nothing.

    Returns:
        The directory.

    Raises:
        UserError: there is no model, the preprocessing or the example does not go with it, the
            directory cannot be written, or what was written does not compute what the model
            does; nothing is left of it then, and an earlier export stays.
        NotBuiltError: signatures were given.
    """
    if signatures is not None:
        raise NotBuiltError("export(signatures=…) is not built yet; leave it None.")
    steps = checked_preprocessing(preprocessing)
    model = _given_model("export", model_or_path, base_model_fn, params)
    return export_saved_model(model, os.fspath(directory), steps, example)


def _given_model(
    verb: str, model_or_path: Any, base_model_fn: Callable | None, params: Any
) -> keras.Model:
    """The model itself, or the one at a path."""
    if not isinstance(model_or_path, (keras.Model, str, os.PathLike)):
        raise UserError(
            f"{verb}: expected a keras.Model that has been trained or built, or the path of a "
            f"saved one; received {type(model_or_path).__name__}."
        )
    try:
        builder = base_model_fn and _without_optimizer(base_model_fn)
        return load_model(model_or_path, base_model_fn=builder, params=params)
    except UserError as error:
        text = str(error).replace("pretrained=", "model_or_path=")
        raise UserError(f"{verb}: {text}") from error


def _without_optimizer(base_model_fn: Callable) -> Callable:
    """A builder whose models have no optimizer, so that no state for one is looked for."""

    @functools.wraps(base_model_fn)
    def builder(*arguments: Any, **keywords: Any) -> Any:
        model = base_model_fn(*arguments, **keywords)
        if isinstance(model, keras.Model) and model.compiled:
            model.optimizer = None
        return model

    return builder


def _make_feed(data: Any, placement: Placement) -> Feed:
    replicas = placement.num_replicas
    return make_feed(data, seed=None, multiple=replicas, order="own", training=False)


def _facts(model: keras.Model, feed: Feed) -> dict[str, str]:
    """What the tasks of a cluster have to agree in before they predict together."""
    weights = 0
    for variable in model.variables:
        values: Any = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        weights = zlib.crc32(values, weights)
    return {"the model's weights": f"check sum {weights}", "input_fn": described_feed(feed)}


def _one_by_one(predictor: Predictor, feed: Feed, peers: Peers) -> Iterator[Any]:
    try:
        batches = predictor.batches()
        while True:
            with cluster_error_scope(peers):
                *_, outputs = next(batches, (None,))
            if outputs is None:
                return
            flat = tf.nest.flatten(outputs)
            for row in range(len(flat[0])):
                yield tf.nest.map_structure(lambda a: a[row], outputs)  # noqa: B023
    finally:
        feed.close()
