"""Local and remote files: paths, globs and URLs such as gs://bucket/file, through fsspec."""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from typing import BinaryIO

from tfbig._optional import load
from tfbig.errors import UserError

_URL = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
# Files that tfbig writes beside the data, which are never data themselves.
_OWN_FILES = re.compile(r"\.tfbig-[^/]*$|\.quarantine\.jsonl$")
_INSTALL = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "az": "adlfs", "abfs": "adlfs"}

Paths = str | os.PathLike | Sequence[str | os.PathLike]


def is_remote(path: str) -> bool:
    """Whether a path is a URL such as gs://bucket/file."""
    return bool(_URL.match(path))


def expand(paths: Paths, owner: str) -> list[str]:
    """Expands paths and globs to a list of files; the matches of each glob are sorted.

    Example: `expand("data/train-*.tfrecord", "TFRecordSource")`.

    Args:
        paths: a path, a glob pattern, a URL, or a list of these. A path that exists is not
            treated as a pattern.
        owner: the class that takes the argument, for error messages.

    Raises:
        UserError: no file matches.
    """
    if not isinstance(paths, (str, os.PathLike, list, tuple)):
        raise UserError(f"{owner}: paths={paths!r}; pass a path, a pattern or a list of them.")
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
        raise UserError(f"{owner}: no files were given; pass a path, a pattern or a list of them.")
    return found


def exists(path: str) -> bool:
    """Whether a path is an existing file or folder."""
    if is_remote(path):
        system, inner = _system(path)
        return system.exists(inner)
    return os.path.exists(path)


def is_folder(path: str) -> bool:
    """Whether a path is an existing folder."""
    if is_remote(path):
        system, inner = _system(path)
        return system.isdir(inner)
    return os.path.isdir(path)


def walk(folder: str) -> list[str]:
    """All files below a folder, sorted, without hidden files and folders.

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
    """The path, relative to the folder, of a file that `walk` found; its separator is "/"."""
    if is_remote(folder):
        system, inner = _system(folder)
        root = system.unstrip_protocol(inner)  # as in `walk`; the user may spell the URL otherwise
        return path[len(root) :].strip("/")
    return os.path.relpath(path, folder).replace(os.sep, "/")


def open_binary(path: str) -> BinaryIO:
    """Opens a file for reading, with random access."""
    if is_remote(path):
        system, inner = _system(path)
        return system.open(inner, "rb")
    return open(path, "rb")


def read_ranges(path: str, starts: Sequence[int], ends: Sequence[int]) -> list[bytes]:
    """Reads ranges of a remote file, concurrently if its file system supports that.

    Args:
        path: a URL.
        starts, ends: byte offsets, as in a slice.

    Returns:
        The bytes of each range; shorter if the file ends earlier.

    Raises:
        OSError: the file does not exist or cannot be read.
    """
    system, inner = _system(path)
    parts = system.cat_ranges([inner] * len(starts), list(starts), list(ends), on_error="return")
    for part in parts:
        if isinstance(part, Exception):
            raise part
    return parts


def signature(path: str) -> list:
    """A value that changes when the file changes: its size in bytes and its time or tag.

    Raises:
        OSError: the file does not exist.
    """
    if is_remote(path):
        system, inner = _system(path)
        info = system.info(inner)
        tags = ("etag", "ETag", "md5Hash", "mtime", "LastModified", "created", "updated")
        tag = next((str(info[name]) for name in tags if name in info), "")
        return [int(info["size"]), tag]
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def sidecar_path(path: str, suffix: str) -> str:
    """A writable path for a file that belongs to `path`: beside it, or in the cache folder.

    The cache folder is $TFBIG_CACHE_DIR or ~/.cache/tfbig; file names there contain a hash of the
    path.
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
    return sorted(name for name in names if not _OWN_FILES.search(name))


def _walk_here(folder: str) -> list[str]:
    """All files below a local folder. Follows links, except to a parent folder."""

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
            f"{url}: reading {scheme}:// needs the package {package}; run pip install {package}."
        ) from error
    except ValueError as error:
        raise UserError(f"{url}: {error}.") from error
