"""Text files as windows of tokens, for language models."""

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
from tfbig.data.bad_records import BadRecord, make_quarantine, report_bad
from tfbig.data.sources.token_source import TokenSource, check_whole
from tfbig.data.text.documents import UnreadableText, documents
from tfbig.data.text.token_file import Encode, Tokens, TokenWriter, atomic_write, open_tokens
from tfbig.errors import UserError

_FORMAT = 1
_BYTE_SEPARATOR = 255  # a byte that UTF-8 never has


class TextFolderSource(TokenSource):
    """Text files as packed windows of tokens.

    Each file is a document; in a ".jsonl" file, the "text" of each line is a document. Documents
    are concatenated, with a separator after each, and the result is divided into windows. So a
    window may contain the end of one document and the start of the next. The documents are
    tokenized once, to a file beside the folder (or in $TFBIG_CACHE_DIR or ~/.cache/tfbig if that
    is not writable). This file is memory-mapped, so no text is held in memory. It is written again
    when a file or the tokenizer has changed, or when it is truncated.

    Example:

        source = tfbig.data.TextFolderSource("corpus", sequence_length=128)
        split = tfbig.data.splitting.by_group(source.documents, (0.9, 0.1))

        tfbig.train_distributed(
            tfbig.models.transformer_lm.build, lambda: source.select(split.train).batch(8)
        )

    Args:
        folder_or_files: a folder, read recursively without hidden files and folders; or files,
            globs or a list of these; local paths or URLs such as gs://bucket/folder.
        sequence_length: T, in tokens. Window i has the T + 1 tokens from index iT on; the last
            tokens, fewer than T, are not used.
        tokenizer: None: a token is a byte of UTF-8, and 255, which UTF-8 does not use, is the
            separator. Or a JSON file of the `tokenizers` library; its truncation, padding and
            special tokens are not used. Documents of more than a million characters are split at
            line ends before tokenization.
        patterns: suffixes of the names of the files that are read from a folder.
        separator: with a tokenizer: the token of its vocabulary that ends a document, such as
            "<|endoftext|>". None: an additional token, whose id is the size of the vocabulary.
        encoding: encoding of the files; None: raw bytes (only with tokenizer=None; then a text may
            contain 255 too). JSON Lines files are always UTF-8.
        boundaries: False: an element is (tokens, next_tokens), int32 of shape [T] each. True: it
            is ({"tokens", "segment", "position"}, next_tokens, sample_weight). segment (int32
            [T]) numbers the documents of a window from 0, for attention within documents.
            position (int32 [T]) counts tokens from the start of the document or, if that is in an
            earlier window, from the start of the window. sample_weight (float32 [T]) is 0 where
            the next token starts another document and cannot be predicted, else 1. For a model
            that takes only tokens: `.map(lambda batch: (batch[0]["tokens"], *batch[1:]))`.
        on_bad_record: "error", or "skip" to skip files that are empty, no longer exist, cannot be
            read or are not in the encoding, and lines of JSON without a text.
        quarantine: with "skip": the JSON Lines file that lists the skipped records; None: beside
            the folder.

    Attributes:
        vocabulary_size: the number of different tokens, including the separator.
        separator_id: the token after each document.
        documents: the number of the document in which each window starts: int64 [len(self)].

    Raises:
        UserError: there are no such files, the text is too short, or the tokenizer is invalid.
        BadRecords: there are bad records, and on_bad_record is "error".
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
        token_path = files.sidecar_path(base, f".tfbig-{name}.tokens")
        made = _tokens(token_path, [what, paths], paths, kind, encoding)
        report_bad(made.bad, kept)
        self.quarantine = kept
        self.vocabulary_size, self.separator_id = kind.size, kind.separator
        # Several threads read pages from the disk at the same time.
        self.threads = min(4, os.cpu_count() or 1)
        try:
            super().__init__(made.tokens, sequence_length, ends=made.ends, boundaries=boundaries)
        except UserError as error:
            raise UserError(f"{base}: {error}") from None


class _Kind(NamedTuple):
    """A way to convert text to tokens, and a digest of everything it depends on."""

    digest: str
    size: int
    separator: int
    encode: Encode


def _check_encoding(encoding: str | None, tokenizer: object) -> None:
    if encoding is None:
        if tokenizer is not None:
            raise UserError(
                "encoding=None: a tokenizer takes text, not bytes; pass the files' encoding, such "
                'as "utf-8".'
            )
        return
    try:
        codecs.lookup(encoding)
    except (LookupError, TypeError):
        raise UserError(
            f'encoding={encoding!r}: expected the name of an encoding such as "utf-8", or None for '
            "raw bytes."
        ) from None


def _find(folder_or_files: files.Paths, patterns: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The given absolute paths, and the files in them."""
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
                f"{item!r} has no files whose names end in {' or '.join(patterns)}; pass another "
                "folder or other patterns."
            )
        found.extend(inside)
    return given, found


def _absolute(path: str) -> str:
    return path if files.is_remote(path) else os.path.abspath(path)


def _bytes_kind(separator: str | None) -> _Kind:
    if separator is not None:
        raise UserError(
            f"separator={separator!r} needs a tokenizer; without one, omit it: byte "
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
            f"separator={separator!r} is not a token of {path!r}; pass one of its tokens, or omit "
            "separator to add a token."
        )
    number = size if separator is None else vocabulary[separator]

    def encode(texts: Sequence[str | bytes]) -> list[np.ndarray]:
        encoded = made.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.uint32) for one in encoded]

    digest = hashlib.sha256(data).hexdigest()
    return _Kind(f"{digest} {number}", max(size, number + 1), number, encode)


def _tokens(
    token_path: str, what: list, paths: list[str], kind: _Kind, encoding: str | None
) -> Tokens:
    """The tokens of the files, from an existing token file if nothing has changed since.

    Args:
        token_path: path of the token file.
        what: everything that the tokens depend on, except the files' times and sizes.
        paths: the text files.
        kind, encoding: the conversion of text to tokens.
    """
    signatures = [_signature(path) for path in paths]
    key = hashlib.sha256(json.dumps([what, signatures]).encode()).hexdigest()
    made = open_tokens(token_path, key)
    if made is None:
        size = sum(signature[0] for signature in signatures if signature)
        with atomic_write(token_path) as file, _progress(size) as progress:
            dtype = np.min_scalar_type(kind.size - 1)
            writer = TokenWriter(file, dtype, kind.encode, kind.separator)
            bad, lasting = _write(writer, paths, encoding, progress)
            # Files that cannot be read at the moment are tried again next time.
            key = key if lasting else "incomplete"
            writer.close(key, bad)
        made = open_tokens(token_path, key)
    if made is None:
        raise UserError(f"{token_path} was damaged while it was written; try again.")
    return made


def _signature(path: str) -> list | None:
    try:
        return files.signature(path)
    except OSError:
        return None  # reported when the file is read


def _write(
    writer: TokenWriter, paths: list[str], encoding: str | None, progress: Callable[[int], None]
) -> tuple[list[BadRecord], bool]:
    """Writes all documents; returns the bad ones, and whether all problems are permanent."""
    bad, lasting = [], True
    for path in paths:
        record = None
        try:
            for record, blocks in documents(path, encoding, progress):
                try:
                    writer.add(blocks)
                except UnreadableText as error:
                    bad.append(BadRecord(path, record, str(error)))
                    lasting = lasting and error.lasting
        except UnreadableText as error:
            bad.append(BadRecord(path, None, str(error)))
            lasting = lasting and error.lasting
    return bad, lasting


@contextlib.contextmanager
def _progress(size: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error if that is a terminal."""
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
        task = bar.add_task("tokenizing text", total=size)
        yield lambda count: bar.update(task, advance=count)
