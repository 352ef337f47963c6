"""Files here or far away: paths, globs and URLs such as gs://bucket/file, through fsspec."""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from typing import BinaryIO

from tfbig._optional import load
from tfbig.errors import UserError

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
_OURS = re.compile(r"\.tfbig-[^/]*$|\.quarantine\.jsonl$")  # written beside data, never data
_INSTALL = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def is_remote(path: str) -> bool:
    """Whether a path is a URL such as gs://bucket/file."""
    return bool(_URL.match(path))


def expand(paths: Paths, owner: str) -> list[str]:
    """The files that paths, globs or a list of them name; each glob sorted.

    Example: `expand("data/train-*.tfrecord", "TFRecordSource")`.

    Args:
        paths: a path, a glob pattern, a URL, or a list of such. A path that exists is taken as
            it is, whatever letters it has.
        owner: whose argument it is, for the message.

    Raises:
        UserError: nothing is there.
    """
    if not isinstance(paths, (str, os.PathLike, list, tuple)):
        raise UserError(f"{owner}: paths={paths!r}; give a path, a pattern or a list of them.")
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found: list[str] = []
    for item in given:
        path = os.path.expanduser(os.fspath(item))
        if exists(path):
            found.append(path)
            continue
        matches = _glob(path) if any(letter in path for letter in "*?[") else []
        if not matches:
            raise UserError(f"{owner}: there is no file {path!r}; check the path.")
        found.extend(matches)
    if not found:
        raise UserError(f"{owner}: no files were given; give a path, a pattern or a list of them.")
    return found


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    if is_remote(path):
        system, inner = _system(path)
        return system.exists(inner)
    return os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether it is a folder."""
    if is_remote(path):
        system, inner = _system(path)
        return system.isdir(inner)
    return os.path.isdir(path)


def walk(folder: str) -> list[str]:
    """All files below a folder, sorted; hidden ones and those in hidden folders left out.

    Raises:
        UserError: a folder cannot be read.
    """
    if is_remote(folder):
        system, inner = _system(folder)
        names = [system.unstrip_protocol(name) for name in system.find(inner)]
        root = system.unstrip_protocol(inner)
    else:
        names, root = _walk_here(folder), folder
    return sorted(name for name in names if not _hidden(os.path.relpath(name, root)))


def relative(path: str, folder: str) -> str:
    """A path that `walk` found, as seen from the folder, with "/" between its parts."""
    if is_remote(folder):
        system, inner = _system(folder)
        root = system.unstrip_protocol(inner)  # walk's spelling; a user's may be another
        return path[len(root) :].strip("/")
    return os.path.relpath(path, folder).replace(os.sep, "/")


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, with random access."""
    if is_remote(path):
        system, inner = _system(path)
        return system.open(inner, "rb")
    return open(path, "rb")


def read_ranges(path: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """Reads parts of a remote file, at the same time where its file layer can.

    Args:
        path: a URL.
        starts, ends: byte offsets, as in a slice.

    Returns:
        What was there: shorter where the file has ended.

    Raises:
        OSError: the file is not there, or cannot be read.
    """
    system, inner = _system(path)
    parts = system.cat_ranges([inner] * len(starts), list(starts), list(ends), on_error="return")
    for part in parts:
        if isinstance(part, Exception):
            raise part
    return parts


def signature(path: str) -> list:
    """What changes when a file changes: its size in bytes and its time or tag.

    Raises:
        OSError: it is not there.
    """
    if is_remote(path):
        system, inner = _system(path)
        info = system.info(inner)
        tags = ("etag", "ETag", "md5Hash", "mtime", "LastModified", "created", "updated")
        tag = next((str(info[name]) for name in tags if name in info), "")
        return [int(info["size"]), tag]
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def beside_or_cached(path: str, suffix: str) -> str:
    """Where a file that belongs to `path` may be written: beside it, else in the cache folder.

    The cache folder is $TFBIG_CACHE_DIR or ~/.cache/tfbig; names in it carry a hash of the path.
    """
    if not is_remote(path):
        absolute = os.path.abspath(path)
        if os.access(os.path.dirname(absolute), os.W_OK):
            return absolute.rstrip(os.sep) + suffix
        path = absolute
    folder = os.path.expanduser(os.environ.get("TFBIG_CACHE_DIR") or "~/.cache/tfbig")
    digest = hashlib.sha256(path.encode()).hexdigest()[:16]
    return os.path.join(folder, f"{digest}-{os.path.basename(path.rstrip('/'))}{suffix}")


def _glob(pattern: str) -> list[str]:
    if is_remote(pattern):
        system, inner = _system(pattern)
        names = [system.unstrip_protocol(name) for name in system.glob(inner)]
    else:
        names = glob.glob(pattern, recursive=True)
    return sorted(name for name in names if not _OURS.search(name))


def _walk_here(folder: str) -> list[str]:
    """All files below a local folder, through links too; a link to a folder above is not taken."""

    def fail(error: OSError):
        raise UserError(f"{error.filename}: the folder cannot be read: {error.strerror}.")

    names = []
    for where, folders, here in os.walk(folder, followlinks=True, onerror=fail):
        above = os.path.join(os.path.realpath(where), "")
        folders[:] = [
            name
            for name in folders
            if not above.startswith(os.path.join(os.path.realpath(os.path.join(where, name)), ""))
        ]
        names.extend(os.path.join(where, name) for name in here)
    return names


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split(os.sep))


def _system(url: str):
    fsspec = load("fsspec", f"reading {url}")

    scheme = url.split("://")[0].lower()
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _INSTALL.get(scheme, f"fsspec's package for {scheme}")
        raise UserError(
            f"{url}: reading {scheme}:// needs the package {package}; write pip install {package}."
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: {error}.") from error
