"""Free ports on this machine."""

import random
import socket

from tfbig.errors import UserError

_LOWEST = 10000
_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"
_TRIES = 1000


def free_ports(count: int, taken: set[int]) -> list[int]:
    """Finds ports that nobody listens at, none of which is in `taken`.

    They are below those that the system gives to whoever connects to somebody. One of these
    could be gone by the time a task listens at it; and a task that asks for another one on this
    machine, which does not listen yet, may even be connected to itself.

    Args:
        count: how many.
        taken: ports that are not to be given, of earlier starts say.

    Raises:
        UserError: there are not so many.
    """
    highest = _first_given_by_the_system() - 1
    if highest < _LOWEST + 100 * count:  # the system gives nearly all of them
        highest = 65535
    found: list[int] = []
    # Chosen at random, so that two launchers that start together do not choose the same.
    choose = random.SystemRandom()
    for _ in range(_TRIES + 10 * count):
        if len(found) == count:
            return found
        port = choose.randint(_LOWEST, highest)
        if port not in taken and port not in found and _is_free(port):
            found.append(port)
    raise UserError(f"this machine has no {count} free ports from {_LOWEST} to {highest}.")


def _first_given_by_the_system() -> int:
    try:
        with open(_RANGE_FILE) as file:
            return int(file.read().split()[0])
    except OSError:  # not Linux; the range that IANA set apart for it
        return 49152


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # on all interfaces, as TensorFlow's servers listen
        except OSError:
            return False
    return True
