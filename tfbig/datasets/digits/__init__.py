"""Handwritten digits: 1797 images of 8x8 pixels, bundled with scikit-learn, read through TFDS.

TensorFlow Datasets (TFDS) prepares them once, offline, in `data_dir`. The arrays are saved in the
same folder, because importing TFDS takes about three seconds. TFDS and scikit-learn are imported
only when they are needed.
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
    """Returns the digits as a Source: the train split for mode "train", else the test split.

    Example:

        from tfbig.datasets import digits
        from tfbig.models import mlp

        tfbig.train_distributed(mlp.build, digits.input_fn, max_steps=2000)

    Args:
        mode: "train", "eval" or "infer".
        params: params.data may have `batch_size` (default 64), `flat` (default False),
            `data_dir` (default: see `digits_arrays`), `classes`, the digits to include, numbered
            from 0 in this order (default: all ten), and `examples_per_class`, the number of
            training examples of each class (default: all).

    Returns:
        A batched `tfbig.data.Source` of (image float32 in [0, 1], of shape (8, 8, 1), or (64,) if
        flat; label int32).

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
    """Selects the examples of some classes, at most `most` of each, spread over all writers."""
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
    if most is not None:  # the images are sorted by writer
        rows = [these[:: max(1, len(these) // most)][:most] for these in rows]
    numbers = np.repeat(np.arange(len(classes)), [len(these) for these in rows])
    rows = np.concatenate(rows)
    order = np.argsort(rows)
    return images[rows[order]], numbers[order]


def digits_arrays(data_dir: str | os.PathLike | None = None) -> dict[str, np.ndarray]:
    """Returns all digits as arrays, read through the TFDS builder and cached in the process.

    Example:

        arrays = tfbig.datasets.digits.digits_arrays()
        arrays["train_images"].shape  # (1438, 8, 8, 1)

    Args:
        data_dir: folder of prepared TFDS data; None: $TFDS_DATA_DIR, else ~/tensorflow_datasets.
            If the folder is not writable, a warning is logged and the digits are read from
            scikit-learn.

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
            with contextlib.suppress(OSError):  # a read-only folder only makes later reads slower
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
    # Another process that reads or writes the same file sees a complete file or none.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_images() -> tuple[np.ndarray, np.ndarray]:
    """The copy of scikit-learn: images uint8 [1797, 8, 8, 1] from 0 to 16, labels int64 [1797]."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = bunch.images.astype(np.uint8)[..., np.newaxis]
    return images, bunch.target.astype(np.int64)


def split_rows(labels: np.ndarray) -> dict[str, np.ndarray]:
    """A stratified split with a fixed seed, in which a fifth of each class is "test".

    Args:
        labels: int array of shape [n].

    Returns:
        {"train": rows, "test": rows}, int64 and increasing.
    """
    # NumPy guarantees the stream of RandomState, so the split is the same in every version.
    random = np.random.RandomState(_SPLIT_SEED)
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held_out[random.permutation(rows)[: round(len(rows) / 5)]] = True
    return {"train": np.flatnonzero(~held_out), "test": np.flatnonzero(held_out)}
