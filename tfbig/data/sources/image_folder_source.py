"""A folder of images with one subfolder per class."""

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig._optional import load
from tfbig.data import files
from tfbig.data.bad_records import BadRecord, BadRecords, make_quarantine, report_bad
from tfbig.data.source import Source
from tfbig.errors import UserError

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_INTERPOLATIONS = ("nearest", "box", "bilinear", "bicubic", "lanczos")


class ImageFolderSource(Source):
    """Images in one subfolder per class; an example is (image, label).

    The classes are numbered in the order of their names. Pillow decodes images when they are
    read; only the paths are held in memory. An image is rotated by its EXIF orientation, converted
    to `channels`, then resized to `image_size` without keeping its aspect ratio. Of an animation,
    the first frame is used.

    Example:

        source = tfbig.data.ImageFolderSource("flowers", image_size=128)
        split = tfbig.data.splitting.stratified(source.labels, (0.8, 0.2))
        train, test = source.select(split.train), source.select(split.test)

    Args:
        folder: a local folder, or a URL such as gs://bucket/flowers. Files ending in .png, .jpg,
            .jpeg, .bmp, .gif or .webp are read, at any depth below the class folders; other files
            and hidden files are ignored.
        image_size: side length in pixels, or (height, width).
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        classes: names of class folders in the order of their numbers. Use it to read only some
            classes, or to number those of two folders in the same way
            (`classes=train.class_names`). None: all folders with images, sorted.
        interpolation: "nearest", "box", "bilinear", "bicubic" or "lanczos"; used for images of
            another size. When downscaling, all but "nearest" average over the source pixels. Large
            JPEG files are then decoded at a half, a quarter or an eighth of their size, if that is
            at least twice the requested size.
        on_bad_record: "error", or "skip" to skip images that cannot be decoded, or have more than
            89 million pixels or 32 bits per pixel value; empty files; files that no longer exist;
            and images outside of the class folders.
        quarantine: with "skip": the JSON Lines file that lists the skipped images; None: beside
            the folder.

    Attributes:
        class_names: tuple of the class names.
        files: list of the paths of the images.
        labels: int64 array of shape [len(self)].

    An element is (uint8 [height, width, channels], int64 []).

    Raises:
        UserError: there are no such images, or an argument is invalid.
        BadRecords: there are bad records, and on_bad_record is "error".
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        image_size: int | tuple[int, int],
        channels: int = 3,
        classes: Sequence[str] | None = None,
        interpolation: str = "bilinear",
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        self._size = _checked_size(image_size)
        if channels not in _MODES:
            raise UserError(f"channels={channels!r}: expected 1 (grey), 3 (RGB) or 4 (RGBA).")
        if interpolation not in _INTERPOLATIONS:
            known = ", ".join(map(repr, _INTERPOLATIONS))
            raise UserError(f"interpolation={interpolation!r}: expected one of {known}.")
        self._channels, self._interpolation = channels, interpolation
        folder = os.path.expanduser(os.fspath(folder))
        self.quarantine = make_quarantine(on_bad_record, quarantine, folder)
        found, misplaced = _find(folder)
        report_bad(
            [BadRecord(path, None, "it is not in a class folder") for path in misplaced],
            self.quarantine,
        )
        self.class_names = _class_names(folder, found, classes)
        self.files = [path for name in self.class_names for path in found[name]]
        counts = [len(found[name]) for name in self.class_names]
        self.labels = np.repeat(np.arange(len(counts)), counts)
        self.threads = min(8, os.cpu_count() or 1)  # Pillow decodes and resizes without the GIL

    def __len__(self) -> int:
        return len(self.files)

    @override
    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty([len(indices), *self._size, self._channels], np.uint8)
        found = []
        for position, number in enumerate(indices):
            path = self.files[number]
            try:
                images[position] = self._decode(_content(path))
            except _Undecodable as error:
                found.append(BadRecord(path, None, str(error), position))
        if found:
            raise BadRecords(found, self.quarantine)
        return images, self.labels[indices]

    def _decode(self, content: bytes) -> np.ndarray:
        """uint8 [height, width, channels]."""
        Image = load("PIL.Image", "ImageFolderSource")

        height, width = self._size
        try:
            with Image.open(io.BytesIO(content)) as image:
                most = Image.MAX_IMAGE_PIXELS or np.inf  # None means no limit
                if image.width * image.height > most:
                    raise _Undecodable(
                        f"it has {image.width} x {image.height} pixels, more than the "
                        f"limit of {most}"
                    )
                # Twice the size, so that no loss is visible; square, because EXIF may rotate it.
                image.draft(None, (2 * max(self._size),) * 2)
                image = _with_mode(_rotate_by_exif(image), _MODES[self._channels])
                if image.size != (width, height):
                    resampling = Image.Resampling[self._interpolation.upper()]
                    image = image.resize((width, height), resampling)
                return np.asarray(image).reshape(height, width, self._channels)
        except (_Undecodable, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            reason = reason if "cannot identify image file" not in reason else "not an image file"
            raise _Undecodable(f"it cannot be decoded ({reason})") from error


class _Undecodable(Exception):
    """The reason why an image cannot be used."""


def _content(path: str) -> bytes:
    try:
        with files.open_binary(path) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise _Undecodable("the file no longer exists") from error
    except OSError as error:
        raise _Undecodable(f"it cannot be read ({error.strerror or error})") from error
    if not content:
        raise _Undecodable("the file is empty")
    return content


def _rotate_by_exif(image: Any) -> Any:
    ImageOps = load("PIL.ImageOps", "ImageFolderSource")

    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _with_mode(image: Any, mode: str) -> Any:
    Image = load("PIL.Image", "ImageFolderSource")

    if image.mode.startswith("I;16"):  # Pillow would clip values above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise _Undecodable("its pixel values have 32 bits; save the image with 8 or 16 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _checked_size(image_size: Any) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, (int, np.integer)) else image_size
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    whole = [isinstance(s, (int, np.integer)) and not isinstance(s, bool) and s > 0 for s in sides]
    if len(sides) != 2 or not all(whole):
        raise UserError(
            f"image_size={image_size!r}: expected pixels, such as 128 or (height, width)."
        )
    return int(sides[0]), int(sides[1])


def _find(folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """The images of each subfolder, and those outside of subfolders."""
    if not files.is_folder(folder):
        raise UserError(
            f"ImageFolderSource: {folder!r} is not a folder; pass one with a subfolder per class."
        )
    found: dict[str, list[str]] = {}
    misplaced = []
    for path in files.walk(folder):
        if path.lower().endswith(_ENDINGS):
            name, _, rest = files.relative(path, folder).partition("/")
            found.setdefault(name, []).append(path) if rest else misplaced.append(path)
    return found, misplaced


def _class_names(
    folder: str, found: dict[str, list[str]], classes: Sequence[str] | None
) -> tuple[str, ...]:
    if not found:
        raise UserError(
            f"ImageFolderSource: {folder!r} has no images ({', '.join(_ENDINGS)}) in subfolders; "
            "make a subfolder for each class."
        )
    if classes is None:
        return tuple(sorted(found))
    names = tuple(classes)
    if isinstance(classes, str) or len(set(names)) < len(names) or not names:
        raise UserError(f"classes={classes!r}: expected a list of different folder names.")
    absent = [name for name in names if name not in found]
    if absent:
        raise UserError(
            f"classes: {folder!r} has no images of {absent[0]!r}; its classes are "
            f"{', '.join(sorted(found))}."
        )
    return names
