"""TFRecordSource: any record by its number, with the values that tf.data gives."""

import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.data.sources.record_files import (
    PARSE,
    assert_batch,
    example,
    far_folder,
    tfrecord_starts,
    write_tfrecord,
)
from tfbig.data import TFRecordSource
from tfbig.data.sources import tfrecord_index
from tfbig.data.sources.tfrecord_index import masked_crc32c
from tfbig.errors import UserError


@pytest.fixture
def three_files(tmp_path):
    """50 examples in files of 20, 1 and 29."""
    for name, start, end in (("a", 0, 20), ("b", 20, 21), ("c", 21, 50)):
        write_tfrecord(tmp_path / f"{name}.tfrecord", map(example, range(start, end)))
    return str(tmp_path / "*.tfrecord")


def test_all_examples_are_those_of_a_tfrecord_dataset(three_files):
    source = TFRecordSource(three_files, PARSE)
    files = sorted(tf.io.gfile.glob(three_files))
    expected = next(tf.io.parse_example(s, PARSE) for s in tf.data.TFRecordDataset(files).batch(50))
    batch = source.read(np.arange(50))
    assert len(source) == 50
    assert sorted(batch) == sorted(expected)
    for name, values in batch.items():
        np.testing.assert_array_equal(values, expected[name].numpy())


def test_examples_are_read_in_any_order_and_as_often_as_asked(three_files):
    source = TFRecordSource(three_files, PARSE, labels="label")
    rng = np.random.default_rng(0)
    for numbers in ([49, 0, 20, 20, 21, 19, 0], rng.integers(0, 50, 400), [7]):
        assert_batch(source.read(np.array(numbers)), numbers)
    assert source.element_spec == (
        {"x": tf.TensorSpec([3], tf.float32), "name": tf.TensorSpec([], tf.string)},
        tf.TensorSpec([], tf.int64),
    )
    features, labels = source.read(np.array([], np.int64))
    assert (features["x"].shape, labels.shape) == ((0, 3), (0,))


def test_without_parse_an_example_is_the_bytes_of_its_record(tmp_path):
    records = [b"", b"\0", b"ab\0\0", bytes(300), b"\xff" * 70_000]
    source = TFRecordSource(write_tfrecord(tmp_path / "a", records))
    assert source.read(np.array([4, 3, 2, 1, 0, 2])).tolist() == [
        *reversed(records),
        records[2],
    ]
    assert source.element_spec == tf.TensorSpec([], tf.string)


def test_a_function_parses_many_records_at_once_into_arrays_or_tensors(tmp_path):
    lists = [[1], [2, 3], [], [4, 5, 6, 7]]
    records = [example(i, ids=ids) if ids else example(i) for i, ids in enumerate(lists)]
    sizes = []

    def parse(records):
        sizes.append(len(records))
        ids = tf.io.parse_example(records, {"ids": tf.io.RaggedFeature(tf.int64)})["ids"]
        return ids.to_tensor(shape=[None, 3]), np.array([len(r) / 2 for r in records])

    source = TFRecordSource(write_tfrecord(tmp_path / "a", records), parse)
    ids, halves = source.read(np.array([3, 1, 2]))
    np.testing.assert_array_equal(ids, [[4, 5, 6], [2, 3, 0], [0, 0, 0]])
    np.testing.assert_array_equal(halves, [len(records[i]) / 2 for i in (3, 1, 2)])
    assert (ids.dtype, halves.dtype, sizes) == (np.int64, np.float32, [3])


def test_threads_that_read_at_the_same_time_get_each_their_own_examples(three_files):
    source = TFRecordSource(three_files, PARSE, labels="label")
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, 50, 100) for _ in range(64)]
    assert source.threads >= 1
    with ThreadPoolExecutor(8) as pool:
        for numbers, batch in zip(asked, pool.map(source.read, asked), strict=True):
            assert_batch(batch, numbers)


def test_a_file_far_away_is_read_through_its_file_layer(three_files, tmp_path, monkeypatch):
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    with far_folder() as (memory, folder):
        for path in tf.io.gfile.glob(three_files):
            with open(path, "rb") as file:
                memory.pipe(f"{folder}/{os.path.basename(path)}", file.read())
        for _ in range(2):  # with a new index, and with the one that was kept
            source = TFRecordSource(f"{folder}/*.tfrecord", PARSE, labels="label")
            numbers = np.random.default_rng(0).integers(0, 50, 200)
            assert_batch(source.read(numbers), numbers)
    assert len(os.listdir(tmp_path / "cache")) == 3


def test_far_away_records_that_are_far_from_each_other_are_requested_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    records = [b"a", b"b", bytes(200_000), b"c", b"d"]
    with open(write_tfrecord(tmp_path / "a", records), "rb") as file:
        data = file.read()
    asked = []

    def cat_ranges(self, paths, starts, ends, **keywords):
        asked.append(list(zip(starts, ends, strict=True)))
        return [self.cat_file(*part) for part in zip(paths, starts, ends, strict=True)]

    with far_folder() as (memory, folder):
        memory.pipe(f"{folder}/a", data)
        monkeypatch.setattr(type(memory), "cat_ranges", cat_ranges)
        source = TFRecordSource(f"{folder}/a")
        assert source.read(np.array([4, 1, 3, 0, 1])).tolist() == [b"d", b"b", b"c", b"a", b"b"]
    assert asked == [[(0, 34), (200_050, 200_084)]]


def test_records_beyond_4_gigabytes_are_found_and_read(tmp_path):
    path = tmp_path / "large"
    length = (5 << 30) + 7
    header = struct.pack("<Q", length)
    with open(path, "wb") as file:  # sparse: it takes no room on the disk
        file.write(header + struct.pack("<I", masked_crc32c([header])[0]))
        file.seek(12 + length + 4)
        with open(write_tfrecord(tmp_path / "small", [b"one", b"two"]), "rb") as small:
            file.write(small.read())
    source = TFRecordSource(path)
    assert len(source) == 3
    assert source.read(np.array([2, 1])).tolist() == [b"two", b"one"]


def test_an_index_is_kept_and_used_again(three_files, tmp_path, monkeypatch):
    TFRecordSource(three_files)
    assert (tmp_path / "a.tfrecord.tfbig-index.npz").exists()
    monkeypatch.setattr(tfrecord_index, "build", lambda path: pytest.fail("it was built again"))
    assert len(TFRecordSource(three_files)) == 50
    assert len(TFRecordSource(str(tmp_path / "*"))) == 50  # an index is no data


def test_an_index_is_built_anew_when_its_file_has_changed(three_files, tmp_path):
    assert len(TFRecordSource(three_files)) == 50
    path = tmp_path / "b.tfrecord"
    write_tfrecord(path, map(example, [20, 20, 20]))
    source = TFRecordSource(three_files, PARSE, labels="label")
    assert_batch(source.read(np.arange(52)), [*range(21), 20, 20, *range(21, 50)])
    write_tfrecord(path, map(example, [11, 12, 13]))  # of the same size
    os.utime(path, ns=(1, 1))
    source = TFRecordSource(three_files, PARSE, labels="label")
    assert_batch(source.read(np.arange(20, 23)), [11, 12, 13])


def test_a_damaged_index_is_built_anew_and_never_believed(tmp_path):
    path = write_tfrecord(tmp_path / "a", map(example, range(9)))
    index = tmp_path / "a.tfbig-index.npz"
    TFRecordSource(path)
    whole = index.read_bytes()
    for place in range(0, len(whole), 3):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        assert_batch(TFRecordSource(path, PARSE, labels="label").read(np.arange(9)), range(9))
    for length in (0, 1, 100, len(whole) - 1):
        index.write_bytes(whole[:length])
        assert_batch(TFRecordSource(path, PARSE, labels="label").read(np.arange(9)), range(9))
    assert len(index.read_bytes()) == len(whole)


def test_where_the_folder_cannot_be_written_the_index_is_in_the_cache(tmp_path, monkeypatch):
    path = write_tfrecord(tmp_path / "a", map(example, range(3)))
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(TFRecordSource(path)) == 3
    assert os.listdir(tmp_path / "cache")[0].endswith("-a.tfbig-index.npz")
    assert sorted(os.listdir(tmp_path)) == ["a", "cache"]


def test_an_index_that_cannot_be_kept_costs_only_a_warning(tmp_path, monkeypatch, caplog):
    path = write_tfrecord(tmp_path / "a", map(example, range(3)))

    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(TFRecordSource(path)) == 3
    assert os.listdir(tmp_path) == ["a"]
    assert "No space left on device" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parse": {"x": tf.io.VarLenFeature(tf.int64)}}, r"VarLenFeature.*to_tensor\(shape="),
        ({"parse": {"x": tf.io.FixedLenFeature([None], tf.int64)}}, r"parse cannot be used: "),
        ({"parse": {}}, r"parse cannot be used: "),
        ({"parse": {1: tf.io.FixedLenFeature([], tf.int64)}}, r"the key 1; keys are names"),
        ({"parse": 5}, r"parse=5 is neither a dict .* nor a function"),
        (
            {"parse": PARSE, "labels": "y"},
            r"'y' is not one of the features \['label', 'name'",
        ),
        ({"labels": "y"}, r"labels='y' needs parse="),
        ({"on_bad_record": "ignore"}, r"on_bad_record='ignore'"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(three_files, arguments, message):
    with pytest.raises(UserError, match=message) as raised:
        TFRecordSource(three_files, **arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parse", "message"),
    [
        (lambda records: np.zeros([2, 3]), r"for 5 records, parse returned .* shape \[2, 3\]"),
        (lambda records: {"n": len(records)}, r"for 5 records, parse returned .* shape \[\]"),
        (lambda records: tf.ragged.constant([[1], []]), r"a RaggedTensor, .*to_tensor\(shape="),
    ],
)
def test_a_function_that_returns_no_batch_is_refused_and_no_record_blamed(
    three_files, parse, message
):
    source = TFRecordSource(three_files, parse, on_bad_record="skip")
    with pytest.raises(UserError, match=message):
        source.read(np.arange(5))


def test_a_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no file"):
        TFRecordSource(tmp_path / "none.tfrecord")
    with pytest.raises(UserError, match=r"is a folder; pass '.*/\*\.tfrecord'"):
        TFRecordSource(tmp_path)


def test_files_that_many_readers_keep_open_may_be_more_than_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("tfbig.data.sources.tfrecord_source._OPEN_FILES", 2)
    for i in range(7):
        write_tfrecord(tmp_path / f"{i}.tfrecord", map(example, range(3 * i, 3 * i + 3)))
    source = TFRecordSource(tmp_path / "*.tfrecord", PARSE, labels="label")
    numbers = np.random.default_rng(0).integers(0, 21, 100)
    assert_batch(source.read(numbers), numbers)
    assert source._mapped.cache_info().currsize == 2


def test_where_records_begin_is_what_the_index_says(tmp_path):
    records = [bytes(n) for n in (0, 300_000, 5, 262_144 - 16, 1, 600_000, 0)]
    path = write_tfrecord(tmp_path / "a", records)
    with open(path, "rb") as file:
        expected = tfrecord_starts(file.read())
    index = tfrecord_index.build(path)
    assert (index.bounds.tolist(), index.problem) == (expected, "")
