"""Files of records for the tests of the sources that read them."""

import contextlib
import struct
from collections.abc import Iterator

import fsspec
import numpy as np
import tensorflow as tf
from array_record.python.array_record_module import ArrayRecordWriter

PARSE = {
    "x": tf.io.FixedLenFeature([3], tf.float32),
    "name": tf.io.FixedLenFeature([], tf.string),
    "label": tf.io.FixedLenFeature([], tf.int64),
}


def example(number: int, **changes) -> bytes:
    """The example with this number, serialized; a feature given as None is left out."""
    values = {"x": [number, number / 2, -number], "name": [f"n{number}"], "label": [number % 7]}
    kinds = {
        float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
        int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
        str: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v[0].encode()])),
    }
    values["x"] = [float(value) for value in values["x"]]
    features = {
        name: kinds[type(value[0])](value)
        for name, value in {**values, **changes}.items()
        if value is not None
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def arrays_of(numbers) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What PARSE with labels="label" makes of the examples with these numbers."""
    numbers = np.asarray(numbers)
    x = np.stack([numbers, numbers / 2, -numbers], axis=1).astype(np.float32)
    return {"x": x, "name": np.array([b"n%d" % n for n in numbers], object)}, numbers % 7


def assert_batch(batch, numbers):
    """That these are the examples with these numbers."""
    (features, labels), (expected, expected_labels) = batch, arrays_of(numbers)
    assert sorted(features) == ["name", "x"]
    np.testing.assert_array_equal(features["x"], expected["x"])
    np.testing.assert_array_equal(features["name"], expected["name"])
    np.testing.assert_array_equal(labels, expected_labels)
    assert features["x"].dtype == np.float32


def write_tfrecord(path, records) -> str:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return str(path)


def write_array_record(path, records, options="group_size:1") -> str:
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


@contextlib.contextmanager
def far_folder() -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
    """A file system in memory and a folder of it, as URL, that is empty before and after."""
    memory, folder = fsspec.filesystem("memory"), "memory://tfbig-record-files"
    try:
        yield memory, folder
    finally:
        if memory.exists(folder):
            memory.rm(folder, recursive=True)


def tfrecord_starts(data: bytes) -> list[int]:
    """Where each record of a good TFRecord file begins, and where the last one ends."""
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + struct.unpack_from("<Q", data, starts[-1])[0] + 16)
    return starts
