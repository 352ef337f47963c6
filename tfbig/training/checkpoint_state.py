"""The tensors of a checkpoint: written as tf.train.Checkpoint does, the sliced ones one by one."""

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf


def write_state(folder: str, variables: dict, trackables: dict) -> None:
    """Writes `<folder>/state.index` and its data.

    Args:
        folder: that is there.
        variables: name to tf.Variable, or to what has its value in slices (shape, dtype, numpy).
        trackables: name to any other object that tf.train.Checkpoint can save.
    """
    prefix = os.path.join(folder, "state")
    in_slices = sliced(variables)
    whole = {n: v for n, v in variables.items() if n not in in_slices}
    root = tf.train.Checkpoint(variables=whole, **trackables)
    if not in_slices:
        root.write(prefix)
        return
    parts = os.path.join(folder, "parts")
    prefixes = [root.write(os.path.join(parts, "whole"))]
    for name, value in full_values(in_slices):
        prefixes.append(os.path.join(parts, str(len(prefixes))))
        tf.raw_ops.SaveV2(
            prefix=prefixes[-1], tensor_names=[key_of(name)], shape_and_slices=[""], tensors=[value]
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=prefixes, destination_prefix=prefix, delete_old_dirs=False
    )
    shutil.rmtree(parts)


def sliced(variables: dict) -> dict:
    """Those variables that have their values in slices."""
    return {n: v for n, v in variables.items() if not isinstance(v, tf.Variable)}


def full_values(sliced: dict) -> Iterator[tuple[str, np.ndarray]]:
    """The whole values of variables in slices, one after the other, so that one is in memory.

    Where replicas are in several processes, all of them go through this together.
    """
    for name, variable in sliced.items():
        yield name, variable.numpy()


def read_state(folder: str, variables: dict, trackables: dict) -> str | None:
    """Reads the variables, one by one, then the other objects.

    Args:
        folder, variables, trackables: as in `write_state`.

    Returns:
        Why the other objects cannot be restored, or None.
    """
    prefix = os.path.join(folder, "state")
    reader = tf.train.load_checkpoint(prefix)
    for name, variable in variables.items():
        variable.assign(reader.get_tensor(key_of(name)))
    root = tf.train.Checkpoint()
    root.read(prefix).expect_partial()
    try:
        for name, trackable in trackables.items():
            setattr(root, name, trackable)  # what is attached now is restored now
    except tf.errors.DataLossError:
        raise
    except tf.errors.OpError as error:
        return first_line(error)
    return None


def key_of(name: str) -> str:
    """The name of a variable's tensor in a checkpoint: tf.train.Checkpoint's of `variables`."""
    return f"variables/{name.replace('.', '..').replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"


def first_line(error: Any) -> str:
    """What an error says, in one line and without its place in a graph."""
    lines = str(getattr(error, "message", None) or error).split("\n")
    return re.sub(r"\{\{.*?\}\} ?", "", lines[0])[:200]
