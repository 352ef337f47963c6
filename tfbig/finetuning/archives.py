"""Checks the contents of a file before it is loaded."""

import json
import os
import stat
import zipfile
from typing import Any

import h5py

from tfbig.errors import UserError

_MIB = 1 << 20
# Keras does not compress members; compression would reduce weights by a small factor only.
_MAX_RATIO = 100
_MAX_TEXT = 64 * _MIB
_MAX_MEMBERS = 100_000
_MAX_DEPTH = 64

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
}


def kind_of(path: str) -> str:
    """The kind of a file by its first bytes: "zip", "hdf5", or a description.

    Raises:
        UserError: the file cannot be read, or is empty.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError(f"{path} is not a regular file.")
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if not start:
        raise UserError(f"{path} is empty (0 bytes).")
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05":
        return "a pickle"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML or XML page (a download that failed, say)"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in start):
        return "a text file"
    return "a file of unknown kind"


def check_archive(path: str) -> list[str]:
    """Checks a `.keras` archive: names, declared and actual sizes, checksums.

    Returns:
        The names of the members.

    Raises:
        UserError: the archive is damaged, a decompression bomb, or has paths outside its folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            for member in members:
                with archive.open(member) as file:  # reads at most the declared size
                    while file.read(_MIB):
                        pass
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {reason_of(error)}.") from error
    except Exception as error:  # zlib.error, lzma errors, RuntimeError for encrypted members
        raise UserError(f"{path} is damaged: {reason_of(error)}.") from error
    return [member.filename for member in members]


def read_member(path: str, name: str) -> bytes:
    """Reads a member of an archive that check_archive has accepted."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _check_members(path: str, members: list[zipfile.ZipInfo]) -> None:
    if len(members) > _MAX_MEMBERS:
        raise UserError(f"{path} is refused: {len(members)} files in one archive.")
    names = [member.filename for member in members]
    twice = {name for name in names if names.count(name) > 1} if len(names) < 1000 else set()
    if twice:
        raise UserError(f"{path} is refused: it holds {sorted(twice)[0]!r} twice.")
    size = os.path.getsize(path)
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise UserError(
                f"{path} is refused: the name {member.filename!r} in it leads out of the archive."
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f"{path} is refused: {member.filename!r} in it is a symbolic link.")
        text = member.filename.endswith(".json")
        most = _MAX_TEXT if text else max(16 * _MIB, _MAX_RATIO * member.compress_size)
        if member.file_size > most or member.compress_size > size:
            raise UserError(
                f"{path} is refused: {member.filename!r} in it unpacks from "
                f"{member.compress_size} to {member.file_size} bytes, a decompression bomb."
            )
    total = sum(member.file_size for member in members)
    if total > most_bytes(path):
        raise UserError(
            f"{path} is refused: its {size} bytes unpack to {total}, a decompression bomb."
        )


def check_hdf5(path: str, file: h5py.File) -> None:
    """Checks an open HDF5 file for links, external data, and arrays larger than the file allows.

    Raises:
        UserError: it has one of these.
    """
    size = os.path.getsize(path)
    declared, seen = 0, 0
    groups = [("", file, 0)]
    while groups:
        prefix, group, depth = groups.pop()
        for name in group:
            seen += 1
            full = f"{prefix}/{name}"
            if seen > _MAX_MEMBERS or depth > _MAX_DEPTH:
                raise UserError(f"{path} is refused: its groups are nested without an end.")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"{path} is refused: {full} in it is a link to another place.")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((full, item, depth + 1))
                continue
            if not isinstance(item, h5py.Dataset):
                continue
            if item.external or item.is_virtual:
                raise UserError(f"{path} is refused: {full} keeps its data in another file.")
            declared += item.nbytes
            if declared > most_bytes(path):
                raise UserError(
                    f"{path} is refused: its arrays would take {declared} bytes, of {size} in "
                    "the file: a decompression bomb."
                )


def most_bytes(path: str) -> int:
    """The maximum number of bytes in memory for the arrays of a file."""
    return max(64 * _MIB, _MAX_RATIO * os.path.getsize(path))


def json_of(path: str, name: str, text: str | bytes | None) -> Any:
    """Parses JSON that is part of a file.

    Raises:
        UserError: the text is missing, too large or not JSON.
    """
    try:
        if text is None or len(text) > _MAX_TEXT:
            raise ValueError("it is missing" if text is None else f"{len(text)} bytes of it")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged: its {name} is not JSON ({reason_of(error)})."
        ) from error


def check_no_bytecode(path: str, config: Any, safe_mode: bool) -> None:
    """Checks in safe mode that a config has no Python bytecode of Lambda layers.

    Raises:
        UserError: it has bytecode.
    """
    if not safe_mode:
        return
    pending = [config]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            pending.extend(item)
        if not isinstance(item, dict):
            continue
        pending.extend(item.values())
        if item.get("class_name") == "__lambda__" or "lambda" in (
            item.get("function_type"),
            item.get("output_shape_type"),
            item.get("mask_type"),
        ):
            raise UserError(
                f"{path} is refused: it holds a Lambda layer with Python bytecode, which can run "
                "any code on this machine when it is loaded. If you trust its source, pass "
                "safe_mode=False; better, save the model with a layer class instead."
            )


def reason_of(error: Exception) -> str:
    """The message of an error, on one line and at most 300 characters."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
