"""Files with weights only: reads their contents, and loads a complete file into its model."""

import json
import logging
import os
import re
from collections.abc import Iterable
from typing import NamedTuple

import h5py
import keras
import numpy as np
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.finetuning.archives import kind_of, reason_of
from tfbig.finetuning.keras_files import WEIGHTS, check_keras, named, opened_hdf5
from tfbig.programs.keras.preprocessing import STATE, preprocessing_checksums, refresh_constants
from tfbig.programs.keras.renumbering import Renumbering, automatic_names
from tfbig.programs.updates import mark_slots
from tfbig.training.checkpoints.folders import folder_of, steps_in
from tfbig.training.checkpoints.metadata import counts_all_numbers
from tfbig.training.checkpoints.state import is_named, key_of, own_name
from tfbig.training.checkpoints.tables import misfits, saved_tables, values_for

log = logging.getLogger("tfbig")

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


class Saved(NamedTuple):
    """An array in a file, and its name."""

    name: str
    value: np.ndarray


def is_checkpoint(path: str) -> bool:
    """Whether a path is the prefix of a TensorFlow checkpoint."""
    return os.path.isfile(path + ".index")


def newest_checkpoint(path: str) -> str | None:
    """The folder of the newest checkpoint in a model_dir, or the path if it is one; or None."""
    if os.path.isfile(os.path.join(path, "state.index")):
        return path
    steps = steps_in(path)
    return folder_of(path, steps[-1]) if steps else None


def checkpoint_prefix(path: str) -> str | None:
    """The prefix of a tf.train.Checkpoint: the path, or the latest one in a folder; or None."""
    if is_checkpoint(path):
        return path
    if os.path.isdir(path):
        return tf.train.latest_checkpoint(path)
    return None


def read_saved(path: str) -> list[Saved]:
    """Reads all weights in a file, in order, without those of optimizers.

    Raises:
        UserError: the file is damaged, or has no weights.
    """
    tfbig = newest_checkpoint(path) if os.path.isdir(path) else None
    prefix = os.path.join(tfbig, "state") if tfbig else checkpoint_prefix(path)
    if prefix:
        saved = _in_checkpoint(prefix)
    elif os.path.isdir(path):
        raise UserError(f"{path} holds neither a tfbig nor a TensorFlow checkpoint.")
    else:
        saved = _in_file(path)
    if not saved:
        raise UserError(f"{path} holds no weights.")
    return saved


def _in_file(path: str) -> list[Saved]:
    kind = kind_of(path)
    if kind == "zip":
        check_keras(path, safe_mode=False)  # the config is not deserialized here
        with opened_hdf5(path, WEIGHTS) as file:
            return _in_tree(file)
    if kind != "hdf5":
        raise UserError(f"{path} is {kind}; weights come in .weights.h5, .h5 and .keras files.")
    with opened_hdf5(path) as file:
        root = file.get("model_weights", file)
        return _by_layer(root) if "layer_names" in root.attrs else _in_tree(file)


def _in_tree(file: h5py.File) -> list[Saved]:
    """The weights in a `.weights.h5`, whose groups have class names; layer names are attributes."""
    saved = []
    groups = [("", file)]
    while groups:
        path, group = groups.pop(0)
        for key in sorted(group, key=_natural):
            if path == "" and key in ("optimizer", "metrics"):
                continue
            item = group[key]
            if isinstance(item, h5py.Group):
                groups.append((f"{path}/{key}" if path else key, item))
            elif path.split("/")[-1] == "vars":
                layer = path.split("/")[-2] if "/" in path else ""
                layer = group.attrs.get("name", layer)
                saved.append(Saved(f"{layer}/{key}", np.asarray(item)))
    return saved


def _by_layer(root: h5py.Group) -> list[Saved]:
    saved = []
    for layer in sorted(root, key=_natural):
        for name in root[layer].attrs.get("weight_names", ()):
            name = name.decode() if isinstance(name, bytes) else str(name)
            saved.append(Saved(name.split(":")[0], np.asarray(root[layer][name])))
    return saved


def _in_checkpoint(prefix: str) -> list[Saved]:
    try:
        reader = tf.train.load_checkpoint(prefix)
        saved = []
        if is_named(os.path.dirname(prefix)):  # tfbig's, of an estimator-style model_fn
            with open(os.path.join(os.path.dirname(prefix), "metadata.json")) as file:
                names = [n for n in json.load(file)["variables"] if n.startswith("model/")]
            return [Saved(own_name(n), reader.get_tensor(own_name(n))) for n in names]
        for key in sorted(reader.get_variable_to_shape_map(), key=_natural):
            name = key.removesuffix(_VALUE)
            first = name.split("/")[0]
            if name == key or first in ("optimizer", "save_counter", "metrics"):
                continue
            if first == "variables":  # tfbig's: variables/model.Sdense.Skernel
                name = name.removeprefix("variables/").replace(".S", "/")
                if not name.startswith("model/"):
                    continue
                name = name.removeprefix("model/")
            saved.append(Saved(name, reader.get_tensor(key)))
    except Exception as error:  # a damaged checkpoint makes TensorFlow's reader raise anything
        raise UserError(f"the checkpoint {prefix} is damaged: {reason_of(error)}.") from error
    return saved


def fill(model: keras.Model, path: str) -> None:
    """Loads all weights of a file into a model with the same architecture.

    Raises:
        UserError: the file is damaged, or belongs to another model.
    """
    if not model.built:
        raise UserError(
            f"the model {model.name!r} has no weights yet; give it an Input, or call it on a batch."
        )
    before = model.get_weights()
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)  # creates the variables of its state
        mark_slots(optimizer, model.trainable_variables)
    try:
        _fill(model, path)
    except UserError:
        model.set_weights(before)
        raise
    except Exception as error:  # a file's contents make Keras and TensorFlow raise anything
        model.set_weights(before)
        raise UserError(
            f"{path} does not match the model {model.name!r}: {reason_of(error)}. "
            'tfbig.finetuning.partial.load_weights(model, path, by="name") loads what fits.'
        ) from error
    finally:
        refresh_constants(model)


def _fill(model: keras.Model, path: str) -> None:
    folder = newest_checkpoint(path) if os.path.isdir(path) else None
    if folder:
        _fill_from_tfbig(model, folder)
    elif prefix := checkpoint_prefix(path):
        _fill_from_checkpoint(model, prefix)
    else:
        read_saved(path)  # checks it
        with named(path, _ending(path)) as there:
            model.load_weights(there)


def _ending(path: str) -> str:
    if kind_of(path) == "zip":
        return ".keras"
    with opened_hdf5(path) as file:
        by_layer = "layer_names" in file.attrs or "model_weights" in file
    return ".h5" if by_layer else ".weights.h5"


def _fill_from_tfbig(model: keras.Model, folder: str) -> None:
    """Loads a tfbig checkpoint by names, with the optimizer state if it fits."""
    optimizer = getattr(model, "optimizer", None)
    renumber = Renumbering(None if counts_all_numbers(folder) else automatic_names(model))
    names = _named(
        "model", [*model.trainable_variables, *model.non_trainable_variables], renumber, {}
    )
    reader = tf.train.load_checkpoint(os.path.join(folder, "state"))
    shapes = reader.get_variable_to_shape_map()

    key = own_name if is_named(folder) else key_of

    _check_state(model, folder)
    tables = saved_tables(os.path.join(folder, "state"))
    shape_of = lambda name: shapes.get(key(name))  # noqa: E731
    wrong = misfits(names, tables, shape_of)
    if wrong:
        name, (here, there) = next(iter(wrong.items()))
        raise UserError(
            f"{folder} is of another model than {model.name!r}: {name} is {here} here and "
            f"{'absent' if there is None else there} there ({len(wrong)} such weights)."
            f"{_adapters_hint(folder)}"
        )
    if _has_adapters(shapes) and not _has_adapters(names):
        raise UserError(
            f"{folder} has adapters, and the model {model.name!r} has none, which would leave them "
            f"out.{_adapters_hint(folder)}"
        )
    if optimizer is not None:
        slots = _named("optimizer", optimizer.variables, renumber, {})
        if not misfits(slots, tables, shape_of):
            names |= slots
        else:
            log.info("%s: the optimizer starts without its state, which is another one's.", folder)
    values = dict(values_for(names, tables, lambda name: reader.get_tensor(key(name))))
    for name, variable in names.items():
        variable.assign(values[name])


def _has_adapters(names: Iterable[str]) -> bool:
    return any("lora_kernel_" in name or "lora_embeddings_" in name for name in names)


def _adapters_hint(folder: str) -> str:
    """The hint for loading a run with adapters into the model from which it started."""
    run = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    adapters = os.path.join(run, "adapters.npz")
    if not os.path.exists(adapters):
        return ""
    return (
        " The run has saved its adapters: load them into the model from which it started, with "
        f"tfbig.finetuning.load_adapters(model, {adapters!r})."
    )


def _check_state(model: keras.Model, folder: str) -> None:
    """Raises a UserError if the weights were trained with other vocabularies than the model has."""
    with open(os.path.join(folder, "metadata.json")) as file:
        there = json.load(file).get("settings", {}).get(STATE)
    here = preprocessing_checksums(model)
    if there and there != here:
        raise UserError(
            f"{folder} was written with other {STATE} than those of the model {model.name!r} "
            f"({there}, now {here}); let base_model_fn set the vocabularies and boundaries that "
            "the weights were trained with."
        )


def _named(group: str, variables: list, renumber: Renumbering, named: dict) -> dict:
    """Variables by their names in KerasProgram.named_variables."""
    for variable in variables:
        name = f"{group}/{renumber(variable.path)}"
        twins = sum(other.split("#")[0] == name for other in named)
        named[f"{name}#{twins}" if twins else name] = variable
    return named


def _fill_from_checkpoint(model: keras.Model, prefix: str) -> None:
    """Loads by the object graph of tf.train.Checkpoint, or by the order of tf.keras's layers."""
    reader = tf.train.load_checkpoint(prefix)
    keys = reader.get_variable_to_shape_map()
    roots = sorted({k.split("/")[0] for k in keys if "/" in k})
    if any("layer_with_weights-" in k for k in keys):
        _fill_by_order(model, reader, prefix)
        return
    optimizer = getattr(model, "optimizer", None)
    for root in ["model", *(r for r in roots if r != "model"), ""]:
        if root and root not in roots:
            continue
        checkpoint = tf.train.Checkpoint(**{root: model}) if root else tf.train.Checkpoint(model)
        status = checkpoint.read(prefix)
        try:
            status.assert_existing_objects_matched()
        except AssertionError:
            continue
        finally:
            status.expect_partial()  # no warning about values that the model does not have
        if root and optimizer is not None and "optimizer" in roots:
            tf.train.Checkpoint(optimizer=optimizer).read(prefix).expect_partial()
        return
    raise UserError(
        f"the checkpoint {prefix} is of another model than {model.name!r} (it holds "
        f"{', '.join(roots)})."
    )


def _fill_by_order(model: keras.Model, reader, prefix: str) -> None:
    keys = reader.get_variable_to_shape_map()
    root = next(k for k in keys if "layer_with_weights-" in k).split("layer_with_weights-")[0]
    layers = [layer for layer in model.layers if layer.weights]
    saved = {m[1] for k in keys if (m := re.search(r"layer_with_weights-(\d+)/", k))}
    if len(layers) != len(saved):
        raise UserError(
            f"the checkpoint {prefix} holds {len(saved)} layers with weights, the model "
            f"{model.name!r} {len(layers)}."
        )
    values = []
    for i, layer in enumerate(layers):
        for variable in layer.weights:
            key = f"{root}layer_with_weights-{i}/{variable.name}{_VALUE}"
            if keys.get(key) != list(variable.shape):
                raise UserError(
                    f"the checkpoint {prefix} does not match the model: {variable.path} is "
                    f"{list(variable.shape)} here and {keys.get(key, 'absent')} there."
                )
            values.append((variable, reader.get_tensor(key)))
    for variable, value in values:
        variable.assign(value)


def _natural(text: str) -> list:
    """Sorts dense_2 before dense_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
