"""The "host:port" address of a task: parsing it, listening on it, connecting to it."""

import contextlib
import dataclasses
import errno
import ipaddress
import socket
from collections.abc import Sequence

from tfbig.errors import UserError


@dataclasses.dataclass(frozen=True)
class Address:
    """The host and port of a task."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether the host is written as a loopback address, which no other machine can reach.

        It is False for a machine's own name, which may resolve to loopback on that machine only.
        """
        with contextlib.suppress(ValueError):  # a name
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Parses "host:port", "10.0.0.1:2222" or "[::1]:2222".

    Raises:
        UserError: the text is not such an address.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not (colon and host and 0 < number < 65536) or (":" in host and not bracketed):
        raise UserError(
            f'{text!r} is not the address of a task; expected "host:port", such as '
            '"10.0.0.1:2222" or "[::1]:2222".'
        )
    return Address(host, number)


def describe_task(index: int, workers: Sequence[str]) -> str:
    """Describes a task for messages: "the chief at host:port", "worker 1 at host:port"."""
    return f"{'the chief' if index == 0 else f'worker {index}'} at {workers[index]}"


def check_port_is_free(address: Address) -> None:
    """Checks that a server on this machine can listen on the port, on all interfaces.

    TensorFlow's server listens on all of them. It would also share a port with another server of
    its kind without an error, and each of the two would receive half of the calls.

    Raises:
        UserError: the port is in use, or this process may not use it.
    """
    _bind_everywhere(address).close()


def listen(address: Address) -> socket.socket:
    """Listens on the address's interface if it belongs to this machine, else on all interfaces.

    Raises:
        UserError: the port is in use, or this process may not use it.
    """
    for family, ip in _interfaces(address):
        with contextlib.suppress(_NotLocal):
            sock = _bind(family, ip, address)
            break
    else:  # the address belongs to a gateway, or to the host of this container
        sock = _bind_everywhere(address)
    try:
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise _port_error(address, error) from None
    return sock


class _NotLocal(Exception):
    """No interface of this machine has the address."""


def _interfaces(address: Address) -> list[tuple[int, str]]:
    """The address families and IP addresses that the host resolves to."""
    with contextlib.suppress(socket.gaierror):  # not resolvable yet, or only on other machines
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        interfaces: list[tuple[int, str]] = list(
            dict.fromkeys((family, str(sockaddr[0])) for family, *_, sockaddr in found)
        )
        if address.is_loopback or not any(
            ipaddress.ip_address(ip.partition("%")[0]).is_loopback for _, ip in interfaces
        ):
            return interfaces
    return []


def _bind_everywhere(address: Address) -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(_NotLocal):  # IPv6 is compiled in but disabled
            return _bind(socket.AF_INET6, "::", address)
    return _bind(socket.AF_INET, "0.0.0.0", address)


def _bind(family: int, ip: str, address: Address) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        # Accepted connections inherit this option. Without it, they would keep the port from
        # TensorFlow's server, and so would connections of a run that has just ended.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((ip, address.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise _NotLocal from error
        raise _port_error(address, error) from None
    return sock


def _port_error(address: Address, error: OSError) -> UserError:
    purpose = f"on this machine, where the task at {address} has to listen"
    if error.errno == errno.EADDRINUSE:
        return UserError(
            f"port {address.port} is in use (by another process) {purpose}; end that process, "
            "which may be left over from an earlier run, or give the task another port."
        )
    return UserError(
        f"port {address.port} cannot be used {purpose}: {error.strerror}; give the task another "
        "port."
    )


def connect(address: Address, seconds: float) -> socket.socket:
    """Connects to an address; tries every IP address that its host resolves to.

    Args:
        address: the address of a listening task.
        seconds: the timeout for each IP address.

    Raises:
        OSError: nothing listens there; socket.gaierror: the host cannot be resolved.
    """
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    for number, (family, kind, protocol, _, sockaddr) in enumerate(found, start=1):
        sock = socket.socket(family, kind, protocol)
        try:
            # The local port of this socket may be one on which another task will listen.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(seconds)
            sock.connect(sockaddr)
            # While nothing listens on the port, Linux may connect a socket to itself.
            if sock.getsockname() == sock.getpeername():
                raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            return sock
        except BaseException as error:
            sock.close()
            if not isinstance(error, OSError) or number == len(found):
                raise
    raise OSError(f"{address.host} cannot be resolved to an IP address")
