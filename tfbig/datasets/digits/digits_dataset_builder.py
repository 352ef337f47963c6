"""The TFDS builder of the digits in scikit-learn; importing this module imports TFDS."""

import os
import shutil
import tempfile
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfbig.data.sources.tfds_source import quiet_tfds
from tfbig.datasets import digits

_DESCRIPTION = """
Handwritten digits as 8x8 images with values from 0 to 16: the test set of the UCI ML "Optical
Recognition of Handwritten Digits" data, as bundled with scikit-learn. A stratified fifth of it
is the split "test", all else is "train".
"""
_CITATION = """
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  publisher = {UCI Machine Learning Repository},
  year = {1998},
  doi = {10.24432/C50P49},
}
"""


class Builder(tfds.core.GeneratorBasedBuilder):
    """A TFDS builder for the digits, which needs no network.

    Example:

        from tfbig.datasets.digits.digits_dataset_builder import Builder

        builder = Builder(data_dir="/tmp/tfds")
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train", as_supervised=True)
    """

    VERSION = tfds.core.Version(digits.VERSION)
    RELEASE_NOTES: ClassVar[dict] = {digits.VERSION: "First release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION.strip(),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=digits.NUM_CLASSES),
                    "row": tfds.features.Scalar(np.int64),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation=_CITATION.strip(),
        )

    def _split_generators(self, dl_manager: Any) -> Any:
        images, labels = digits.load_images()
        return {
            split: self._generate_examples(images, labels, rows)
            for split, rows in digits.split_rows(labels).items()
        }

    def _generate_examples(self, images: Any, labels: Any, rows: Any) -> Any:
        for row in rows:
            yield int(row), {"image": images[row], "label": int(labels[row]), "row": int(row)}


def read_arrays(data_dir: str) -> dict[str, np.ndarray]:
    """Reads the digits in `data_dir` as arrays, after preparing them if necessary.

    Example:

        arrays = read_arrays("/tmp/tfds")

    Returns:
        The arrays of `tfbig.datasets.digits.digits_arrays`.

    Raises:
        OSError: the folder is not writable; TFDS raises other errors too.
    """
    with quiet_tfds():
        builder = Builder(data_dir=data_dir)
        if not builder.is_prepared():
            _prepare(data_dir)
            builder = Builder(data_dir=data_dir)
        arrays = {}
        for split in ("train", "test"):
            examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
            # TFDS stores examples in another order; this restores the order of scikit-learn.
            order = np.argsort(examples["row"])
            arrays[f"{split}_images"] = examples["image"][order]
            arrays[f"{split}_labels"] = examples["label"][order]
    return arrays


def _prepare(data_dir: str) -> None:
    # Prepared in a temporary folder and renamed atomically: if two processes do this at the same
    # time, the second one finds the same data and discards its own.
    os.makedirs(os.path.join(data_dir, "digits"), exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".digits-", dir=data_dir)
    try:
        builder = Builder(data_dir=temporary)
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
        target = os.path.join(data_dir, "digits", digits.VERSION)
        try:
            os.rename(os.path.join(temporary, "digits", digits.VERSION), target)
        except OSError:
            if not os.path.exists(os.path.join(target, "dataset_info.json")):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
