"""Restores a checkpoint on every task of a cluster."""

import os
import tempfile
import zlib
from collections.abc import Callable

from tfbig.placement.control.peers import Peers
from tfbig.training.checkpoints.checkpoints import Checkpoints, Restored


def restore_on_all_workers(
    checkpoints: Checkpoints, peers: Peers, variables: dict, trackables: Callable[[dict], dict]
) -> Restored | None:
    """Restores the chief's newest checkpoint on every task.

    A task that sees the chief's folder reads it there; one that does not is sent the files.

    Args:
        checkpoints, variables, trackables: as for Checkpoints.restore.
        peers: the tasks.
    """
    restored = checkpoints.restore(variables, trackables) if peers.is_chief else None
    if peers.count == 1:
        return restored
    told = peers.broadcast([restored.path, _contents(restored.path)] if restored else None)
    if told is None:
        return None
    path, contents = told
    wanted = not peers.is_chief and _contents(path) != contents
    with tempfile.TemporaryDirectory(prefix="tfbig-checkpoint-") as folder:
        copy = os.path.join(folder, os.path.basename(path))
        if any(peers.all_gather(wanted)):
            peers.broadcast_files(path if peers.is_chief else None, wanted, copy)
        if not peers.is_chief:
            restored = checkpoints.restore_from(copy if wanted else path, variables, trackables)
    return restored._replace(path=path)


def _contents(path: str) -> dict[str, list[int]] | None:
    """Size of each file in a checkpoint, and a check sum of the small ones; None: not there."""
    try:
        return {name: _of_file(os.path.join(path, name)) for name in sorted(os.listdir(path))}
    except OSError:
        return None


def _of_file(path: str) -> list[int]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        return [size, zlib.crc32(file.read()) if size < 2**20 else 0]
