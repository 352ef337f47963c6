"""The text files of a folder as windows of tokens, for language models."""

import codecs
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfbig._optional import load
from tfbig.data import files
from tfbig.data.bad_records import BadRecord, make_quarantine, report
from tfbig.data.sources.token_source import TokenSource, check_whole
from tfbig.data.text.documents import Unreadable, documents
from tfbig.data.text.token_file import Encode, Tokens, TokenWriter, open_tokens, written_in_one_go
from tfbig.errors import UserError

_FORMAT = 1
_BYTE_SEPARATOR = 255  # a byte that UTF-8 never has


class TextFolderSource(TokenSource):
    """Text files as windows of tokens, packed one after the other.

    Each file is a document; of a ".jsonl" file each line is one, its "text". A separator follows
    each document, and windows are cut from all of them together, so a window may have the end of
    one document and the beginning of the next. The documents are made into tokens once: into a
    file beside the folder (or in $TFBIG_CACHE_DIR, ~/.cache/tfbig, where that cannot be written)
    that is memory-mapped, so no text is held in memory. It is made anew when a file or the
    tokenizer has changed, or when it is cut short.

    Example:

        source = tfbig.data.TextFolderSource("corpus", sequence_length=128)
        split = tfbig.data.splitting.by_group(source.documents, (0.9, 0.1))

        tfbig.train_distributed(
            tfbig.models.transformer_lm.build, lambda: source.select(split.train).batch(8)
        )

    Args:
        folder_or_files: a folder, read with its sub-folders but without hidden ones; or files,
            globs or a list of these; here or as URLs such as gs://bucket/folder.
        sequence_length: T, in tokens. Window i has the T + 1 tokens from number iT on; the last
            tokens, fewer than T, are in no window.
        tokenizer: None: a token is a byte of UTF-8, and 255, which UTF-8 does not use, is the
            separator. Or a JSON file of the `tokenizers` library; its truncation, padding and
            special tokens are not used. Documents of more than a million characters are cut at
            the ends of lines to be made into tokens.
        patterns: the ends of the names of the files that are read from a folder.
        separator: with a tokenizer: the token of its vocabulary that ends a document, such as
            "<|endoftext|>". None: a token of its own, one more than the vocabulary has.
        encoding: of the files; None: any bytes as they are (only with tokenizer=None; then 255 may
            be in a text too). JSON lines are UTF-8 always.
        boundaries: False: an element is (tokens, next_tokens), int32 of shape [T] each. True: it
            is ({"tokens", "segment", "position"}, next_tokens, sample_weight), where segment
            (int32 [T]) numbers the documents of a window from 0, so that attention can stay
            inside them, position (int32 [T]) counts tokens from a document's beginning or, if
            that is in an earlier window, from the window's, and sample_weight (float32 [T]) is 0
            where the next token begins another document and cannot be foreseen, else 1. For a
            model of tokens alone: `.map(lambda batch: (batch[0]["tokens"], *batch[1:]))`.
        on_bad_record: "error", or "skip": a file that is empty, has vanished, cannot be read or is
            not in the encoding, and a line of JSON without a text, are left out and counted.
        quarantine: where those are written down; None: beside the folder.

    Attributes:
        vocabulary_size: what the tokens are smaller than, the separator included.
        separator_id: the token after each document.
        documents: the number of the document in which each window starts: int64 [len(self)].

    Raises:
        UserError: there are no such files, too little text, or the tokenizer cannot be used.
        BadRecords: records are bad and are not to be left out.
    """

    def __init__(
        self,
        folder_or_files: files.Paths,
        *,
        sequence_length: int,
        tokenizer: str | os.PathLike | None = None,
        patterns: str | Sequence[str] = (".txt",),
        separator: str | None = None,
        encoding: str | None = "utf-8",
        boundaries: bool = False,
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        check_whole("sequence_length", sequence_length)
        patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        _check_encoding(encoding, tokenizer)
        given, paths = _find(folder_or_files, patterns)
        base = given[0]
        kind = (
            _bytes_kind(separator) if tokenizer is None else _tokenizer_kind(tokenizer, separator)
        )
        kept = make_quarantine(on_bad_record, quarantine, base)
        what = [_FORMAT, kind.digest, encoding, patterns, given]
        name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:8]
        place = files.beside_or_cached(base, f".tfbig-{name}.tokens")
        made = _tokens(place, [what, paths], paths, kind, encoding)
        report(made.bad, kept)
        self.quarantine = kept
        self.vocabulary_size, self.separator_id = kind.size, kind.separator
        # Pages that are not in memory yet are read from disk by several threads at once.
        self.threads = min(4, os.cpu_count() or 1)
        try:
            super().__init__(made.tokens, sequence_length, ends=made.ends, boundaries=boundaries)
        except UserError as error:
            raise UserError(f"{base}: {error}") from None


class _Kind(NamedTuple):
    """How text becomes tokens, and a digest of all that it depends on."""

    digest: str
    size: int
    separator: int
    encode: Encode


def _check_encoding(encoding: str | None, tokenizer: object) -> None:
    if encoding is None:
        if tokenizer is not None:
            raise UserError(
                "encoding=None: a tokenizer takes text, not bytes; give the files' encoding, such "
                'as "utf-8".'
            )
        return
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):
        raise UserError(
            f'encoding={encoding!r}: expected the name of an encoding such as "utf-8", or None for '
            "bytes as they are."
        ) from None


def _find(folder_or_files: files.Paths, patterns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What was given, and the files in it."""
    found: list[str] = []
    given = [_absolute(path) for path in files.expand(folder_or_files, "TextFolderSource")]
    for item in given:
        if not files.is_folder(item):
            found.append(item)
            continue
        inside = [path for path in files.walk(item) if path.endswith(patterns)]
        inside = [path for path in inside if not path.endswith(".quarantine.jsonl")]
        if not inside:
            raise UserError(
                f"{item!r} has no files whose names end in {' or '.join(patterns)}; give another "
                "folder or other patterns."
            )
        found.extend(inside)
    return given, found


def _absolute(path: str) -> str:
    return path if files.is_remote(path) else os.path.abspath(path)


def _bytes_kind(separator: str | None) -> _Kind:
    if separator is not None:
        raise UserError(
            f"separator={separator!r} is a token of a tokenizer; without one leave it out: byte "
            f"{_BYTE_SEPARATOR} ends a document."
        )
    return _Kind("bytes", 256, _BYTE_SEPARATOR, _encode_bytes)


def _encode_bytes(texts: Sequence[str | bytes]) -> list[np.ndarray]:
    raw = (text.encode() if isinstance(text, str) else text for text in texts)
    return [np.frombuffer(data, np.uint8) for data in raw]


def _tokenizer_kind(path: str | os.PathLike, separator: str | None) -> _Kind:
    tokenizers = load("tokenizers", f"tokenizer={os.fspath(path)!r}")
    path = os.path.expanduser(os.fspath(path))
    try:
        with files.open_binary(path) as file:
            data = file.read()
        made = tokenizers.Tokenizer.from_str(data.decode())
    except OSError as error:
        raise UserError(f"tokenizer={path!r} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise UserError(
            f"tokenizer={path!r} is not a JSON file of the tokenizers library: {error}."
        ) from error
    made.no_truncation()
    made.no_padding()
    vocabulary = made.get_vocab(with_added_tokens=True)
    size = max(vocabulary.values(), default=-1) + 1
    if separator is not None and separator not in vocabulary:
        raise UserError(
            f"separator={separator!r} is no token of {path!r}; give one of its tokens, or leave "
            "separator out for a token of its own."
        )
    number = size if separator is None else vocabulary[separator]

    def encode(texts: Sequence[str | bytes]) -> list[np.ndarray]:
        encoded = made.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in encoded]

    digest = hashlib.sha256(data).hexdigest()
    return _Kind(f"{digest} {number}", max(size, number + 1), number, encode)


def _tokens(place: str, what: list, paths: list[str], kind: _Kind, encoding: str | None) -> Tokens:
    """The files' tokens, from the token file at this place if nothing has changed since.

    Args:
        place: where the token file is kept.
        what: all that the tokens depend on but the files' times and sizes.
        paths: the files.
        kind, encoding: how text becomes tokens.
    """
    signatures = [_signature(path) for path in paths]
    key = hashlib.sha256(json.dumps([what, signatures]).encode()).hexdigest()
    made = open_tokens(place, key)
    if made is None:
        size = sum(signature[0] for signature in signatures if signature)
        with written_in_one_go(place) as file, _progress(size) as progress:
            dtype = np.min_scalar_type(kind.size - 1)
            writer = TokenWriter(file, dtype, kind.encode, kind.separator)
            bad, lasting = _write(writer, paths, encoding, progress)
            # What was unreadable for a while is looked for again the next time.
            key = key if lasting else "incomplete"
            writer.close(key, bad)
        made = open_tokens(place, key)
    if made is None:
        raise UserError(f"{place} was damaged while it was written; try again.")
    return made


def _signature(path: str) -> list | None:
    try:
        return files.signature(path)
    except OSError:
        return None  # it is reported when it is read


def _write(
    writer: TokenWriter, paths: list[str], encoding: str | None, progress: Callable[[int], None]
) -> tuple[list[BadRecord], bool]:
    """Writes all documents; returns the bad ones, and whether they will always be bad."""
    bad, lasting = [], True
    for path in paths:
        record = None
        try:
            for record, blocks in documents(path, encoding, progress):
                try:
                    writer.add(blocks)
                except Unreadable as error:
                    bad.append(BadRecord(path, record, str(error)))
                    lasting = lasting and error.lasting
        except Unreadable as error:
            bad.append(BadRecord(path, None, str(error)))
            lasting = lasting and error.lasting
    return bad, lasting


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None]]:
    """One live line on standard error, and nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()
    ) as bar:
        task = bar.add_task("making tokens of text", total=size)
        yield lambda count: bar.update(task, advance=count)
