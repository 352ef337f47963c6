"""How much more memory this process may have."""

import os
import resource
from collections.abc import Iterator
from typing import NamedTuple

from tfbig.errors import UserError

_VARIABLE = "TFBIG_MEMORY_BYTES"
_ROOT = "/sys/fs/cgroup"


class Free(NamedTuple):
    """What a process can still allocate.

    Attributes:
        size: in bytes.
        limit: what allows no more, in words.
    """

    size: int
    limit: str


def free_memory() -> Free | None:
    """What this process can still allocate, by limits of the process and of the machine.

    These are RLIMIT_AS and RLIMIT_DATA, the limit of its control group, the machine's memory and
    swap, and the variable TFBIG_MEMORY_BYTES, which allows a process less.

    Returns:
        By the tightest limit; None where the system tells nothing.
    """
    return min(_limits(), default=None)


def bytes_from_environment(name: str) -> int | None:
    """The number of bytes in a variable of the environment; None: it is not set.

    Raises:
        UserError: it is no number.
    """
    given = os.environ.get(name, "").strip()
    if given and not given.isdigit():
        raise UserError(f"{name}={given!r}: expected a number of bytes.")
    return int(given) if given else None


def _limits() -> Iterator[Free]:
    status = _fields("/proc/self/status")
    for name, used in (("RLIMIT_AS", "VmSize"), ("RLIMIT_DATA", "VmData")):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY and used in status:
            yield _left(soft, status[used], f"{name} of this process")
    for folder, most_file, now_file in _groups():
        most, now = _number(f"{folder}/{most_file}"), _number(f"{folder}/{now_file}")
        if most is not None and now is not None:
            # The cache of files is given back when it is needed.
            cached = _fields(f"{folder}/memory.stat", unit=1).get("inactive_file", 0)
            yield _left(most, now - cached, "its control group (container)")
    given = bytes_from_environment(_VARIABLE)
    if given is not None:
        yield _left(given, status.get("VmRSS", 0), _VARIABLE)
    machine = _fields("/proc/meminfo")
    if "MemAvailable" in machine:
        free = machine["MemAvailable"] + machine.get("SwapFree", 0)
        yield Free(free, "the machine, of which the rest is in use,")


def _left(most: int, used: int, name: str) -> Free:
    words = f"{name}, {readable_bytes(most)} of which {readable_bytes(used)} are in use,"
    return Free(max(0, most - used), words)


def readable_bytes(size: int) -> str:
    """A number of bytes for a message."""
    return f"{size / 2**20:.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**20:.2g} MiB"


def _groups() -> Iterator[tuple[str, str, str]]:
    """The folders of this process's control groups, and the files of their limits and use.

    See https://docs.kernel.org/admin-guide/cgroup-v2.html and …/cgroup-v1/memory.html.
    """
    try:
        with open("/proc/self/cgroup") as file:
            lines = [line.strip().split(":", 2) for line in file]
    except OSError:
        return
    for _, controllers, path in lines:
        path = path.rstrip("/")
        if not controllers:
            yield f"{_ROOT}{path}", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            folder = f"{_ROOT}/memory{path}"
            yield folder, "memory.limit_in_bytes", "memory.usage_in_bytes"


def _fields(path: str, unit: int = 1024) -> dict[str, int]:
    """The numbers of a file with lines such as "VmData:  12 kB", in bytes."""
    try:
        with open(path) as file:
            words = [line.replace(":", " ").split() for line in file]
    except OSError:
        return {}
    return {line[0]: int(line[1]) * unit for line in words if len(line) > 1 and line[1].isdigit()}


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            text = file.read().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" means that there is no limit
