"""Byte-level language-model data: the text files of a folder, in windows of fixed length."""

import functools
import hashlib
import os
import pathlib
import sysconfig
from typing import Any

import numpy as np

from tfbig.data.source import Source
from tfbig.data.sources.token_source import TokenSource as TextSource, check_whole
from tfbig.errors import UserError
from tfbig.params import read_data_params

VOCABULARY_SIZE = 256
_SPLITS = ("train", "test")
_SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "dist-packages"})
_SKIPPED_IN_THE_STANDARD_LIBRARY = frozenset({"test", "tests", "idle_test"})

_DATA_DEFAULTS = {
    "batch_size": 8,
    "folder": None,
    "patterns": (".py", ".txt"),
    "sequence_length": 128,
    "holdout": 0.05,
    "max_bytes": None,
    "eval_max_bytes": None,
}


def text_source(
    folder: str | os.PathLike | None = None,
    patterns: tuple[str, ...] = (".py", ".txt"),
    sequence_length: int = 128,
    split: str = "train",
    holdout: float = 0.05,
    max_bytes: int | None = None,
) -> TextSource:
    """Returns the text files of a folder as a Source of (tokens, next tokens).

    The files are concatenated in the order of their paths, with a zero byte between them. A hash
    of the path decides whether a file is held out, so the split does not change when files are
    added. At least one file is held out; if the folder has only one file, its end is held out.

    Example:

        source = text_source("~/my_project", patterns=(".py", ".md")).batch(8)

    Args:
        folder: a folder, read recursively without hidden folders; None: the standard library of
            this Python, without its tests and installed packages.
        patterns: suffixes of the names of the files to read.
        sequence_length: T, in bytes.
        split: "train" or "test".
        holdout: fraction of the files that is held out, between 0 and 1.
        max_bytes: maximum number of bytes to read; None: no limit.

    Returns:
        A Source whose element is two int32 arrays of shape [T], with values from 0 to 255. It
        needs one byte of memory per byte of text.

    Raises:
        UserError: the folder cannot be read, has no such files, or has too little text.
    """
    if split not in _SPLITS:
        raise UserError(f"split={split!r}: expected one of {', '.join(map(repr, _SPLITS))}.")
    if not 0 < holdout < 1:
        raise UserError(f"holdout={holdout!r}: expected a fraction between 0 and 1, such as 0.05.")
    check_whole("sequence_length", sequence_length)
    if max_bytes is not None:
        check_whole("max_bytes", max_bytes)
    if isinstance(patterns, str):
        patterns = (patterns,)
    text = _read_split(
        None if folder is None else os.path.abspath(os.path.expanduser(os.fspath(folder))),
        tuple(patterns),
        split,
        float(holdout),
        max_bytes,
    )
    if len(text) < sequence_length + 1:
        raise UserError(
            f"{folder or 'the standard library'}: the {split} split has {len(text)} bytes, fewer "
            f"than one window of sequence_length + 1 = {sequence_length + 1}; use a folder with "
            "more text, a smaller sequence_length or another holdout."
        )
    return TextSource(text, sequence_length)


def input_fn(mode: str = "train", params: Any = None) -> Source:
    """Returns the text as a Source: the train split for mode "train", else the held-out split.

    Example:

        from tfbig.datasets import text
        from tfbig.models import transformer_lm

        tfbig.train_distributed(transformer_lm.build, text.input_fn, max_steps=2000)

    Args:
        mode: "train", "eval" or "infer".
        params: params.data may have the arguments of `text_source`, `batch_size` (default 8
            sequences) and `eval_max_bytes`, max_bytes of the held-out split (default: max_bytes).

    Returns:
        A batched `tfbig.data.Source` of (tokens int32 [T], next tokens int32 [T]).

    Raises:
        UserError: params.data has an unknown name; or as in `text_source`.
    """
    data = read_data_params(params, _DATA_DEFAULTS, owner="tfbig.datasets.text.input_fn")
    batch_size = data.pop("batch_size")
    eval_max_bytes = data.pop("eval_max_bytes")
    if mode != "train" and eval_max_bytes is not None:
        data["max_bytes"] = eval_max_bytes
    return text_source(split="train" if mode == "train" else "test", **data).batch(batch_size)


@functools.lru_cache(maxsize=4)
def _read_split(
    folder: str | None, patterns: tuple[str, ...], split: str, holdout: float, limit: int | None
) -> np.ndarray:
    """The bytes of one split, uint8."""
    root = pathlib.Path(folder or sysconfig.get_path("stdlib"))
    skipped = _SKIPPED_FOLDERS
    if folder is None:
        skipped = skipped | _SKIPPED_IN_THE_STANDARD_LIBRARY
    files = _find_files(root, patterns, skipped)
    if len(files) == 1:
        return _part_of_one_file(root / files[0], split, holdout, limit)
    held_out = _held_out(files, holdout)
    chosen = [name for name in files if (name in held_out) == (split == "test")]
    pieces, size = [], 0
    for name in chosen:
        pieces.append(_read_bytes(root / name))
        size += len(pieces[-1]) + 1
        if limit is not None and size > limit:
            break
    return np.frombuffer(b"\0".join(pieces)[:limit], np.uint8)


def _find_files(root: pathlib.Path, patterns: tuple[str, ...], skipped: frozenset) -> list[str]:
    """The sorted paths of the files below `root`, with "/" as separator on every system."""
    if not root.is_dir():
        raise UserError(f"folder={str(root)!r} is not a folder; pass one with text files.")
    found: list[str] = []

    def refuse(error: OSError) -> None:
        if error.filename == str(root):
            raise UserError(f"folder={str(root)!r} cannot be read: {error.strerror}.") from error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [n for n in folders if n not in skipped and not n.startswith(".")]
        paths = (pathlib.Path(folder, name) for name in names if name.endswith(patterns))
        found.extend(path.relative_to(root).as_posix() for path in paths if path.is_file())
    if not found:
        raise UserError(
            f"folder={str(root)!r} has no files whose names end in {' or '.join(patterns)}; pass "
            "another folder or other patterns."
        )
    return sorted(found)


def _held_out(files: list[str], holdout: float) -> set[str]:
    hashes = {name: _hash_of(name) for name in files}
    chosen = {name for name, value in hashes.items() if value < holdout}
    return chosen or {min(files, key=hashes.__getitem__)}


def _hash_of(name: str) -> float:
    """A number in [0, 1) that depends only on the name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _part_of_one_file(
    path: pathlib.Path, split: str, holdout: float, limit: int | None
) -> np.ndarray:
    text = np.frombuffer(_read_bytes(path), np.uint8)
    cut = len(text) - int(len(text) * holdout)
    return (text[:cut] if split == "train" else text[cut:])[:limit]


def _read_bytes(path: pathlib.Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; make it readable or remove it."
        ) from error
