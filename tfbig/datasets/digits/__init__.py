"""Handwritten digits: 1797 images of 8x8 pixels, bundled with scikit-learn, read through TFDS.

TensorFlow Datasets prepares them once, offline, in `data_dir`; the arrays are kept beside what it
prepared, because importing TFDS alone takes some three seconds. Neither TFDS nor scikit-learn
is imported before the data is asked for.
"""

import contextlib
import functools
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from absl import logging

from tfbig.errors import UserError
from tfbig.params import read_data_params

VERSION = "1.0.0"
NUM_CLASSES = 10
_SPLIT_SEED = 20240229

_DATA_DEFAULTS = {
    "batch_size": 64,
    "flat": False,
    "data_dir": None,
    "classes": None,
    "examples_per_class": None,
}


def input_fn(mode: str = "train", params: Any = None) -> Any:
    """The digits as a Source: the train split for mode "train", the test split otherwise.

    Example:

        from tfbig.datasets import digits
        from tfbig.models import mlp

        tfbig.train_distributed(mlp.build, digits.input_fn, max_steps=2000)

    Args:
        mode: "train", "eval" or "infer".
        params: params.data may have `batch_size` (default 64), `flat` (default False),
            `data_dir` (default: see `digits_arrays`), `classes`, the digits that are given,
            numbered from 0 in this order (default: all ten), and `examples_per_class`, how many
            of each to train on (default: all there are).

    Returns:
        A `tfbig.data.Source` of (image float32 in [0, 1], of shape (8, 8, 1), or (64,) when
        flat; label int32), batched.

    Raises:
        UserError: params.data has an unknown name, or there are no such digits.
    """
    from tfbig.data import ArraySource

    data = read_data_params(params, _DATA_DEFAULTS, owner="tfbig.datasets.digits.input_fn")
    arrays = digits_arrays(data["data_dir"])
    split = "train" if mode == "train" else "test"
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if data["classes"] is not None or data["examples_per_class"] is not None:
        most = data["examples_per_class"] if split == "train" else None
        images, labels = _chosen(images, labels, data["classes"], most)
    images = images.astype(np.float32) / np.float32(16)
    if data["flat"]:
        images = images.reshape(len(images), -1)
    return ArraySource((images, labels.astype(np.int32))).batch(data["batch_size"])


def _chosen(
    images: np.ndarray, labels: np.ndarray, classes: Any, most: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The examples of some classes, at most so many of each, of all writers alike."""
    classes = list(range(NUM_CLASSES) if classes is None else classes)
    if not classes or len(set(classes)) < len(classes) or not set(classes) <= set(range(10)):
        raise UserError(
            f"params.data.classes={classes}: expected different digits from 0 to 9, such as "
            "(5, 6, 7, 8, 9)."
        )
    if most is not None and (not isinstance(most, int) or most < 1):
        raise UserError(
            f"params.data.examples_per_class={most!r}: expected a whole number of 1 or more."
        )
    rows = [np.flatnonzero(labels == digit) for digit in classes]
    if most is not None:  # the images are in the order of their writers
        rows = [these[:: max(1, len(these) // most)][:most] for these in rows]
    numbers = np.repeat(np.arange(len(classes)), [len(these) for these in rows])
    rows = np.concatenate(rows)
    order = np.argsort(rows)
    return images[rows[order]], numbers[order]


def digits_arrays(data_dir: str | os.PathLike | None = None) -> dict[str, np.ndarray]:
    """All the digits as arrays, read through the TFDS builder and kept in the process.

    Example:

        arrays = tfbig.datasets.digits.digits_arrays()
        arrays["train_images"].shape  # (1438, 8, 8, 1)

    Args:
        data_dir: where TFDS keeps prepared data; None: $TFDS_DATA_DIR, else
            ~/tensorflow_datasets. A folder that cannot be written costs one log line, and
            the digits are read from scikit-learn.

    Returns:
        dict of `train_images` and `test_images`, uint8 of shape [n, 8, 8, 1] with values from
        0 to 16, and `train_labels` and `test_labels`, int64 of shape [n]. Do not write to them.
    """
    folder = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return _cached_arrays(os.path.abspath(os.path.expanduser(os.fspath(folder))))


@functools.lru_cache(maxsize=4)
def _cached_arrays(data_dir: str) -> dict[str, np.ndarray]:
    kept = pathlib.Path(data_dir, "digits", f"arrays-{VERSION}.npz")
    try:
        with np.load(kept, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # absent, or damaged
        try:
            arrays = _arrays_from_tfds(data_dir)
        except Exception as error:
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            logging.warning(
                "digits: not prepared by TFDS in %s (%s); read from scikit-learn instead.",
                data_dir,
                reason,
            )
            arrays = _arrays_from_sklearn()
        else:
            with contextlib.suppress(OSError):  # a folder that can only be read: slower, no harm
                _write_atomically(kept, arrays)
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def _arrays_from_tfds(data_dir: str) -> dict[str, np.ndarray]:
    from tfbig.datasets.digits import digits_dataset_builder

    return digits_dataset_builder.read_arrays(data_dir)


def _arrays_from_sklearn() -> dict[str, np.ndarray]:
    images, labels = load_images()
    arrays = {}
    for split, rows in split_rows(labels).items():
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[rows], labels[rows]
    return arrays


def _write_atomically(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    # Another process may be reading or writing the same file: it sees all of it or none.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's copy: images uint8 [1797, 8, 8, 1] of 0 to 16, labels int64 [1797]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    return images, bunch.target.astype(np.int64)


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """A stratified split: a fifth of each class, drawn with a fixed seed, is "test".

    Args:
        labels: int array of shape [n].

    Returns:
        {"train": rows, "test": rows}, int64 and increasing.
    """
    # RandomState's stream is frozen by NumPy, so the split outlives every version.
    random = np.random.RandomState(_SPLIT_SEED)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[random.permutation(rows)[: round(len(rows) / 5)]] = True
    return {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
