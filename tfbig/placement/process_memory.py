"""How the C library of this process keeps memory that was freed."""

import ctypes
import os
from typing import Any

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of glibc's malloc.h
_LARGE_BYTES = 2**20


def trim() -> None:
    """Returns freed memory to the system; glibc would keep it."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def return_large_blocks() -> None:
    """From now on, memory of 1 MiB or more is returned to the system as soon as it is freed.

    glibc raises the limit, up to 32 MiB, each time that a large block is freed, and then keeps such
    blocks for each of its arenas, of which it makes one for every thread. See mallopt(3).
    """
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def _function(name: str) -> Any:
    """A function of the C library; None where it has none."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
