"""ArrayRecordSource: any record by its number; what is damaged is named."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.data.sources.record_files import (
    PARSE,
    assert_batch,
    example,
    far_folder,
    write_array_record,
)
from tfbig.data import ArrayRecordSource, BadRecords, bad_records, find_bad_records
from tfbig.errors import UserError


@pytest.fixture
def three_files(tmp_path):
    """50 examples in files of 20, 1 and 29, written with groups of 1, 1 and 4."""
    for name, start, end, options in (
        ("a", 0, 20, "group_size:1"),
        ("b", 20, 21, "group_size:1"),
        ("c", 21, 50, "group_size:4,zstd:3"),
    ):
        path = tmp_path / f"{name}.array_record"
        write_array_record(path, map(example, range(start, end)), options)
    return str(tmp_path / "*.array_record")


def test_examples_are_read_in_any_order_and_as_often_as_asked(three_files):
    source = ArrayRecordSource(three_files, PARSE, labels="label")
    rng = np.random.default_rng(0)
    assert len(source) == 50
    for numbers in (np.arange(50), [49, 0, 20, 20, 21, 19, 0], rng.integers(0, 50, 400), [7]):
        assert_batch(source.read(np.array(numbers)), numbers)
    assert source.element_spec == (
        {"x": tf.TensorSpec([3], tf.float32), "name": tf.TensorSpec([], tf.string)},
        tf.TensorSpec([], tf.int64),
    )
    features, labels = source.read(np.array([], np.int64))
    assert (features["x"].shape, labels.shape) == ((0, 3), (0,))


def test_without_parse_an_example_is_the_bytes_of_its_record(tmp_path):
    records = [b"", b"\0", b"ab\0\0", bytes(300), b"\xff" * 70_000]
    source = ArrayRecordSource(write_array_record(tmp_path / "a", records))
    assert source.read(np.array([4, 3, 2, 1, 0])).tolist() == records[::-1]


def test_threads_that_read_at_the_same_time_get_each_their_own_examples(three_files):
    source = ArrayRecordSource(three_files, PARSE, labels="label")
    rng = np.random.default_rng(0)
    asked = [rng.integers(0, 50, 100) for _ in range(64)]
    with ThreadPoolExecutor(8) as pool:
        for numbers, batch in zip(asked, pool.map(source.read, asked), strict=True):
            assert_batch(batch, numbers)


def test_damaged_and_unparsable_records_are_all_in_one_error(tmp_path):
    records = [example(i) for i in range(300)]
    records[200] = b"no example"
    first = write_array_record(tmp_path / "a", [example(0)])
    path = write_array_record(tmp_path / "b", records)
    data = bytearray((tmp_path / "b").read_bytes())
    data[9000] ^= 1
    (tmp_path / "b").write_bytes(data)
    source = ArrayRecordSource([first, path], PARSE, labels="label", on_bad_record="skip")
    (damaged, unparsed) = sorted(find_bad_records(source))
    assert unparsed == 201
    with pytest.raises(BadRecords) as raised:
        source.read(np.array([unparsed, 5, damaged, unparsed]))
    assert [(bad.file, bad.record, bad.position) for bad in raised.value.found] == [
        (path, 200, 0),
        (path, damaged - 1, 2),
        (path, 200, 3),
    ]
    assert raised.value.found[0].reason == "it is not a serialized tf.train.Example"
    assert "hash mismatch" in raised.value.found[1].reason
    batch, kept = bad_records.read_good(source, np.arange(1, 301))
    assert np.flatnonzero(~kept).tolist() == [damaged - 1, 200]
    assert_batch(batch, np.setdiff1d(np.arange(300), [damaged - 1, 200]))


def test_a_damaged_byte_or_a_cut_is_named_or_changes_nothing(tmp_path):
    rng = np.random.default_rng(0)
    records = [rng.bytes(int(n)) for n in rng.integers(0, 400, 60)]
    path = tmp_path / "a"
    data = open(write_array_record(path, records, "group_size:3"), "rb").read()
    refused, named, unchanged = 0, 0, 0
    for trial in range(150):
        damaged = bytearray(data)
        place = int(rng.integers(0, len(data) if trial % 3 else 20_000))
        if trial % 5 == 0:
            del damaged[place:]
        else:
            damaged[place] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            source = ArrayRecordSource(path)
        except BadRecords as error:
            assert [(bad.file, bad.record) for bad in error.found] == [(str(path), None)]
            refused += 1
            continue
        assert len(source) == 60
        bad = find_bad_records(source)
        assert all(found.record == number for number, found in bad.items())
        good = np.setdiff1d(np.arange(60), list(bad))
        assert source.read(good).tolist() == [records[number] for number in good]
        named, unchanged = named + bool(bad), unchanged + (not bad)
    assert min(refused, named, unchanged) > 5


def test_what_is_no_array_record_file_is_named_and_can_be_left_out(tmp_path):
    write_array_record(tmp_path / "a", [b"good"])
    (tmp_path / "b").write_bytes(b"")
    (tmp_path / "c").write_bytes(b"text" * 50_000)
    with pytest.raises(BadRecords) as raised:
        ArrayRecordSource(tmp_path / "*")
    assert "\n" not in str(raised.value)
    assert [os.path.basename(bad.file) for bad in raised.value.found] == ["b", "c"]
    assert raised.value.found[0].reason == "the file is empty"
    source = ArrayRecordSource(tmp_path / "*", on_bad_record="skip", quarantine=tmp_path / "q")
    assert source.read(np.arange(len(source))).tolist() == [b"good"]
    assert len((tmp_path / "q").read_text().splitlines()) == 2


@pytest.mark.parametrize("read_before", [True, False])
def test_a_file_that_is_gone_shorter_or_another_is_reported_by_record(tmp_path, read_before):
    records = [b"%d" % n * 100 for n in range(3000)]
    path = write_array_record(tmp_path / "a", records)
    source = ArrayRecordSource(path)
    if read_before:
        assert source.read(np.array([2999])).tolist() == [records[2999]]
    os.truncate(path, 70_000)
    with pytest.raises(BadRecords) as raised:
        source.read(np.array([2999, 1]))
    assert [(bad.record, bad.position) for bad in raised.value.found] == [(2999, 0), (1, 1)]
    write_array_record(path, records[:9])
    with pytest.raises(BadRecords, match=r"record 3: the file now has 9 records"):
        source.read(np.array([3]))
    os.unlink(path)
    with pytest.raises(BadRecords, match=r"record 3: the file no longer exists"):
        source.read(np.array([3]))
    write_array_record(path, records)
    assert source.read(np.array([3])).tolist() == [records[3]]


def test_a_file_that_shrinks_while_it_is_read_is_reported_by_record(tmp_path, monkeypatch):
    path = write_array_record(tmp_path / "a", [b"%d" % n * 100 for n in range(3000)])
    source = ArrayRecordSource(path)
    module = "tfbig.data.sources.array_record_source"

    def late(reader, numbers, first):
        os.truncate(path, 70_000)  # after the file was looked at, before it is read
        return reader.read(numbers), []

    monkeypatch.setattr(f"{module}._read", late)
    with pytest.raises(BadRecords, match=r"record 2999: the file was changed while it was read"):
        source.read(np.array([2999]))


def test_paths_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; pass '.*/\*\.array_record'"):
        ArrayRecordSource(tmp_path)
    with far_folder() as (memory, folder):
        memory.pipe(f"{folder}/a", b"data")
        with pytest.raises(UserError, match=r"local files only, received 'memory://"):
            ArrayRecordSource(f"{folder}/a")
    with pytest.raises(UserError, match=r"^ArrayRecordSource: labels='y' needs parse="):
        ArrayRecordSource(write_array_record(tmp_path / "a", [b"1"]), labels="y")
