"""Documents of text files, checked and cut into pieces as they are read."""

import codecs
import json
from collections.abc import Callable, Iterator

from tfbig.data import files

_BLOCK = 8 << 20  # bytes that are read at once
PIECE = 1 << 20  # characters, at most, in a piece

Block = list[str] | list[bytes]


class Unreadable(Exception):
    """Why a document, or the rest of its file, cannot be used.

    Args:
        reason: without a full stop.
        lasting: whether it will be the same as long as the file does not change.
    """

    def __init__(self, reason: str, lasting: bool = True):
        super().__init__(reason)
        self.lasting = lasting


def documents(
    path: str, encoding: str | None, progress: Callable[[int], None]
) -> Iterator[tuple[int | None, Iterator[Block]]]:
    """The documents of a file: one, or one for each line of a ".jsonl" file.

    Args:
        path: a file here or a URL.
        encoding: of the text; None: bytes as they are.
        progress: called with numbers of bytes that were read.

    Yields:
        (record, blocks): its number in the file, or None where it is the file; and its text, in
        lists of pieces that end at ends of lines where there are some.

    Raises:
        Unreadable: so do the blocks.
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
        *pieces, rest = _cut(rest + _decoded(decoder, data, end, encoding))
        if pieces:
            yield pieces
    if decoder is not None:
        yield _cut(rest + _decoded(decoder, b"", end, encoding))


def _read(path: str) -> Iterator[bytes]:
    try:
        with files.open_binary(path) as file:
            data = file.read(_BLOCK)
            if not data:
                raise Unreadable("the file is empty")
            while data:
                yield data
                data = file.read(_BLOCK)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> Unreadable:
    if isinstance(error, FileNotFoundError):
        return Unreadable("the file has vanished", lasting=False)
    return Unreadable(f"it cannot be read ({error.strerror or error})", lasting=False)


def _decoded(decoder: codecs.IncrementalDecoder, data: bytes, end: int, encoding: str) -> str:
    try:
        return decoder.decode(data, final=not data)
    except UnicodeDecodeError as error:
        # Its object is what the decoder had kept and this data; it ends where the data ends.
        offset = end - len(error.object) + error.start
        raise Unreadable(
            f"it is not {encoding} at byte {offset} (0x{error.object[error.start]:02x})"
        ) from error


def _cut(text: str) -> list[str]:
    """Pieces of a text, at least one, cut after line ends where there are any."""
    pieces, start = [], 0
    while len(text) - start > PIECE:
        end = text.rfind("\n", start, start + PIECE) + 1 or start + PIECE
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
        raise Unreadable("the file is empty")


def _line(line: bytes) -> Iterator[Block]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"it is not utf-8 at byte {error.start} of its line (0x{line[error.start]:02x})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is not JSON ({error})") from error
    text = record.get("text") if isinstance(record, dict) else None
    if not isinstance(text, str) or not text:
        raise Unreadable('it has no "text", or no string or an empty one in it')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(f'its "text" has half a character at {error.start}') from error
    yield _cut(text)
