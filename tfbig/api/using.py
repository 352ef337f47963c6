"""evaluate, predict and export: the public functions for a trained model."""

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
from tfbig.serving.sliced_export import export_sliced_model
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.feeds import described_feed, make_feed
from tfbig.training.sliced_model import SlicedModel


def evaluate(
    model_or_path: keras.Model | SlicedModel | str | os.PathLike,
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
    """Computes metrics of a model on data that it was not trained on.

    The results do not depend on the devices or on the batch size.

    Example:

        figures = tfbig.evaluate("runs/digits/model.keras", input_fn, model_dir="runs/digits")
        print(figures["accuracy"], figures["f1_macro"], figures["loss"])

    Args:
        model_or_path: a keras.Model, which is not modified, or a path for
            `tfbig.finetuning.load_model`: a `.keras` or `.h5` file, a SavedModel, or, with
            base_model_fn, a file of weights, a checkpoint or a tfbig model_dir.
        input_fn: as for train_distributed; it is called with mode "eval" and read once.
        metrics: names for `tfbig.evaluation.metrics.metrics_for`, tfbig Metrics, and
            keras.metrics objects; None for the default list of the task, [] for none. The loss
            and the compiled metrics are returned as well, under Keras's names.
        strategy, devices: as for train_distributed.
        steps: the number of batches; None for all.
        task: "binary", "classes", "regression" or "language"; None to infer it from the first
            batch.
        model_dir: the folder for metrics.json and the plots; None writes nothing. The learning
            curves are read from the summaries in this folder, or in model_or_path.
        base_model_fn: builds the architecture if the file has weights only.
        params: passed to input_fn and base_model_fn if they have a `params` argument.
        intervals: True, or the number of bootstrap samples. The result then has "intervals", a
            dict of `tfbig.evaluation.statistics.Interval` by name.
        class_names: the names of the classes by class number, for the plots and metrics.json.

    Returns:
        The results by name: a float, a dict by class number (such as "f1_per_class"), or an array
        ("confusion_matrix"). If a compiled metric has the name of a hold-out metric and a
        different value, as Keras's accuracy of logits has, it is named "compiled_<name>".

    Raises:
        UserError: the model cannot be loaded, or the data does not match it or the metrics.
    """
    check_callable("input_fn", input_fn)
    check_count("steps", steps)
    if isinstance(model_or_path, SlicedModel):
        others = (metrics, task, model_dir, base_model_fn, intervals or None, class_names)
        _check_in_place("evaluate", strategy, devices, *others)
        with cluster_error_scope(model_or_path.placement.peers):
            params = model_or_path.params if params is None else params
            data = call_input_fn(input_fn, ModeKeys.EVAL, params, RunConfig())
            return model_or_path.evaluate(data, steps)
    samples = 1000 if intervals is True else intervals or None
    check_count("intervals", samples)
    model_dir = checked_model_dir(model_dir)
    if model_dir is not None:
        check_installed("matplotlib", "evaluate(model_dir=…), which draws plots,")
    placement = make_placement(strategy, devices)  # before TensorFlow initializes its devices
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
    model_or_path: keras.Model | SlicedModel | str | os.PathLike,
    input_fn: Callable,
    *,
    strategy: str | tf.distribute.Strategy = "auto",
    devices: int | list[str] | str | None = None,
    base_model_fn: Callable | None = None,
    params: Any = None,
) -> Iterator[Any]:
    """Predicts for every example of input_fn, in the order of the data.

    Each batch is split over the replicas, as in evaluation. The predictions are yielded batch by
    batch, so the data may be larger than memory.

    Example:

        for probabilities in tfbig.predict("runs/digits/model.keras", input_fn):
            print(probabilities.argmax())

    Args:
        model_or_path: a keras.Model, or the path of a saved one, as for `evaluate`.
        input_fn: as for train_distributed; it is called with mode "infer". Labels and weights
            are ignored.
        strategy, devices: as for train_distributed.
        base_model_fn, params: as for `evaluate`.

    Yields:
        The output of the model for one example: a NumPy array, or a structure of arrays.

    Raises:
        UserError: the model does not exist, or the data is unsuitable. It is raised by the call,
            before the first prediction.
    """
    check_callable("input_fn", input_fn)
    if isinstance(model_or_path, SlicedModel):
        _check_in_place("predict", strategy, devices, base_model_fn)
        placement = model_or_path.placement
        with cluster_error_scope(placement.peers):
            params = model_or_path.params if params is None else params
            data = call_input_fn(input_fn, ModeKeys.PREDICT, params, RunConfig())
            feed = _make_feed(data, placement)
            predictor = Predictor(model_or_path.program, placement, feed)
        return _one_by_one(predictor, feed, placement.peers)
    placement = make_placement(strategy, devices)  # before TensorFlow initializes its devices
    with cluster_error_scope(placement.peers):
        model = _given_model("predict", model_or_path, base_model_fn, params)
        data = call_input_fn(input_fn, ModeKeys.PREDICT, params, RunConfig())
        feed = _make_feed(data, placement)
        if placement.peers.count > 1:
            compare(placement.peers, _facts(model, feed))
        predictor = Predictor(model, placement, feed)
    return _one_by_one(predictor, feed, placement.peers)


def export(
    model_or_path: keras.Model | SlicedModel | str | os.PathLike,
    directory: str | os.PathLike,
    *,
    signatures: Any = None,
    preprocessing: Any = None,
    example: Any = None,
    base_model_fn: Callable | None = None,
    params: Any = None,
) -> str:
    """Writes a trained Keras model as a SavedModel, which TensorFlow Serving can load.

    Before the call returns, another process loads the SavedModel, and its outputs for a batch are
    compared with those of the model.

    Example:

        path = tfbig.export(result.model, "runs/digits/export")
        served = tf.saved_model.load(path)
        outputs = served.serve(images)

        tfbig.export(model, "runs/adult/export", preprocessing=cleaning)
        tf.saved_model.load("runs/adult/export").serve({"age": tf.constant(["41", "", "?"])})

    Args:
        model_or_path: a built keras.Model, or the path of a saved one, as for `evaluate`.
        directory: the folder of the SavedModel. It is renamed into place after the check, and
            replaces an earlier export.
        signatures: not built yet.
        preprocessing: a fitted `tfbig.data.cleaning.Cleaning`, or a list of one followed by
            functions or Keras layers that process its result with TF operations. The SavedModel
            then accepts raw features: the columns that the Cleaning was fitted on, with missing
            values as NaN or "". The inputs of its signature have the names of the columns, with
            "_" for other characters than letters and digits.
        example: a batch of inputs of the SavedModel, arrays [n, …], for the check. None generates
            one from the signature and the vocabularies of lookup layers. A subclassed model is
            exported for the dtypes of the example, because Keras does not know them.

    Returns:
        The directory.

    Raises:
        UserError: there is no model, the preprocessing or the example does not match it, the
            directory cannot be written, or the SavedModel does not compute what the model does.
            The new files are then deleted, and an earlier export remains.
        NotBuiltError: `signatures` was passed.
    """
    if signatures is not None:
        raise NotBuiltError("export(signatures=…) is not built yet; leave it None.")
    steps = checked_preprocessing(preprocessing)
    if isinstance(model_or_path, SlicedModel):
        _check_in_place("export", "auto", None, preprocessing, example, base_model_fn, params)
        sliced = model_or_path
        return export_sliced_model(
            sliced.program, sliced.builder, sliced.placement, os.fspath(directory)
        )
    model = _given_model("export", model_or_path, base_model_fn, params)
    return export_saved_model(model, os.fspath(directory), steps, example)


def _check_in_place(verb: str, strategy: Any, devices: Any, *others: Any) -> None:
    """Checks that a SlicedModel is used where it is, without options that need a whole model."""
    if strategy != "auto" or devices is not None or any(other is not None for other in others):
        raise UserError(
            f"{verb}: the model is in slices on the replicas of its training and is used there, "
            "so strategy, devices and options that need the complete model cannot be given; leave "
            "them out, or train with a larger RunConfig.whole_model_bytes."
        )


def _given_model(
    verb: str, model_or_path: Any, base_model_fn: Callable | None, params: Any
) -> keras.Model:
    """Returns the model itself, or loads it from a path."""
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
    """Wraps a builder so that its models have no optimizer whose state would be loaded."""

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
    """Returns the facts that must be equal on all tasks of a cluster before they predict."""
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
            for i in range(len(flat[0])):
                yield tf.nest.map_structure(lambda a: a[i], outputs)  # noqa: B023
    finally:
        feed.close()
