"""Messages on a socket: a JSON header and, where there are any, arrays as raw bytes."""

import collections
import dataclasses
import json
import math
import socket
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tfbig.errors import UserError

NAME = b"tfbig-peers-"
MAGIC = NAME + b"1\n"  # the first bytes in both directions; the number is the format's version
LONGEST_HEADER = 64 * 2**20
LONGEST_FIRST_HEADER = 2**20  # from somebody who has not said yet who he is
_LENGTHS = struct.Struct(">IQ")  # of the header and of all arrays together
_PIECE = 2**20  # bytes that are given to the socket at a time
_TURN = 16 * _PIECE  # bytes after which other connections have their turn


class ConnectionEnded(ConnectionError):
    """The other side has closed the connection."""


class NotAPeer(ConnectionError):
    """What came is no message of this protocol."""


class OtherVersion(NotAPeer):
    """The other side speaks another version of this protocol."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        header: what JSON holds; "kind" says what the message is.
        arrays: the arrays that came with it.
    """

    header: dict
    arrays: dict[str, np.ndarray]


def pack(header: Mapping, arrays: Mapping[str, np.ndarray] | None = None) -> list[memoryview]:
    """Returns a message as buffers to be sent; those of arrays are views, not copies.

    Raises:
        UserError: JSON cannot hold the header's values, or an array's dtype has no bytes.
    """
    described, buffers = [], []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        described.append([name, _dtype_name(name, array.dtype), list(array.shape)])
        if array.nbytes:
            # A copy only of what is not contiguous; uint8, as bfloat16 has no buffer protocol.
            flat = np.ascontiguousarray(array).reshape(-1)
            buffers.append(memoryview(flat.view(np.uint8)))
    try:
        text = json.dumps({**header, "arrays": described} if described else header).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"a value for the other tasks cannot be sent: {error}; pass what JSON can hold: "
            "numbers, strings, lists and dicts."
        ) from None
    if len(text) > LONGEST_HEADER:
        raise UserError(
            f"a value for the other tasks has {len(text)} bytes as JSON; {LONGEST_HEADER} are "
            "the most. Send large values with broadcast_arrays."
        )
    total = sum(len(buffer) for buffer in buffers)
    return [memoryview(_LENGTHS.pack(len(text), total) + text), *buffers]


def _dtype_name(name: str, dtype: np.dtype) -> Any:
    if dtype.hasobject:
        raise UserError(
            f"the array {name!r} has dtype {dtype}, which has no bytes that could be sent; "
            "convert it to a dtype of fixed size."
        )
    if getattr(ml_dtypes, dtype.name, None) is dtype.type:
        return dtype.name  # numpy's own description of it is two nameless bytes
    return np.lib.format.dtype_to_descr(dtype)


def _dtype(described: Any) -> np.dtype:
    if isinstance(described, str) and hasattr(ml_dtypes, described):
        return np.dtype(getattr(ml_dtypes, described))
    return np.lib.format.descr_to_dtype(_as_fields(described))


def _as_fields(described: Any) -> Any:
    """A description of numpy, whose tuples JSON has made lists."""
    if isinstance(described, str):
        return described
    return [
        (
            field[0] if isinstance(field[0], str) else tuple(field[0]),
            _as_fields(field[1]),
            *(tuple(shape) for shape in field[2:]),
        )
        for field in described
    ]


class Connection:
    """A socket that sends and receives messages without ever waiting.

    One thread reads and writes; `queue` may be called by another.

    Args:
        sock: a connected socket.

    Attributes:
        trusted: whether it is known who the other side is; until then large headers and arrays
            are not taken.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._outgoing = collections.deque([memoryview(MAGIC)])
        self.trusted = False
        self._header: dict | None = None
        self._arrays: dict[str, np.ndarray] = {}
        self._parts = self._incoming()
        self._missing = next(self._parts)

    def fileno(self) -> int:
        """The socket's number, for poll; -1 once it is closed."""
        return self._socket.fileno()

    def queue(self, buffers: Iterable[memoryview]) -> None:
        """Appends a message of `pack` to what is to be sent."""
        self._outgoing.extend(buffers)

    @property
    def unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    def write(self) -> None:
        """Sends what the socket takes at once.

        Raises:
            OSError: the connection is broken.
        """
        left = _TURN
        while self._outgoing and left > 0:
            view = self._outgoing[0]
            try:
                sent = self._socket.send(view[:_PIECE])
            except BlockingIOError:
                return
            left -= sent
            if sent == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = view[sent:]

    def read(self, most: int | None = None) -> tuple[list[Message], bool]:
        """Receives what is there; returns whole messages, and whether anything came.

        Args:
            most: how many messages are read; what follows them stays in the socket.

        Raises:
            ConnectionEnded: the other side has closed the connection.
            NotAPeer: it speaks something else.
            OSError: the connection is broken.
        """
        messages, left = [], _TURN
        while left > 0 and (most is None or len(messages) < most):
            try:
                size = self._socket.recv_into(self._missing[:_PIECE])
            except BlockingIOError:
                break
            if not size:
                # Those that have come before the end are not lost: the next read tells of it.
                if messages:
                    break
                raise ConnectionEnded("the other side has closed the connection")
            left -= size
            self._missing = self._missing[size:]
            if not self._missing:
                self._missing = next(self._parts)
                if self._header is not None:
                    messages.append(Message(self._header, self._arrays))
                    self._header = None
        return messages, left < _TURN

    def _incoming(self):
        """Yields the buffers that are to be filled, one after the other; never an empty one.

        A message is complete when `_header` is set after the next one was asked for.
        """
        buffer = bytearray(len(MAGIC))
        yield memoryview(buffer)
        if buffer != MAGIC:
            if buffer.startswith(NAME):
                raise OtherVersion(f"it speaks {bytes(buffer)!r} and not {MAGIC!r}")
            raise NotAPeer(f"it speaks another protocol: {bytes(buffer)!r}")
        while True:
            prefix = bytearray(_LENGTHS.size)
            yield memoryview(prefix)
            length, total = _LENGTHS.unpack(prefix)
            if not 0 < length <= (LONGEST_HEADER if self.trusted else LONGEST_FIRST_HEADER):
                raise NotAPeer(f"a header of {length} bytes")
            if total and not self.trusted:
                raise NotAPeer(f"arrays of {total} bytes before it is known who sends them")
            buffer = bytearray(length)
            yield memoryview(buffer)
            try:
                header = json.loads(buffer)
                described = header.pop("arrays", [])
                sizes = [
                    (name, _dtype(dtype), [int(n) for n in shape])
                    for name, dtype, shape in described
                ]
            except (ValueError, TypeError, AttributeError) as error:
                raise NotAPeer(f"a header that cannot be read: {error}") from None
            if any(dtype.hasobject for _, dtype, _ in sizes):
                raise NotAPeer("arrays of objects")
            if total != sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in sizes):
                raise NotAPeer("arrays of another size than said")
            arrays = {}
            for name, dtype, shape in sizes:
                arrays[name] = np.empty(shape, dtype)
                if arrays[name].nbytes:
                    yield memoryview(arrays[name].reshape(-1).view(np.uint8))
            self._arrays, self._header = arrays, header

    def finish(self) -> None:
        """Tells the other side that nothing more will come."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is closed already

    def close(self) -> None:
        """Closes the socket; what is unsent is dropped."""
        self._outgoing.clear()
        self._socket.close()
