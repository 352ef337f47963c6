"""Reads the documents of text files, checks them, and splits them into pieces."""

import codecs
import json
from collections.abc import Callable, Iterator

from tfbig.data import files

_BLOCK = 8 << 20  # bytes per read
MAX_PIECE = 1 << 20  # maximum number of characters in a piece

Block = list[str] | list[bytes]


class UnreadableText(Exception):
    """The reason why a document, or the rest of its file, cannot be used.

    Args:
        reason: what is wrong, without a full stop.
        lasting: whether the problem remains as long as the file does not change.
    """

    def __init__(self, reason: str, lasting: bool = True):
        super().__init__(reason)
        self.lasting = lasting


def documents(
    path: str, encoding: str | None, progress: Callable[[int], None]
) -> Iterator[tuple[int | None, Iterator[Block]]]:
    """Reads the documents of a file: one, or one per line of a ".jsonl" file.

    Args:
        path: a local file or a URL.
        encoding: encoding of the text; None: raw bytes.
        progress: called with the number of bytes of each read.

    Yields:
        (record, blocks): the number of the document in a ".jsonl" file, else None; and its text
        as lists of pieces, which end at line ends if possible.

    Raises:
        UnreadableText: the file or a document cannot be read; iterating over blocks raises it too.
    """
    if path.endswith(".jsonl"):
        yield from _lines(path, progress)
    else:
        yield None, _blocks(path, encoding, progress)


def _blocks(path: str, encoding: str | None, progress: Callable[[int], None]) -> Iterator[Block]:
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    rest, end = "", 0
    for data in _read(path):
        progress(len(data))
        if decoder is None:
            yield [data]
            continue
        end += len(data)
        *pieces, rest = _cut(rest + _decode(decoder, data, end, encoding))
        if pieces:
            yield pieces
    if decoder is not None:
        yield _cut(rest + _decode(decoder, b"", end, encoding))


def _read(path: str) -> Iterator[bytes]:
    try:
        with files.open_binary(path) as file:
            data = file.read(_BLOCK)
            if not data:
                raise UnreadableText("the file is empty")
            while data:
                yield data
                data = file.read(_BLOCK)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> UnreadableText:
    if isinstance(error, FileNotFoundError):
        return UnreadableText("the file no longer exists", lasting=False)
    return UnreadableText(f"it cannot be read ({error.strerror or error})", lasting=False)


def _decode(decoder: codecs.IncrementalDecoder, data: bytes, end: int, encoding: str) -> str:
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        # error.object is the decoder's pending bytes plus this data, so both end at `end`.
        offset = end - len(error.object) + error.start
        raise UnreadableText(
            f"it is not {encoding} at byte {offset} (0x{error.object[error.start]:02x})"
        ) from error


def _cut(text: str) -> list[str]:
    """Splits a text into one or more pieces, after line ends if possible."""
    pieces, start = [], 0
    while len(text) - start > MAX_PIECE:
        end = text.rfind("\n", start, start + MAX_PIECE) + 1 or start + MAX_PIECE
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _lines(path: str, progress: Callable[[int], None]) -> Iterator[tuple[int, Iterator[Block]]]:
    number = -1
    try:
        with files.open_binary(path) as file:
            for number, line in enumerate(file):
                progress(len(line))
                if line.strip():
                    yield number, _line(line)
    except OSError as error:
        raise _unreadable(error) from error
    if number < 0:
        raise UnreadableText("the file is empty")


def _line(line: bytes) -> Iterator[Block]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UnreadableText(
            f"it is not utf-8 at byte {error.start} of its line (0x{line[error.start]:02x})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableText(f"it is not JSON ({error})") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text:
        raise UnreadableText('its "text" is missing, empty or not a string')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnreadableText(f'its "text" has an unpaired surrogate at {error.start}') from error
    yield _cut(text)
