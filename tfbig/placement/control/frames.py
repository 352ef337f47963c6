"""Messages on a socket: a JSON header, and any arrays as raw bytes."""

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

PROTOCOL = b"tfbig-peers-"
MAGIC = PROTOCOL + b"1\n"  # the first bytes in both directions; the number is the format's version
MAX_HEADER_BYTES = 64 * 2**20
MAX_UNTRUSTED_HEADER_BYTES = 2**20  # before the sender has identified itself
_LENGTHS = struct.Struct(">IQ")  # of the header and of all arrays together
_CHUNK_BYTES = 2**20  # the most bytes in one call of the socket
_TURN_BYTES = 16 * _CHUNK_BYTES  # after so many, the other connections get their turn


class ConnectionClosed(ConnectionError):
    """The other side has closed the connection."""


class ProtocolError(ConnectionError):
    """The received bytes are not a message of this protocol."""


class ProtocolVersionError(ProtocolError):
    """The other side uses another version of this protocol."""


@dataclasses.dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        header: values that JSON can represent; "kind" is the kind of message.
        arrays: arrays by name.
    """

    header: dict
    arrays: dict[str, np.ndarray]


def pack(header: Mapping, arrays: Mapping[str, np.ndarray] | None = None) -> list[memoryview]:
    """Encodes a message as buffers to send; the buffers of arrays are views, not copies.

    Raises:
        UserError: JSON cannot represent the header's values, or an array contains objects.
    """
    described, buffers = [], []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        described.append([name, _dtype_name(name, array.dtype), list(array.shape)])
        if array.nbytes:
            # Copies only if not contiguous. A view as uint8: bfloat16 has no buffer protocol.
            flat = np.ascontiguousarray(array).reshape(-1)
            buffers.append(memoryview(flat.view(np.uint8)))
    try:
        text = json.dumps({**header, "arrays": described} if described else header).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"a value for the other tasks cannot be sent: {error}; pass values that JSON can "
            "represent: numbers, strings, lists and dicts."
        ) from None
    if len(text) > MAX_HEADER_BYTES:
        raise UserError(
            f"a value for the other tasks has {len(text)} bytes as JSON; the limit is "
            f"{MAX_HEADER_BYTES}. Send large values with broadcast_arrays."
        )
    total = sum(len(buffer) for buffer in buffers)
    return [memoryview(_LENGTHS.pack(len(text), total) + text), *buffers]


def _dtype_name(name: str, dtype: np.dtype) -> Any:
    if dtype.hasobject:
        raise UserError(
            f"the array {name!r} has dtype {dtype}, whose values cannot be sent as bytes; "
            "convert it to a dtype of fixed size."
        )
    if getattr(ml_dtypes, dtype.name, None) is dtype.type:
        return dtype.name  # NumPy describes it as two unnamed bytes
    return np.lib.format.dtype_to_descr(dtype)


def _dtype(described: Any) -> np.dtype:
    if isinstance(described, str) and hasattr(ml_dtypes, described):
        return np.dtype(getattr(ml_dtypes, described))
    return np.lib.format.descr_to_dtype(_as_fields(described))


def _as_fields(described: Any) -> Any:
    """Restores the tuples of a NumPy dtype description, which JSON has turned into lists."""
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
    """A socket that sends and receives messages without blocking.

    One thread reads and writes; another thread may call `queue`.

    Args:
        sock: a connected socket.

    Attributes:
        trusted: whether the other side has identified itself; until then, large headers and
            arrays are rejected.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._outgoing = collections.deque([memoryview(MAGIC)])
        self.trusted = False
        self._header: dict | None = None
        self._arrays: dict[str, np.ndarray] = {}
        self._buffers = self._incoming()
        self._unfilled = next(self._buffers)

    def fileno(self) -> int:
        """The socket's file descriptor, for poll; -1 once it is closed."""
        return self._socket.fileno()

    def queue(self, buffers: Iterable[memoryview]) -> None:
        """Queues the buffers of a message from `pack` for sending."""
        self._outgoing.extend(buffers)

    @property
    def unsent(self) -> bool:
        """Whether queued bytes have not been sent yet."""
        return bool(self._outgoing)

    def write(self) -> None:
        """Sends as many queued bytes as the socket accepts without blocking.

        Raises:
            OSError: the connection is broken.
        """
        remaining = _TURN_BYTES
        while self._outgoing and remaining > 0:
            view = self._outgoing[0]
            try:
                sent = self._socket.send(view[:_CHUNK_BYTES])
            except BlockingIOError:
                return
            remaining -= sent
            if sent == len(view):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = view[sent:]

    def read(self, max_messages: int | None = None) -> tuple[list[Message], bool]:
        """Receives available bytes; returns complete messages, and whether any byte arrived.

        Args:
            max_messages: the most messages to read; the bytes after them stay in the socket.

        Raises:
            ConnectionClosed: the other side has closed the connection.
            ProtocolError: the other side does not use this protocol.
            OSError: the connection is broken.
        """
        messages, remaining = [], _TURN_BYTES
        while remaining > 0 and (max_messages is None or len(messages) < max_messages):
            try:
                size = self._socket.recv_into(self._unfilled[:_CHUNK_BYTES])
            except BlockingIOError:
                break
            if not size:
                # Return the messages before the end first; the next read raises the error.
                if messages:
                    break
                raise ConnectionClosed("the other side has closed the connection")
            remaining -= size
            self._unfilled = self._unfilled[size:]
            if not self._unfilled:
                self._unfilled = next(self._buffers)
                if self._header is not None:
                    messages.append(Message(self._header, self._arrays))
                    self._header = None
        return messages, remaining < _TURN_BYTES

    def _incoming(self):
        """Yields the buffers to fill, one after the other; none of them is empty.

        A message is complete if `_header` is set after the next buffer was requested.
        """
        buffer = bytearray(len(MAGIC))
        yield memoryview(buffer)
        if buffer != MAGIC:
            if buffer.startswith(PROTOCOL):
                raise ProtocolVersionError(f"it uses {bytes(buffer)!r} and not {MAGIC!r}")
            raise ProtocolError(f"it uses another protocol: {bytes(buffer)!r}")
        while True:
            prefix = bytearray(_LENGTHS.size)
            yield memoryview(prefix)
            length, total = _LENGTHS.unpack(prefix)
            if not 0 < length <= (MAX_HEADER_BYTES if self.trusted else MAX_UNTRUSTED_HEADER_BYTES):
                raise ProtocolError(f"a header of {length} bytes")
            if total and not self.trusted:
                raise ProtocolError(f"arrays of {total} bytes from an unidentified sender")
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
                raise ProtocolError(f"a header that cannot be parsed: {error}") from None
            if any(dtype.hasobject for _, dtype, _ in sizes):
                raise ProtocolError("arrays of objects")
            if total != sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in sizes):
                raise ProtocolError("arrays whose size differs from the header")
            arrays = {}
            for name, dtype, shape in sizes:
                arrays[name] = np.empty(shape, dtype)
                if arrays[name].nbytes:
                    yield memoryview(arrays[name].reshape(-1).view(np.uint8))
            self._arrays, self._header = arrays, header

    def close_write(self) -> None:
        """Closes the sending direction, so that the other side reads an end of the stream."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # already closed

    def close(self) -> None:
        """Closes the socket and drops unsent bytes."""
        self._outgoing.clear()
        self._socket.close()
