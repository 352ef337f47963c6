"""The tensors of a checkpoint; variables in slices are written one by one.

Tensors have the names that tf.train.Checkpoint gives them, or their own, as in tf.estimator.
"""

import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.placement.owner.slice_files import is_sliced, read_slices
from tfbig.placement.parameter_server.remote import run_remotely
from tfbig.training.checkpoints.tables import names_to_cut, values_for

WriteLate = Callable[[str, dict], list[str]]
WriteSlices = Callable[[str, dict, Callable[[str], str]], list[str]]


def write_state(
    folder: str,
    variables: dict,
    trackables: dict,
    write_slices: WriteSlices,
    late: dict | None = None,
    write_late: WriteLate | None = None,
) -> None:
    """Writes `<folder>/state.index` and its data, with tf.train.Checkpoint's names.

    Args:
        folder: an existing one.
        variables: name to tf.Variable, or to an object with its value in slices (which has shape,
            dtype and numpy()).
        trackables: name to any other object that tf.train.Checkpoint can save.
        write_slices: from a folder, the variables in slices, and a function that gives the names
            of their tensors, to the prefixes of the files that it has written.
        late: name to the variables that `write_late` writes.
        write_late: from a folder and tensors by their names in the checkpoint to the prefixes of
            the files that it has written.
    """
    in_slices = sliced(variables)
    whole = {n: v for n, v in variables.items() if n not in in_slices}
    root = tf.train.Checkpoint(variables=whole, **trackables)
    _write(folder, root.write, in_slices, write_slices, late or {}, write_late, key_of)


def write_named_state(
    folder: str,
    variables: dict,
    trackables: dict,
    step: int,
    write_slices: WriteSlices,
    late: dict | None = None,
    write_late: WriteLate | None = None,
) -> None:
    """The same with the variables' own names, in the form of tf.estimator's checkpoints.

    `<folder>/state.index` has the variables and `global_step`. The trackables, if there are any,
    are in `<folder>/data.index`.
    """
    in_slices = sliced(variables)
    whole = {own_name(n): v for n, v in variables.items() if n not in in_slices}
    tensors = {n: tf.convert_to_tensor(v) for n, v in whole.items()}
    tensors.setdefault("global_step", tf.constant(step, tf.int64))

    def write(prefix: str) -> str:
        _save(prefix, tensors)
        return prefix

    _write(folder, write, in_slices, write_slices, late or {}, write_late, own_name)
    if trackables:
        tf.train.Checkpoint(**trackables).write(os.path.join(folder, "data"))


def _write(
    folder: str,
    write_whole: Callable[[str], str],
    in_slices: dict,
    write_slices: WriteSlices,
    late: dict,
    write_late: WriteLate | None,
    key: Callable[[str], str],
) -> None:
    """Writes whole variables, then sliced ones, then late ones; merges the files."""
    prefix = os.path.join(folder, "state")
    if not in_slices and not late:
        write_whole(prefix)
        return
    parts = os.path.join(folder, "parts")
    prefixes = [write_whole(os.path.join(parts, "whole"))]
    prefixes += write_slices(os.path.join(parts, "slices"), in_slices, key)
    if late:
        prefixes += write_late(parts, {key(name): tensor for name, tensor in late.items()})
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=prefix, delete_old_dirs=False
    )
    shutil.rmtree(parts)


def _save(prefix: str, tensors: dict) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def read_state(
    folder: str, variables: dict, trackables: dict, tables: dict[str, list[str]]
) -> str | None:
    """Reads the variables, one by one, then the other objects.

    Args:
        folder: written by `write_state` or `write_named_state`.
        variables, trackables: as for these.
        tables: the checkpoint's shards, as tables.tables_of returned them.

    Returns:
        Why the other objects cannot be restored, or None.
    """
    prefix = os.path.join(folder, "state")
    reader = tf.train.load_checkpoint(prefix)
    named = is_named(folder)
    key = own_name if named else key_of
    there = _on_other_tasks(variables, tables)
    for device, on_one in there.items():
        _read_there(prefix, device, {key(name): variables[name] for name in on_one})
    left = set(variables).difference(*there.values())
    here = {n: variable for n, variable in variables.items() if n in left}
    in_slices = sliced(here)
    read_slices(prefix, in_slices, key)
    here = {n: variable for n, variable in here.items() if n not in in_slices}
    for name, value in values_for(here, tables, lambda n: reader.get_tensor(key(n))):
        variables[name].assign(value)
    if named:
        prefix = os.path.join(folder, "data")
        if not os.path.exists(f"{prefix}.index"):
            return None
    root = tf.train.Checkpoint()
    root.read(prefix).expect_partial()
    try:
        for name, trackable in trackables.items():
            setattr(root, name, trackable)  # an object is restored when it is attached
    except tf.errors.DataLossError:
        raise
    except tf.errors.OpError as error:
        return first_line(error)
    return None


def _on_other_tasks(variables: dict, tables: dict[str, list[str]]) -> dict[str, list[str]]:
    """The names of variables on ps, by device, except tables that must be cut again."""
    mine, there = tf.constant(0).device.rpartition("/device:")[0], {}
    cut = names_to_cut(variables, tables)
    for name, variable in variables.items():
        on_a_task = isinstance(variable, tf.Variable) and "/task:" in variable.device
        if on_a_task and not variable.device.startswith(f"{mine}/") and name not in cut:
            there.setdefault(variable.device, []).append(name)
    return there


def _read_there(prefix: str, there: str, variables: dict[str, tf.Variable]) -> None:
    """Has a ps read its variables itself from a checkpoint in a shared folder.

    So they need not pass through this process, nor through a message, which has 2 GB at most.
    """

    def read(prefix):
        values = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=list(variables),
            shape_and_slices=[""] * len(variables),
            dtypes=[variable.dtype for variable in variables.values()],
        )
        return [
            variable.assign(tf.ensure_shape(value, variable.shape), read_value=False)
            for variable, value in zip(variables.values(), values, strict=True)
        ]

    run_remotely(there, read)(tf.constant(prefix))


def is_named(folder: str) -> bool:
    """Whether a checkpoint was written by `write_named_state`."""
    prefix = os.path.join(folder, "state")
    if not os.path.exists(f"{prefix}.index"):
        return False
    return tf.train.load_checkpoint(prefix).has_tensor("global_step")


def own_name(name: str) -> str:
    """A variable's own name, from its name in `Program.named_variables`, which has a group."""
    return name.split("/", 1)[1]


def sliced(variables: dict) -> dict:
    """The variables that have their values in slices."""
    return {n: v for n, v in variables.items() if is_sliced(v)}


def key_of(name: str) -> str:
    """The name of a variable's tensor in a checkpoint: tf.train.Checkpoint's of `variables`."""
    return f"variables/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def first_line(error: Any) -> str:
    """The text of an error, in one line and without its node in a graph."""
    lines = str(getattr(error, "message", None) or error).split("\n")
    return re.sub(r"\{\{.*?\}\} ?", "", lines[0])[:200]
