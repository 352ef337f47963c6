"""Messages on a socket arrive unchanged, and anything else is rejected."""

import json
import math
import socket
import struct

import ml_dtypes
import numpy as np
import pytest

from tfbig.errors import UserError
from tfbig.placement.control import frames
from tfbig.placement.control.frames import (
    Connection,
    ConnectionClosed,
    ProtocolError,
    ProtocolVersionError,
    pack,
)


@pytest.fixture
def pair():
    """Two connected TCP sockets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=30)
        server, _ = listener.accept()
    with client, server:
        yield client, server


def transfer(pair, header, arrays=None):
    """Sends one message and returns the received message."""
    sender, receiver = (Connection(sock) for sock in pair)
    receiver.trusted = True
    sender.queue(pack(header, arrays))
    while True:
        sender.write()
        messages, _ = receiver.read()
        if messages:
            (message,) = messages
            assert not sender.unsent
            return message


def test_a_header_keeps_json_values_and_also_nan_and_infinity(pair):
    header = {"kind": "x", "é": [1, 0.1, None, True, "\n"], "inf": [math.inf, -math.inf, math.nan]}
    found = transfer(pair, header).header
    assert math.isnan(found["inf"].pop())
    assert math.isnan(header["inf"].pop())
    assert found == header


ARRAYS = {
    "float": np.array([[1.5, math.nan], [math.inf, -0.0]], np.float32),
    "bfloat16": np.arange(-3, 4).astype(ml_dtypes.bfloat16),
    "float8": np.arange(4).astype(ml_dtypes.float8_e4m3fn),
    "bool": np.array([True, False, True]),
    "0-d": np.array(7, np.int64),
    "empty": np.zeros((0, 3), np.float16),
    "transposed": np.arange(12).reshape(3, 4).T,
    "every second": np.arange(10)[::2],
    "big-endian": np.arange(3, dtype=">i4"),
    "complex": np.array([1 + 2j]),
    "text": np.array(["é", "abc"]),
    "bytes": np.array([b"a", b"bcd"]),
    "time": np.array(["2026-01-01"], "datetime64[D]"),
    "fields": np.array([(1, [2, 3])], [("a", "<f4"), ("b", "<i8", (2,))]),
    "large": np.arange(5_000_000, dtype=np.int64),
}


def test_arrays_of_any_dtype_and_shape_arrive_bit_for_bit(pair):
    found = transfer(pair, {"kind": "x"}, ARRAYS).arrays
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def test_an_array_is_sent_without_a_copy():
    array = np.arange(10)
    buffer = pack({}, {"a": array})[1]
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"], np.dtypes.StringDType())])
def test_arrays_of_objects_are_rejected(array):
    with pytest.raises(UserError, match="^the array 'w' has dtype .*, whose values cannot"):
        pack({}, {"w": array})


@pytest.mark.parametrize("value", [{1, 2}, b"x", np.float32(1), object()])
def test_values_that_json_cannot_represent_are_rejected(value):
    with pytest.raises(UserError, match="^a value for the other tasks cannot be sent: .* pass va"):
        pack({"value": value})


def test_a_value_that_is_too_long_is_rejected(monkeypatch):
    monkeypatch.setattr(frames, "MAX_HEADER_BYTES", 100)
    with pytest.raises(UserError, match="has 113 bytes as JSON; the limit is 100. Send large"):
        pack({"value": "x" * 100})


def test_messages_can_be_read_one_at_a_time(pair):
    sender, receiver = (Connection(sock) for sock in pair)
    for number in (1, 2):
        sender.queue(pack({"n": number}))
    sender.write()
    found = []
    while len(found) < 2:
        messages, _ = receiver.read(max_messages=1)
        assert len(messages) <= 1
        found += [message.header["n"] for message in messages]
    assert found == [1, 2]


def read_error(pair, data: bytes) -> Exception:
    """The error that reading raises when these bytes arrive."""
    other, sock = pair
    other.sendall(data)
    connection = Connection(sock)
    with pytest.raises(ConnectionError) as raised:
        while True:
            connection.read()
    return raised.value


def lengths(header: bytes, total: int = 0, length: int | None = None) -> bytes:
    size = len(header) if length is None else length
    return frames.MAGIC + struct.pack(">IQ", size, total) + header


GARBAGE = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "zeros": bytes(100),
    "an endless header": lengths(b"", length=2**32 - 1),
    "an empty header": lengths(b""),
    "not JSON": lengths(b"{]"),
    "not a dict": lengths(b"[1]"),
    "not UTF-8": lengths(b"\xff\xfe\xfd"),
    "arrays from an unidentified sender": lengths(
        json.dumps({"arrays": [["a", "<f4", [2]]]}).encode(), 8
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_anything_but_a_message_is_rejected(case, pair):
    error = read_error(pair, GARBAGE[case])
    assert type(error) is ProtocolError


@pytest.mark.parametrize(("dtype", "total"), [("<f4", 4), ("<f4", 12), ("no dtype", 8), ("|O", 8)])
def test_arrays_that_differ_from_the_header_are_rejected(dtype, total, pair):
    header = json.dumps({"arrays": [["a", dtype, [2 if dtype != "|O" else 1]]]}).encode()
    pair[0].sendall(lengths(header, total))
    connection = Connection(pair[1])
    connection.trusted = True
    with pytest.raises(ProtocolError):
        while True:
            connection.read()


def test_another_version_is_distinguished_from_garbage(pair):
    error = read_error(pair, b"tfbig-peers-9\n")
    assert type(error) is ProtocolVersionError
    assert str(error) == "it uses b'tfbig-peers-9\\n' and not b'tfbig-peers-1\\n'"


def test_messages_before_the_end_are_returned_before_the_error(pair):
    sender, receiver = (Connection(sock) for sock in pair)
    sender.queue(pack({"last": 1}))
    sender.write()
    sender.close()
    found = []
    with pytest.raises(ConnectionClosed):
        while True:
            found += receiver.read()[0]
    assert [message.header for message in found] == [{"last": 1}]
