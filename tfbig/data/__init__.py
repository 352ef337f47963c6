"""Which examples, in what order: sources with random access and what is done to them.

Importing this module is cheap: each name, and the library behind it, is loaded on its first use.
"""

import importlib

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
    "mix": "mixture",
    "with_class_weight": "class_weight",
}
_ROOMS = ("augmentation", "cleaning", "configured", "splitting")

__all__ = [*_MODULES, *_ROOMS]


def __getattr__(name: str):
    if name in _MODULES:
        module = importlib.import_module(f"tfbig.data.{_MODULES[name]}")
        globals()[name] = getattr(module, name)
    elif name in _ROOMS:
        globals()[name] = importlib.import_module(f"tfbig.data.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
