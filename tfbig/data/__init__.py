"""Which examples, in what order: sources with random access and what is done to them.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

from tfbig._lazy import lazy

_MODULES = {
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

__all__ = list(_MODULES)

__getattr__, __dir__ = lazy(__name__, _MODULES)
