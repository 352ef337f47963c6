"""evaluate, predict and export: what is done with a model that has been trained."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig.api.checks import call_input_fn, check_callable
from tfbig.data.feed import Feed
from tfbig.errors import NotBuiltError, UserError
from tfbig.placement.strategies import make_placement
from tfbig.programs.spec import ModeKeys
from tfbig.run_config import RunConfig
from tfbig.serving.saved_model import checked_preprocessing, export_saved_model
from tfbig.training.predictor import Predictor
from tfbig.training.session import make_feed


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
    check_callable("input_fn", input_fn)
    placement = make_placement(strategy, devices)  # before TensorFlow settles its devices
    model = _given_model("predict", model_or_path)
    data = call_input_fn(input_fn, ModeKeys.PREDICT, None, RunConfig())
    feed = make_feed(data, seed=None, multiple=placement.num_replicas, order="own", training=False)
    return _one_by_one(Predictor(model, placement, feed), feed)


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
