"""Exports Keras models as SavedModels."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.data.cleaning import Cleaning
from tfbig.errors import UserError
from tfbig.programs.feature_matching import match_features
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt_uncompiled
from tfbig.serving.checker import CHECKER
from tfbig.serving.export_check import check_keras_export
from tfbig.serving.export_folder import ExportFolder
from tfbig.serving.samples import error_text


def export_saved_model(
    model: keras.Model, directory: str, preprocessing: Sequence[Callable] = (), example: Any = None
) -> str:
    """Writes a model under a temporary name, checks it in another process, and renames it.

    Args:
        model: a built model.
        directory: the folder of the SavedModel; an earlier export is replaced.
        preprocessing: () for Keras's own signature; otherwise a fitted Cleaning, whose raw
            features become the inputs of the signature, followed by functions of tensors.
        example: a batch of inputs of the SavedModel for the check; None to generate one.

    Raises:
        UserError: `model` is not a built keras.Model, the preprocessing does not match it, the
            directory cannot be written or holds other files, or the SavedModel does not compute
            what the model does.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise UserError(
            f"export: expected a keras.Model that has been trained or built, received "
            f"{type(model).__name__}."
        )
    folder = ExportFolder(directory)
    CHECKER.start()  # its process imports TensorFlow during the export
    try:  # a copy with plain variables, because mirrored ones are saved once per replica
        plain = rebuilt_uncompiled(model, merge_adapters=True)
    except CANNOT_BE_REBUILT:
        plain = model
    with folder:
        if preprocessing:
            specs = [_signature(preprocessing[0].raw_spec)]  # type: ignore[attr-defined]
            _export_with(preprocessing, plain, folder.temporary)
        else:
            example = match_features(plain, example)
            specs = _export_plain(plain, folder.temporary, example)
        check_keras_export(folder.temporary, folder.directory, model, preprocessing, specs, example)
        folder.put_in_place()
    return folder.directory


def checked_preprocessing(preprocessing: Any) -> list[Callable]:
    """Returns the argument `preprocessing` of `tfbig.export` as a list; [] for None.

    Raises:
        UserError: the first step is not a fitted Cleaning, or another one is not a function.
    """
    if preprocessing is None:
        return []
    listed = isinstance(preprocessing, (list, tuple))
    steps = list(preprocessing) if listed else [preprocessing]
    if not steps or not isinstance(steps[0], Cleaning) or not all(map(callable, steps)):
        raise UserError(
            f"export(preprocessing={preprocessing!r}): expected a fitted "
            "tfbig.data.cleaning.Cleaning, which has the raw columns, or a list of it and "
            "functions of its results, such as [cleaning, stack]."
        )
    _ = steps[0].raw_spec  # raises if it is not fitted
    return steps


def _export_plain(model: keras.Model, directory: str, example: Any) -> list:
    """Exports a model with Keras's signature, or with the example's for a subclassed model.

    Keras knows only the shapes of the inputs of a subclassed model, and assumes floats. Returns
    the signature.
    """
    given = {}
    if example is not None and not getattr(model, "inputs", None):
        given["input_signature"] = [tf.nest.map_structure(_spec_of, example)]
    try:
        specs = given.get("input_signature") or _private_api.export_signature(model)
        model.export(directory, format="tf_saved_model", verbose=False, **given)
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"export: the model {model.name!r} cannot be traced for serving "
            f"({error_text(error)}); call it on a batch, and pass that batch as "
            "example=."
        ) from error
    return specs


def _spec_of(value: Any) -> tf.TensorSpec:
    tensor = tf.convert_to_tensor(value)
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)


def _export_with(preprocessing: Sequence[Callable], model: keras.Model, directory: str) -> None:
    def serve(features):
        for step in preprocessing:
            features = step(features)
        try:
            return model(match_features(model, features))
        except (TypeError, ValueError, KeyError) as error:
            given = tf.nest.map_structure(lambda t: f"{t.dtype.name} {t.shape}", features)
            raise UserError(
                f"export: the model does not accept the result of the preprocessing, {given}. "
                "Add a function that converts it to the model's inputs, such as preprocessing="
                '[cleaning, lambda columns: tf.stack([columns["a"], columns["b"]], axis=1)].'
            ) from error

    signature = [_signature(preprocessing[0].raw_spec)]  # type: ignore[attr-defined]
    traced = tf.function(serve, input_signature=signature, autograph=False)
    traced.get_concrete_function()  # builds the layers
    archive = keras.export.ExportArchive()
    archive.track(model)
    for step in preprocessing:
        if isinstance(step, (keras.layers.Layer, tf.Module)):
            archive.track(step)  # includes its lookup tables
    archive.add_endpoint("serve", traced)
    archive.write_out(directory, verbose=False)


def _signature(raw: Any) -> Any:
    """Returns the signature of raw features; inputs have valid forms of the column names."""

    def named(spec, name):
        return tf.TensorSpec([None, *spec.shape], spec.dtype, name=name)

    if not isinstance(raw, dict):
        return named(raw, "features")
    names: list[str] = []
    for column in raw:
        name = re.sub(r"[^A-Za-z0-9_]", "_", column)
        name = name if re.match("[A-Za-z]", name) else f"column_{name}"
        while name in names:
            name += "_"
        names.append(name)
    return {column: named(raw[column], name) for column, name in zip(raw, names, strict=True)}
