"""Process groups: a task with all that it has started."""

import os
import pathlib
from collections.abc import Iterator

_PROC = pathlib.Path("/proc")


def send(group: int, number: int) -> bool:
    """Sends a signal to all processes of a group; False if there are none."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # none, or another user's, as sudo makes it
        return False
    return True


def is_left(group: int) -> bool:
    """Whether a process of the group still runs.

    Those that have ended and wait for init to collect them, which in a container may take its
    time or never happen, are not counted where /proc tells them apart.
    """
    if not send(group, 0):
        return False
    if not (_PROC / "self" / "stat").exists():
        return True
    return any(state not in "ZX" for of, state in _states() if of == group)


def _states() -> Iterator[tuple[int, str]]:
    """The group and the state of every process."""
    for path in _PROC.iterdir():
        if path.name.isdigit():
            try:
                stat = (path / "stat").read_text(errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                continue
            # The second field is the program's name, in parentheses, with any characters.
            state, _, group = stat.rpartition(")")[2].split()[:3]
            yield int(group), state
