"""Checkpoints that are read by variable: tfbig's of a model_fn, and those of tf.estimator."""

import os
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.errors import CheckpointError, UserError
from tfbig.training.checkpoints.folders import folder_of, steps_in
from tfbig.training.checkpoints.state import first_line, own_name
from tfbig.training.checkpoints.tables import misfits, saved_tables, values_for

_OBJECT = re.compile(r"variables/(.+)/\.ATTRIBUTES/VARIABLE_VALUE")


class NamedCheckpoint:
    """The variables of a checkpoint, by their names in model_fn.

    Example: `NamedCheckpoint("runs/iris").value("dense/kernel")`

    Args:
        path: a prefix, as `tf.train.latest_checkpoint` returns it; one of tfbig's folders
            `ckpt-…`; or a model_dir, for its newest checkpoint.

    Attributes:
        path: the prefix.
        shapes: by name, each variable's shape.
        step: the global step.

    Raises:
        UserError: there is no such checkpoint.
        CheckpointError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = _prefix(os.fspath(path))
        try:
            self._reader = tf.train.load_checkpoint(self.path)
            shapes = self._reader.get_variable_to_shape_map()
        except (tf.errors.OpError, ValueError, LookupError) as error:
            raise CheckpointError(
                f"the checkpoint {self.path} cannot be read: {first_line(error)}; give another "
                "one, or a directory that has some."
            ) from error
        self._keys = {_name_of(key): key for key in shapes}
        self.shapes = {name: shapes[key] for name, key in self._keys.items() if name}
        self._keys.pop(None, None)
        # Shards of a table, by own names.
        tables = saved_tables(self.path)
        self._tables = {own_name(t): [*map(own_name, names)] for t, names in tables.items()}

    @property
    def step(self) -> int:
        """The global step of the checkpoint."""
        if "global_step" in self.shapes:
            return int(self.value("global_step"))
        found = re.search(r"ckpt-(\d+)", self.path)
        return int(found[1]) if found else 0

    def value(self, name: str) -> np.ndarray:
        """The value of a variable.

        Raises:
            UserError: the checkpoint has no variable of that name.
        """
        if name not in self._keys:
            raise UserError(
                f"the checkpoint {self.path} has no variable {name!r}; it has "
                f"{_listed(self.shapes)}."
            )
        return np.asarray(self._reader.get_tensor(self._keys[name]))

    def values_for(self, variables: dict[str, Any]) -> dict[str, np.ndarray]:
        """The values of all of a program's variables.

        Args:
            variables: as `Program.named_variables` returns them.

        Raises:
            CheckpointError: some are missing, or have another shape.
        """
        wanted = {own_name(name): name for name in variables}
        by_own = {own: variables[name] for own, name in wanted.items()}
        wrong = misfits(by_own, self._tables, self.shapes.get)
        missing = [own for own, (_, there) in wrong.items() if there is None]
        if missing:
            raise CheckpointError(
                f"{self.path} has no {_listed(missing)}; it has {_listed(self.shapes)}. Give the "
                "model_fn that it was trained with, or another model_dir and warm_start_from= for "
                "a part of its variables."
            )
        for own, (here, there) in wrong.items():
            raise CheckpointError(
                f"{self.path} belongs to another model: {own} has shape {there} there and {here} "
                "here. Give the model_fn that it was trained with, or another model_dir."
            )
        values = values_for(by_own, self._tables, self.value)
        return {wanted[own]: value for own, value in values}


def latest(model_dir: str) -> str | None:
    """The prefix of the newest checkpoint in a model_dir, of tfbig or tf.estimator, or None."""
    for step in reversed(steps_in(model_dir)):
        prefix = os.path.join(folder_of(model_dir, step), "state")
        if os.path.exists(f"{prefix}.index"):
            return prefix
    return tf.train.latest_checkpoint(model_dir) if os.path.isdir(model_dir) else None


def _prefix(path: str) -> str:
    for prefix in (path, os.path.join(path, "state")):
        if os.path.exists(f"{prefix}.index"):
            return prefix
    found = latest(path) if os.path.isdir(path) else None
    if found is None:
        raise UserError(
            f"there is no checkpoint at {path!r}; give a model_dir that has some, or what "
            "latest_checkpoint() returns."
        )
    return found


def _name_of(key: str) -> str | None:
    """A variable's own name by that of its tensor; None: it is no variable."""
    found = _OBJECT.fullmatch(key)
    if found:  # written by tf.train.Checkpoint: "variables/model.Sdense.Skernel/…"
        whole = re.sub(r"\.([.S])", lambda m: "/" if m[1] == "S" else ".", found[1])
        return whole.split("/", 1)[1]
    if "/.ATTRIBUTES/" in key or key == "_CHECKPOINTABLE_OBJECT_GRAPH":
        return None
    return key


def _listed(names: Any) -> str:
    names = sorted(names)
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more
