"""The "host:port" of a task: reading it, listening there, connecting to it."""

import contextlib
import dataclasses
import errno
import ipaddress
import socket
from collections.abc import Sequence

from tfbig.errors import UserError


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a task is reached."""

    host: str
    port: int

    @property
    def stays_here(self) -> bool:
        """Whether it is loopback as it is written, which no other machine can mean.

        A machine's own name may resolve to loopback on that machine alone, and is not.
        """
        with contextlib.suppress(ValueError):  # a name
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Reads "host:port", "10.0.0.1:2222" or "[::1]:2222".

    Raises:
        UserError: it is something else.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not (colon and host and 0 < number < 65536) or (":" in host and not bracketed):
        raise UserError(
            f'{text!r} is no address of a task; expected "host:port", such as "10.0.0.1:2222" or '
            '"[::1]:2222".'
        )
    return Address(host, number)


def describe_task(index: int, workers: Sequence[str]) -> str:
    """A task in a few words: "the chief at host:port", "worker 1 at host:port"."""
    return f"{'the chief' if index == 0 else f'worker {index}'} at {workers[index]}"


def check_port_is_free(address: Address) -> None:
    """Sees to it that a server of this machine can listen on the port.

    It looks at all interfaces, as TensorFlow's server listens on all. That server would share a
    port with another one of its kind without a word, and each would get half of the calls.

    Raises:
        UserError: the port is taken, or not for us.
    """
    _bind_everywhere(address).close()


def listen(address: Address) -> socket.socket:
    """Listens at an address: on its interface if that is this machine's, else on all.

    Raises:
        UserError: the port is taken, or not for us.
    """
    for family, ip in _interfaces(address):
        with contextlib.suppress(_NotHere):
            sock = _bind(family, ip, address)
            break
    else:  # it is the address of a gateway, or of the host around this container
        sock = _bind_everywhere(address)
    try:
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise _unusable(address, error) from None
    return sock


class _NotHere(Exception):
    """No interface of this machine has the address."""


def _interfaces(address: Address) -> list[tuple[int, str]]:
    """The family and IP address of the interfaces that the host may be."""
    with contextlib.suppress(socket.gaierror):  # it has no address yet, or only elsewhere
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        interfaces = list(dict.fromkeys((family, where[0]) for family, *_, where in found))
        if address.stays_here or not any(
            ipaddress.ip_address(ip.partition("%")[0]).is_loopback for _, ip in interfaces
        ):
            return interfaces
    return []


def _bind_everywhere(address: Address) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(_NotHere):  # IPv6 is built in and switched off
            return _bind(socket.AF_INET6, "::", address)
    return _bind(socket.AF_INET, "0.0.0.0", address)


def _bind(family: int, ip: str, address: Address) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        # Connections that are accepted here inherit it, so they do not keep the port from
        # TensorFlow's server; nor do those of a run that has just ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((ip, address.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NotHere from error
        raise _unusable(address, error) from None
    return sock


def _unusable(address: Address, error: OSError) -> UserError:
    where = f"on this machine, where the task at {address} shall listen"
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {address.port} is in use (by another process) {where}; end that process, which "
            "may be left from an earlier run, or give the task another port."
        )
    return UserError(
        f"port {address.port} cannot be used {where}: {error.strerror}; give the task another port."
    )


def connect(address: Address, seconds: float) -> socket.socket:
    """Connects to an address, trying every IP address that its name has.

    Raises:
        OSError: nobody listens there; socket.gaierror: the name has no address.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, where) in enumerate(found, start=1):
        sock = socket.socket(family, kind, protocol)
        try:
            # The port that this end gets may be one on which another task will listen.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(seconds)
            sock.connect(where)
            # While nobody listens, Linux may connect a socket to itself.
            if sock.getsockname() == sock.getpeername():
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            return sock
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError) or number == len(found):
                raise
    raise OSError(f"{address.host} has no address")
