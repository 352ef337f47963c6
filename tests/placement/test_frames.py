"""Messages on a socket: what is sent is what comes, and what is no message is refused."""

import json
import math
import socket
import struct

import ml_dtypes
import numpy as np
import pytest

from tfbig.errors import UserError
from tfbig.placement.control import frames
from tfbig.placement.control.frames import Connection, ConnectionEnded, NotAPeer, OtherVersion, pack


@pytest.fixture
def pair():
    """Two sockets that are connected over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname(), timeout=30)
        there, _ = listener.accept()
    with here, there:
        yield here, there


def carry(pair, header, arrays=None):
    """Sends one message and returns it as it comes."""
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


def test_a_header_keeps_what_json_knows_and_what_it_does_not(pair):
    header = {"kind": "x", "é": [1, 0.1, None, True, "\n"], "inf": [math.inf, -math.inf, math.nan]}
    found = carry(pair, header).header
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


def test_arrays_of_any_dtype_and_shape_arrive_to_the_bit(pair):
    found = carry(pair, {"kind": "x"}, ARRAYS).arrays
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def test_an_array_is_sent_from_where_it_is():
    array = np.arange(10)
    buffer = pack({}, {"a": array})[1]
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


@pytest.mark.parametrize("array", [np.array([None]), np.array(["a"], np.dtypes.StringDType())])
def test_objects_are_refused(array):
    with pytest.raises(UserError, match="^the array 'w' has dtype .*, which has no bytes that"):
        pack({}, {"w": array})


@pytest.mark.parametrize("value", [{1, 2}, b"x", np.float32(1), object()])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(UserError, match="^a value for the other tasks cannot be sent: .* pass wh"):
        pack({"value": value})


def test_a_value_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(frames, "LONGEST_HEADER", 100)
    with pytest.raises(UserError, match="has 113 bytes as JSON; 100 are the most. Send large"):
        pack({"value": "x" * 100})


def test_a_message_can_be_read_alone(pair):
    sender, receiver = (Connection(sock) for sock in pair)
    for number in (1, 2):
        sender.queue(pack({"n": number}))
    sender.write()
    found = []
    while len(found) < 2:
        messages, _ = receiver.read(most=1)
        assert len(messages) <= 1
        found += [message.header["n"] for message in messages]
    assert found == [1, 2]


def refused(pair, data: bytes) -> Exception:
    """How reading ends when something sends these bytes."""
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
    "a header without end": lengths(b"", length=2**32 - 1),
    "an empty header": lengths(b""),
    "no JSON": lengths(b"{]"),
    "no dict": lengths(b"[1]"),
    "no UTF-8": lengths(b"\xff\xfe\xfd"),
    "arrays from a stranger": lengths(json.dumps({"arrays": [["a", "<f4", [2]]]}).encode(), 8),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_what_is_no_message_is_refused(case, pair):
    error = refused(pair, GARBAGE[case])
    assert type(error) is NotAPeer


@pytest.mark.parametrize(("dtype", "total"), [("<f4", 4), ("<f4", 12), ("no dtype", 8), ("|O", 8)])
def test_arrays_that_are_not_as_said_are_refused(dtype, total, pair):
    header = json.dumps({"arrays": [["a", dtype, [2 if dtype != "|O" else 1]]]}).encode()
    pair[0].sendall(lengths(header, total))
    connection = Connection(pair[1])
    connection.trusted = True
    with pytest.raises(NotAPeer):
        while True:
            connection.read()


def test_another_version_is_told_from_garbage(pair):
    error = refused(pair, b"tfbig-peers-9\n")
    assert type(error) is OtherVersion
    assert str(error) == "it speaks b'tfbig-peers-9\\n' and not b'tfbig-peers-1\\n'"


def test_an_end_is_told_after_the_messages_before_it(pair):
    sender, receiver = (Connection(sock) for sock in pair)
    sender.queue(pack({"last": 1}))
    sender.write()
    sender.close()
    found = []
    with pytest.raises(ConnectionEnded):
        while True:
            found += receiver.read()[0]
    assert [message.header for message in found] == [{"last": 1}]
