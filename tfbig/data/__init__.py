"""Which examples, in what order: sources with random access and what is done to them.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "ArrayRecordSource": "sources.array_record_source",
    "ArraySource": "sources.array_source",
    "BadRecord": "bad_records",
    "BadRecords": "bad_records",
    "CsvSource": "sources.csv_source",
    "ImageFolderSource": "sources.image_folder_source",
    "NpySource": "sources.npy_source",
    "ParquetSource": "sources.parquet_source",
    "Source": "source",
    "TFRecordSource": "sources.tfrecord_source",
    "TextFolderSource": "sources.text_folder_source",
    "TfdsSource": "sources.tfds_source",
    "find_bad_records": "bad_records",
    "mix": "order.mixture",
    "with_class_weight": "class_weight",
    "augmentation": None,
    "cleaning": None,
    "configured": None,
    "splitting": None,
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.data import (
        augmentation as augmentation,
        cleaning as cleaning,
        configured as configured,
        splitting as splitting,
    )
    from tfbig.data.bad_records import (
        BadRecord as BadRecord,
        BadRecords as BadRecords,
        find_bad_records as find_bad_records,
    )
    from tfbig.data.class_weight import with_class_weight as with_class_weight
    from tfbig.data.order.mixture import mix as mix
    from tfbig.data.source import Source as Source
    from tfbig.data.sources.array_record_source import ArrayRecordSource as ArrayRecordSource
    from tfbig.data.sources.array_source import ArraySource as ArraySource
    from tfbig.data.sources.csv_source import CsvSource as CsvSource
    from tfbig.data.sources.image_folder_source import ImageFolderSource as ImageFolderSource
    from tfbig.data.sources.npy_source import NpySource as NpySource
    from tfbig.data.sources.parquet_source import ParquetSource as ParquetSource
    from tfbig.data.sources.text_folder_source import TextFolderSource as TextFolderSource
    from tfbig.data.sources.tfds_source import TfdsSource as TfdsSource
    from tfbig.data.sources.tfrecord_source import TFRecordSource as TFRecordSource
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES)
