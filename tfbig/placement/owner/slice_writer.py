"""All tasks of a run write the slices that they hold into one checkpoint, at the same time."""

import os
import uuid
from collections.abc import Callable

import tensorflow as tf

from tfbig.placement.control.peers import Peers
from tfbig.placement.owner.slice_files import write_slices


class SliceWriter:
    """Writes variables in slices for a checkpoint of the chief.

    Where all tasks see the chief's folder, each writes its slices there. Otherwise the slices are
    gathered, one variable after the other, and the chief writes them.

    Args:
        peers: the tasks; they call `write` and `assist` together.
    """

    def __init__(self, peers: Peers):
        self._peers = peers

    def write(self, folder: str, variables: dict, key: Callable[[str], str]) -> list[str]:
        """Writes the slices of all tasks; the chief calls this.

        Args:
            folder: for the files; it does not exist yet.
            variables: name to a SlicedVariable.
            key: from a name to that of the tensor in the checkpoint.

        Returns:
            The prefixes of the files.

        Raises:
            OSError: a task cannot write; all tasks raise one.
        """
        if not variables:
            return []
        token = os.path.join(folder, uuid.uuid4().hex)
        if self._peers.count > 1:
            os.makedirs(folder)
            with open(token, "w"):
                pass
        return self._together(token, variables, key)

    def assist(self, variables: dict, key: Callable[[str], str]) -> None:
        """Writes or sends what this task holds; the others call this while the chief writes."""
        if variables:
            self._together(None, variables, key)

    def _together(self, token: str | None, variables: dict, key: Callable) -> list[str]:
        peers = self._peers
        token = peers.broadcast(token)
        folder = os.path.dirname(token)
        if peers.count > 1 and not all(peers.all_gather(os.path.exists(token))):
            return self._gathered(folder, variables, key)
        prefixes, failed = [], None
        try:
            prefixes = write_slices(os.path.join(folder, f"task{peers.index}"), variables, key)
        except (OSError, tf.errors.OpError) as error:
            failed = str(error)
        every = peers.all_gather([prefixes, failed])
        for index, (_, failed) in enumerate(every):
            if failed is not None:
                raise OSError(f"{peers.describe(index)} cannot write its slices: {failed}")
        return [prefix for written, _ in every for prefix in written]

    def _gathered(self, folder: str, variables: dict, key: Callable) -> list[str]:
        """Gathers one variable after the other, so that one is in memory; the chief writes it."""
        prefixes: list[str] = []
        for name, variable in variables.items():
            value = variable.gather()
            if self._peers.is_chief:
                prefixes.append(os.path.join(folder, f"whole{len(prefixes)}"))
                tf.raw_ops.SaveV2(
                    prefix=prefixes[-1],
                    tensor_names=[key(name)],
                    shape_and_slices=[""],
                    tensors=[tf.constant(value)],
                )
        return prefixes
