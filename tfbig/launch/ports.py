"""Finds free ports on this machine."""

import random
import socket

from tfbig.errors import UserError

_LOWEST = 10000
_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"
_TRIES = 1000


def free_ports(count: int, excluded: set[int]) -> list[int]:
    """Finds free TCP ports below the ephemeral range.

    The system assigns ephemeral ports to outgoing connections, so one could be in use by the time
    the task listens on it. A task that connects to an ephemeral port of this machine where nothing
    listens yet may even connect to itself.

    Args:
        count: the number of ports.
        excluded: ports that must not be returned, such as those of an earlier start.

    Raises:
        UserError: there are fewer free ports.
    """
    highest = _first_ephemeral_port() - 1
    if highest < _LOWEST + 100 * count:  # the ephemeral range covers nearly all ports
        highest = 65535
    found: list[int] = []
    # Choose at random, so that two launchers that start together choose different ports.
    choose = random.SystemRandom()
    for _ in range(_TRIES + 10 * count):
        if len(found) == count:
            return found
        port = choose.randint(_LOWEST, highest)
        if port not in excluded and port not in found and _is_free(port):
            found.append(port)
    raise UserError(f"this machine has no {count} free ports from {_LOWEST} to {highest}.")


def _first_ephemeral_port() -> int:
    try:
        with open(_RANGE_FILE) as file:
            return int(file.read().split()[0])
    except OSError:  # not Linux: the start of the IANA range
        return 49152


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))  # on all interfaces, like the servers of TensorFlow
        except OSError:
            return False
    return True
