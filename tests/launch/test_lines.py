"""The output of tasks is printed as whole lines with their names."""

import io
import itertools

import pytest

from tfbig.launch import lines
from tfbig.launch.lines import LinePrinter


def printed(*chunks: bytes) -> bytes:
    stream = io.TextIOWrapper(io.BytesIO())
    printer = LinePrinter("[w] ", stream)
    for chunk in chunks:
        printer.feed(chunk)
    printer.close()
    return stream.buffer.getvalue()


@pytest.mark.parametrize(
    ("chunks", "whole"),
    [
        ([b"one\ntwo\n"], b"[w] one\n[w] two\n"),
        ([b"o", b"ne\nt", b"wo\n"], b"[w] one\n[w] two\n"),
        ([b"no end"], b"[w] no end\n"),
        ([b"\n\na\n"], b"[w] \n[w] \n[w] a\n"),
        ([], b""),
        ([b"dos\r\n", b"dos\r", b"\n"], b"[w] dos\n[w] dos\n"),
        ([b"\xff\xfe\n"], b"[w] \xff\xfe\n"),
        ([b"\xe2\x82", b"\xac\n"], "[w] €\n".encode()),
        ([b"10%\r50%\r100%\n"], b"[w] 100%\n"),
        ([b"10%\r", b"\n"], b"[w] 10%\n"),
        ([b"\rlast\r"], b"[w] last\n"),
    ],
)
def test_lines_are_whole_for_any_chunks(chunks, whole):
    assert printed(*chunks) == whole


@pytest.mark.parametrize("form", ["\r{}%", "{}%\r"])
def test_progress_is_printed_at_intervals_and_at_its_end(form, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    printer = LinePrinter("", stream)
    for percent in range(101):
        printer.feed(form.format(percent).encode())
        clock[0] += 0.25
    printer.feed(b"\n")
    shown = [int(line.rstrip("%")) for line in stream.getvalue().splitlines()]
    assert len(shown) == 4
    assert shown[-1] == 100
    assert [b - a for a, b in itertools.pairwise(shown[:-1])] == [40, 40]


def test_a_line_without_an_end_is_split():
    data = "é".encode() * 100_000
    whole = printed(b"x" + data[:70_001], data[70_001:], b"\n")
    pieces = whole.decode().splitlines()  # no character is split
    assert "".join(piece.removeprefix("[w] ") for piece in pieces) == "x" + "é" * 100_000
    assert [len(piece.encode()) <= 2**16 + 4 for piece in pieces] == [True] * 4


def test_invalid_utf8_is_replaced_in_a_text_stream():
    stream = io.StringIO()
    LinePrinter("[w] ", stream).feed(b"\xff\n")
    assert stream.getvalue() == "[w] \N{REPLACEMENT CHARACTER}\n"


def test_no_more_is_written_after_an_error():
    class Full(io.StringIO):
        def write(self, text):
            writes.append(text)
            raise BrokenPipeError(32, "Broken pipe")

    writes = []
    printer = LinePrinter("", Full())
    printer.feed(b"one\n")
    printer.feed(b"two\n")
    assert isinstance(printer.error, BrokenPipeError)
    assert writes == ["one\n"]
