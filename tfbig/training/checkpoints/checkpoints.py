"""Checkpoints: everything that a run needs to resume bit for bit.

A checkpoint is a directory, written under a temporary name and renamed when it is whole:

    <model_dir>/checkpoints/ckpt-00000400/state.index, state.data-…, arrays.npz, metadata.json

A checkpoint of an estimator-style model_fn has its variables under their own names, and
<model_dir>/checkpoint refers to it, as TensorFlow's tools expect.
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfbig.errors import CheckpointError, UserError
from tfbig.placement.control.peers import Peers
from tfbig.placement.owner.slice_files import flush
from tfbig.placement.owner.slice_writer import SliceWriter
from tfbig.placement.parameter_server.late_tables import LateTables, copy_to_host
from tfbig.training.checkpoints.folders import folder_of, steps_in
from tfbig.training.checkpoints.metadata import (
    FORMAT,
    NAMED_FORMAT,
    as_written,
    kinds_of,
    read_metadata,
)
from tfbig.training.checkpoints.state import (
    first_line,
    key_of,
    own_name,
    read_state,
    sliced,
    write_named_state,
    write_state,
)
from tfbig.training.checkpoints.tables import as_wholes, tables_of

log = logging.getLogger("tfbig")

_REPLACED = ".replaced"
# The errors of TensorFlow's and NumPy's readers for files that are cut, changed or missing.
# TensorFlow's raises an IndexError for a file that is cut.
_DAMAGED = (
    tf.errors.OpError,
    OSError,
    ValueError,
    AssertionError,
    LookupError,
    EOFError,
    zipfile.BadZipFile,
)


class Restored(NamedTuple):
    """What `Checkpoints.restore` has restored.

    Attributes:
        step: the global step.
        metadata, arrays: what was saved besides the variables.
        path: of the checkpoint.
        lost: why the trackables are not restored, although the checkpoint is complete; or None.
    """

    step: int
    metadata: dict
    arrays: dict[str, np.ndarray]
    path: str
    lost: str | None


class Checkpoints:
    """The checkpoints in one model_dir.

    Args:
        model_dir: None keeps nothing.
        keep: how many checkpoints are kept.
        peers: the tasks of the run. The chief writes; the others write the slices that they hold.
        late: writes tables while training continues; None: `save` writes everything.

    Attributes:
        model_dir, directory: None keeps nothing.
        keep: how many are kept.
    """

    def __init__(
        self,
        model_dir: str | None,
        keep: int,
        peers: Peers | None = None,
        late: LateTables | None = None,
    ):
        peers = peers or Peers()
        self.model_dir, self.keep, self._writes, self._late = model_dir, keep, peers.is_chief, late
        self._slices = SliceWriter(peers)
        self._completed: list[tuple[int, str]] = []
        self.directory = os.path.join(model_dir, "checkpoints") if model_dir else None

    def clear_up(self) -> None:
        """Removes what a process that was killed while saving has left behind."""
        if not self._writes or not self.directory or not os.path.isdir(self.directory):
            return
        for name in os.listdir(self.directory):
            path = os.path.join(self.directory, name)
            whole = path.removesuffix(_REPLACED)
            if whole != path and not os.path.isdir(whole):
                os.rename(path, whole)
            elif whole != path or name.startswith(".tmp-"):
                shutil.rmtree(path, ignore_errors=True)

    def make_writable(self) -> None:
        """Makes the directories, and checks that they are writable, before any work is done.

        Raises:
            UserError: they cannot be written.
        """
        if self.directory and self._writes:
            _make_writable(self.model_dir, self.directory)

    def steps(self) -> list[int]:
        """The steps of the existing checkpoints, oldest first."""
        return steps_in(self.model_dir) if self.model_dir else []

    def saved_at(self, step: int) -> float:
        """When a checkpoint was written, in seconds as of `time.time`."""
        return os.path.getmtime(os.path.join(self._path(step), "metadata.json"))

    def metadata(self) -> tuple[int, dict] | None:
        """The step and metadata of the newest readable checkpoint, or None."""
        for step in reversed(self.steps()):
            try:
                return step, self._read_metadata(step)
            except (OSError, ValueError) as error:
                _warn_damaged(self._path(step), error)
        return None

    def save(
        self,
        step: int,
        variables: dict,
        trackables: dict,
        metadata: dict,
        arrays: dict,
        *,
        named: bool = False,
    ) -> None:
        """Writes a checkpoint, and removes those that are too old; see `completed_saves`.

        Args:
            step: the global step.
            variables: name to tf.Variable, or to an object that has its value in slices.
            trackables: name to any other object that tf.train.Checkpoint can save.
            metadata: anything JSON can hold.
            arrays: name to NumPy array; object dtypes are not allowed.
            named: save the variables under their own names, without their group.

        Raises:
            CheckpointError: it or the one before cannot be written; completed ones stay.
        """
        if not self._writes:
            self._slices.assist(sliced(variables), own_name if named else key_of)
            return
        self._wait()
        late = self._late.deferred_variables(variables) if self._late else {}
        whole = {n: v for n, v in variables.items() if n not in late}
        if late:  # `write` runs later, and must write the present values
            whole, arrays = copy_to_host(whole), {n: np.array(array) for n, array in arrays.items()}
        temporary = os.path.join(self.directory, f".tmp-{os.getpid()}-{step}")
        metadata = {
            "format": NAMED_FORMAT if named else FORMAT,
            "step": step,
            "variables": kinds_of(variables),
            "tables": tables_of(variables),
            **metadata,
        }
        text = json.dumps(metadata, indent=1)

        def write() -> None:
            try:
                shutil.rmtree(temporary, ignore_errors=True)
                os.makedirs(temporary)
                others = (self._slices.write, late, self._late and self._late.write)
                if named:
                    write_named_state(temporary, whole, trackables, step, *others)
                else:
                    write_state(temporary, whole, trackables, *others)
                with open(os.path.join(temporary, "arrays.npz"), "wb") as file:
                    np.savez(file, allow_pickle=False, **arrays)
                with open(os.path.join(temporary, "metadata.json"), "w") as file:
                    file.write(text)
                self._put_in_place(step, temporary, named)
            except (OSError, tf.errors.OpError) as error:
                shutil.rmtree(temporary, ignore_errors=True)
                raise CheckpointError(self._not_saved(step, error)) from error

        if late:
            self._late.start(write)
        else:
            write()

    def completed_saves(self, wait: bool = False) -> list[tuple[int, str]]:
        """The step and path of each checkpoint that was completed since the last call.

        Args:
            wait: for a checkpoint that is being written.

        Raises:
            CheckpointError: a checkpoint could not be written.
        """
        if wait or not self.busy:
            self._wait()
        new = list(self._completed)
        del self._completed[: len(new)]
        if new:  # old ones are removed in this thread, which is the one that reads them
            completed = [step for step, _ in new]
            for old in self.steps()[: -self.keep]:
                if old not in completed:
                    shutil.rmtree(self._path(old), ignore_errors=True)
        return new

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written, for which `save` would wait."""
        return self._late is not None and self._late.busy

    def abandon(self, seconds: float) -> None:
        """Waits some seconds for a checkpoint that is being written; logs its error.

        It is called when the run has failed.
        """
        try:
            if self._late:
                self._late.wait(seconds)
        except Exception as error:  # the run's own error is what matters
            log.warning("%s", error)

    def _wait(self) -> None:
        if self._late:
            self._late.wait()

    def _put_in_place(self, step: int, temporary: str, named: bool) -> None:
        """Renames a complete checkpoint to its final name."""
        path = self._path(step)
        for name in os.listdir(temporary):
            flush(os.path.join(temporary, name))
        if os.path.isdir(
            path
        ):  # the same step again, at the end or after an older one was restored
            os.rename(path, path + _REPLACED)
        os.rename(temporary, path)
        flush(self.directory)
        shutil.rmtree(path + _REPLACED, ignore_errors=True)
        if named:
            self._point_at_newest()
        self._completed.append((step, path))

    def restore(self, variables: dict, trackables: Callable[[dict], dict]) -> Restored | None:
        """Restores the newest checkpoint that is complete.

        Args:
            variables: as in `save`.
            trackables: returns the other objects to restore, given the checkpoint's metadata.

        Raises:
            CheckpointError: the newest belongs to another model (the message lists the variables
                that differ), or all are damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                metadata = self._read_metadata(step)
            except (OSError, ValueError) as error:
                damaged.append(_warn_damaged(path, error))
                continue
            named = as_written(metadata, variables)
            self._compare(path, metadata, named)
            others = trackables(metadata)
            try:
                return _read(path, metadata, named, others)
            except _DAMAGED as error:
                damaged.append(_warn_damaged(path, error))
        if damaged:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged ({', '.join(damaged)}); give "
                "another model_dir to start anew."
            )
        return None

    def restore_from(self, path: str, variables: dict, trackables: Callable) -> Restored:
        """Restores the checkpoint that the chief has restored, from its path or a copy."""
        metadata = read_metadata(path)
        return _read(path, metadata, as_written(metadata, variables), trackables(metadata))

    def _point_at_newest(self) -> None:
        """Writes the file by which tf.train.latest_checkpoint(model_dir) finds the newest one."""
        names = [os.path.basename(self._path(step)) for step in self.steps()[-self.keep :]]
        paths = [
            os.path.join("checkpoints", name, "state") for name in names
        ]  # relative, so that model_dir can be moved
        folder = os.path.abspath(self.model_dir)
        state = tf.compat.v1.train.generate_checkpoint_state_proto(folder, paths[-1], paths)
        temporary = os.path.join(folder, f".tmp-{os.getpid()}-checkpoint")
        with open(temporary, "w") as file:
            file.write(str(state))
        os.replace(temporary, os.path.join(folder, "checkpoint"))

    def _path(self, step: int) -> str:
        return folder_of(self.model_dir, step)

    def _read_metadata(self, step: int) -> dict:
        return read_metadata(self._path(step))

    def _compare(self, path: str, metadata: dict, variables: dict) -> None:
        saved_tables, tables = metadata.get("tables", {}), tables_of(variables)
        both = saved_tables.keys() & tables.keys()
        saved = as_wholes(metadata["variables"], {first: saved_tables[first] for first in both})
        present = as_wholes(kinds_of(variables), {first: tables[first] for first in both})
        differences = [
            f"{name} is {_shown(saved.get(name))} there and {_shown(present.get(name))} here"
            for name in sorted({*saved, *present})
            if saved.get(name) != present.get(name)
        ]
        if differences:
            shown = "; ".join(differences[:8])
            more = f"; and {len(differences) - 8} more" if len(differences) > 8 else ""
            raise CheckpointError(
                f"{path} belongs to another model: {shown}{more}. Give another model_dir, or the "
                "model that it was trained with."
            )

    def _not_saved(self, step: int, error: Exception) -> str:
        reason = getattr(error, "strerror", None) or first_line(error)
        kept = self.steps()
        previous = (
            f"the checkpoint of step {kept[-1]} is untouched" if kept else "there was none before"
        )
        return (
            f"the checkpoint of step {step} cannot be written to {self.directory}: {reason}; "
            f"{previous}. Free space there, or give another model_dir, and start again."
        )


def _read(path: str, metadata: dict, variables: dict, trackables: dict) -> Restored:
    lost = read_state(path, variables, trackables, metadata.get("tables", {}))
    with np.load(os.path.join(path, "arrays.npz"), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return Restored(metadata["step"], metadata, arrays, path, lost)


def _make_writable(*directories: str) -> None:
    for directory in directories:
        try:
            os.makedirs(directory, exist_ok=True)
            probe = os.path.join(directory, f".probe-{os.getpid()}")
            with open(probe, "w"):
                pass
            os.remove(probe)
        except OSError as error:
            raise UserError(
                f"model_dir={directories[0]!r} cannot be written: {error.strerror}. Give a "
                "directory that can, or model_dir=None to save nothing."
            ) from None


def _shown(kind: Any) -> str:
    return f"{kind[1]}{kind[0]}" if kind else "absent"


def _warn_damaged(path: str, error: Exception) -> str:
    log.warning("%s is damaged and is skipped: %s", path, first_line(error))
    return os.path.basename(path)
