"""A dataset of TensorFlow Datasets as a Source."""

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.data.bad_records import BadRecord, BadRecords, make_quarantine
from tfbig.data.source import Source
from tfbig.errors import UserError

_FORMAT = 'file_format="array_record"'


class TfdsSource(Source):
    """A dataset that TensorFlow Datasets (TFDS) has prepared, read by example number.

    It must be prepared in a format with random access, which the default format of TFDS is not:

        builder = tfds.builder("mnist", file_format="array_record")
        builder.download_and_prepare()

    Example:

        source = tfbig.data.TfdsSource("mnist", split="train[:90%]")

    Args:
        name_or_builder: "name", "name/config" or "name:version" of a dataset prepared in
            `data_dir`, which is found without network access; or a tfds.core.DatasetBuilder.
        split: any split of TFDS, such as "train" or "train[:10%]+test".
        data_dir: folder of the TFDS data; None: $TFDS_DATA_DIR, else ~/tensorflow_datasets. Only
            with a name.
        as_supervised: whether an element is (input, target), as the dataset defines them, or the
            dict of all features.
        decoders: decoders by feature name, as in `builder.as_data_source`:
            {"image": tfds.decode.SkipDecoding()}.
        download: whether to download and prepare a dataset that is not prepared.
        on_bad_record: "error", or "skip" to skip examples that cannot be read.
        quarantine: with "skip": the JSON Lines file that lists the skipped examples; None: beside
            the dataset.

    Raises:
        UserError: the dataset is not prepared, or has no random access; the split does not exist;
            or examples differ in shape.
        BadRecords: raised by `read`: examples cannot be read, and on_bad_record is "error".
    """

    def __init__(
        self,
        name_or_builder: Any,
        split: str = "train",
        *,
        data_dir: str | os.PathLike | None = None,
        as_supervised: bool = True,
        decoders: Any = None,
        download: bool = False,
        on_bad_record: str = "error",
        quarantine: str | os.PathLike | None = None,
    ):
        if decoders is not None and not isinstance(decoders, dict):
            # TFDS accepts tfds.decode.PartialDecoding here, but then fails to read an example.
            raise UserError(
                f"decoders={type(decoders).__name__}: expected a dict of decoders by feature "
                'name, such as {"image": tfds.decode.SkipDecoding()}.'
            )
        builder = _builder(name_or_builder, data_dir, download)
        folder = str(builder.data_path)
        self._name, self._place = builder.info.full_name, f"{folder}, split {split}"
        self._keys = builder.info.supervised_keys if as_supervised else None
        if as_supervised and self._keys is None:
            raise UserError(
                f"{self._name} does not define an input and a target; pass as_supervised=False, "
                "and use .map to select the label."
            )
        self.quarantine = make_quarantine(on_bad_record, quarantine, folder)
        self._examples = _examples(builder, split, decoders)

    def __len__(self) -> int:
        return len(self._examples)

    @override
    def read(self, indices: np.ndarray) -> Any:
        if not len(indices):
            return tf.nest.map_structure(lambda array: array[:0], self.read(np.array([0])))
        numbers = np.asarray(indices).tolist()
        try:
            examples = self._examples.__getitems__(numbers)
        except Exception as error:
            found = self._bad(numbers)
            if not found:
                raise
            raise BadRecords(found, self.quarantine) from error
        if self._keys is not None:
            # The keys are feature names, in nested tuples and dicts.
            picked = (tf.nest.map_structure(one.__getitem__, self._keys) for one in examples)
            examples = list(picked)
        return self._stacked(examples)

    def _bad(self, numbers: list[int]) -> list[BadRecord]:
        found = []
        for position, number in enumerate(numbers):
            try:
                self._examples[number]
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                reason = f"it cannot be read ({reason})"
                found.append(BadRecord(self._place, number, reason, position))
        return found

    def _stacked(self, examples: Sequence[Any]) -> Any:
        try:
            return tf.nest.map_structure(_stack, *examples)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self._name}: examples differ in shape ({_line(error)}). Pass decoders={{...}} "
                "that convert them to one shape (see tfds.decode.make_decoder), or use a "
                "tf.data.Dataset."
            ) from error


def _stack(*values: Any) -> np.ndarray:
    if isinstance(values[0], (str, bytes)):
        return np.array(values, object)
    array = np.stack([np.asarray(value) for value in values])
    return array.astype(np.float32) if array.dtype == np.float64 else array


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Suppresses the progress bars, prints and INFO lines of TFDS."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _builder(name_or_builder: Any, data_dir: str | os.PathLike | None, download: bool) -> Any:
    if isinstance(name_or_builder, str):
        folder = None if data_dir is None else os.path.expanduser(os.fspath(data_dir))
        builder = _found(name_or_builder, folder, download)
        make = f'tfds.builder("{name_or_builder}", {_directory(folder)}{_FORMAT})'
    elif data_dir is not None:
        raise UserError("data_dir is only used with a dataset's name; omit it for a builder.")
    else:
        builder, make = name_or_builder, "the builder"
    if builder is not None and builder.is_prepared():
        return builder
    if not download:
        raise UserError(
            f"TfdsSource: {name_or_builder if builder is None else builder.info.full_name} is not "
            f"prepared{_where(builder, data_dir)}. Pass download=True, or run "
            f"{make}.download_and_prepare({'' if isinstance(name_or_builder, str) else _FORMAT})."
        )
    import tensorflow_datasets as tfds

    # Google's storage of prepared data uses a format without random access.
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(file_format="array_record", download_config=config)
    return builder


def _directory(folder: str | None) -> str:
    return "" if folder is None else f"data_dir={folder!r}, "


def _where(builder: Any, data_dir: str | os.PathLike | None) -> str:
    if builder is not None:
        return f" in {builder.data_path}"
    return "" if data_dir is None else f" in {os.fspath(data_dir)}"


def _found(name: str, folder: str | None, download: bool) -> Any:
    """The builder of a prepared dataset; else one that can prepare it, or None if not download."""
    import tensorflow_datasets as tfds

    with quiet_tfds():
        try:
            # Uses only local files: tfds.builder would look up unknown names in the network.
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
        except tfds.core.registered.DatasetNotFoundError:
            if not download:
                return None
        except ValueError as error:  # found in several folders, or no name
            raise UserError(f"TfdsSource({name!r}): {_line(error)}") from error
    return tfds.builder(name, data_dir=folder, file_format="array_record")


def _examples(builder: Any, split: str, decoders: Any) -> Any:
    try:
        with quiet_tfds():
            return builder.as_data_source(split, decoders=decoders)
    except NotImplementedError:
        raise UserError(
            f"{builder.info.full_name} in {builder.data_path} is prepared as "
            f"{builder.info.file_format.value}, which has no random access. Prepare it in another "
            f"data_dir with download_and_prepare({_FORMAT})."
        ) from None
    except ValueError as error:  # unknown splits among others
        raise UserError(f"{builder.info.full_name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
