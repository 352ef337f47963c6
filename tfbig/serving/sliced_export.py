"""Exports a model of which no task has all weights: each task writes those that it holds."""

import contextlib
import logging
import os
import shutil
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.placement.owner.slice_writer import SliceWriter
from tfbig.placement.placement import Placement
from tfbig.programs.divided_weights import is_divisible
from tfbig.programs.keras.builder import KerasBuilder
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.serving.export_folder import ExportFolder

log = logging.getLogger("tfbig")


def export_sliced_model(
    program: KerasProgram, builder: KerasBuilder, placement: Placement, directory: str
) -> str:
    """Writes a SavedModel from weights in slices; all tasks call this together.

    The chief builds the model without weights and exports it. Then all tasks write the weights
    into its files, as in a checkpoint.

    Args:
        program: with the weights in slices.
        builder: builds the model again.
        placement: of the replicas.
        directory: the folder of the SavedModel; an earlier export is replaced.

    Raises:
        UserError: the directory cannot be written, or holds other files.
    """
    peers, stored = placement.peers, _stored_weights(program.model)
    folder = ExportFolder(directory) if peers.is_chief else None
    with folder or contextlib.nullcontext():
        keys: dict[str, list[str]] = {}
        if folder is not None:
            keys = _export_without_weights(program.model, builder, folder.temporary)
        keys = peers.broadcast(keys)
        # A SavedModel of Keras has each variable under several names.
        copies = {
            f"{path}#{i}": (stored[path], key)
            for path, names in keys.items()
            for i, key in enumerate(names)
        }
        variables = {name: variable for name, (variable, _) in copies.items()}
        writer = SliceWriter(peers)
        if folder is None:
            writer.assist(variables, lambda name: copies[name][1])
        else:
            parts = os.path.join(folder.temporary, "parts")
            prefixes = writer.write(parts, variables, lambda name: copies[name][1])
            _put_weights(folder.temporary, prefixes, {key for _, key in copies.values()})
            shutil.rmtree(parts)
            folder.put_in_place()
        peers.barrier()
    log.info("the export is not checked against the model, which no task can hold")
    return os.path.abspath(directory)


def _stored_weights(model: keras.Model) -> dict[str, Any]:
    stored = {v.path: _private_api.stored_value(v) for v in model.variables}
    return {path: value for path, value in stored.items() if not _is_whole(value)}


def _is_whole(value: Any) -> bool:
    return isinstance(value, tf.Variable)


def _export_without_weights(
    model: keras.Model, builder: KerasBuilder, directory: str
) -> dict[str, list[str]]:
    """Exports a model whose weights have a mark in place of a value.

    Returns:
        By the path of each weight in slices, the names of its tensors in the files.
    """
    plain = _private_api.stored_value
    in_slices = [v for v in model.variables if not _is_whole(plain(v))]
    with _private_api.variables_without_values(is_divisible) as created:
        built = builder.build(lambda value: True)
    here = [v for v in built.variables if id(plain(v)) in {id(value) for value in created}]
    if [tuple(v.shape) for v in here] != [tuple(v.shape) for v in in_slices]:
        raise UserError(
            f"export: model_fn has built another model than {model.name!r} was; it must build the "
            "same one in each call."
        )
    for mine, theirs in zip(built.variables, model.variables, strict=True):
        if _is_whole(plain(theirs)):
            mine.assign(theirs.numpy())
    built.export(directory, format="tf_saved_model", verbose=False)
    marks = {_private_api.mark_of(plain(v)): w.path for v, w in zip(here, in_slices, strict=True)}
    reader = tf.train.load_checkpoint(_prefix(directory))
    keys: dict[str, list[str]] = {path: [] for path in marks.values()}
    for key, dtype in reader.get_variable_to_dtype_map().items():
        if dtype == tf.string and (mark := reader.get_tensor(key)) in marks:
            keys[marks[mark]].append(key)
    return keys


def _put_weights(directory: str, prefixes: list[str], keys: set[str]) -> None:
    """Merges files of weights into those of a SavedModel, in place of their marks."""
    prefix = _prefix(directory)
    reader = tf.train.load_checkpoint(prefix)
    others = sorted(set(reader.get_variable_to_dtype_map()) - keys)
    rest = os.path.join(directory, "parts", "rest")
    os.makedirs(os.path.dirname(rest), exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=rest,
        tensor_names=others,
        shape_and_slices=[""] * len(others),
        tensors=[tf.constant(reader.get_tensor(key)) for key in others],
    )
    merged = os.path.join(directory, "parts", "merged", "variables")
    os.makedirs(os.path.dirname(merged))
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[rest, *prefixes], destination_prefix=merged, delete_old_dirs=False
    )
    shutil.rmtree(os.path.dirname(prefix))
    os.rename(os.path.dirname(merged), os.path.dirname(prefix))


def _prefix(directory: str) -> str:
    return os.path.join(directory, "variables", "variables")
