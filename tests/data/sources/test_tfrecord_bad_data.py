"""TFRecordSource and bad data: each record is read, or reported by file and number."""

import json
import os

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
from tfbig.data import BadRecords, TFRecordSource, bad_records, find_bad_records

RECORDS = [b"first", b"", b"the third, a longer one", b"4"]


@pytest.fixture
def small(tmp_path):
    """(path, bytes) of a file of RECORDS."""
    path = tmp_path / "small.tfrecord"
    write_tfrecord(path, RECORDS)
    return path, path.read_bytes()


def found_at_once(path, **arguments):
    with pytest.raises(BadRecords) as raised:
        TFRecordSource(path, **arguments)
    assert "\n" not in str(raised.value)
    return raised.value.found


def test_a_file_cut_at_any_byte_loses_only_what_is_reported(small, tmp_path):
    path, data = small
    starts = tfrecord_starts(data)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        whole = max(i for i, start in enumerate(starts) if start <= length)
        if length in starts[1:]:  # between two records: a good file with fewer
            source = TFRecordSource(path)
        else:
            (bad,) = found_at_once(path)
            assert (bad.file, bad.record) == (str(path), whole if length else None)
            if length:
                lost = length - starts[whole]
                assert f"from byte {starts[whole]} on, the last {lost} bytes" in bad.reason
            else:
                assert bad.reason == "the file is empty"
            source = TFRecordSource(
                path, on_bad_record="skip", quarantine=tmp_path / f"{length}.jsonl"
            )
            assert len((tmp_path / f"{length}.jsonl").read_text().splitlines()) == 1
        assert source.read(np.arange(len(source))).tolist() == RECORDS[:whole]


def test_a_flipped_bit_anywhere_is_found_and_named(small, tmp_path):
    path, data = small
    starts = tfrecord_starts(data)
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        record = max(i for i, start in enumerate(starts) if start <= place)
        in_header = place - starts[record] < 12
        if in_header:
            (bad,) = found_at_once(path)
            assert (bad.file, bad.record) == (str(path), record)
            lost = f"from byte {starts[record]} on, the last {len(data) - starts[record]} bytes"
            assert bad.reason.startswith(f"the checksum of its length is wrong: {lost}")
        source = TFRecordSource(path, on_bad_record="skip", quarantine=tmp_path / "q")
        assert len(source) == (record if in_header else 4)
        assert list(find_bad_records(source)) == ([] if in_header else [record])
        for number in np.setdiff1d(np.arange(len(source)), [record]):
            assert source.read(np.array([number])).tolist() == [RECORDS[number]]


def test_all_bad_records_of_a_read_are_in_one_error_with_their_places(small):
    path, data = small
    starts = tfrecord_starts(data)
    damaged = bytearray(data)
    for record in (0, 2):
        damaged[starts[record] + 12] ^= 1
    path.write_bytes(damaged)
    source = TFRecordSource(path)
    with pytest.raises(BadRecords, match=r"small\.tfrecord, record 0: .* \(and 2 more\)\. ") as e:
        source.read(np.array([3, 0, 1, 2, 0]))
    reason = "its checksum is wrong (it begins at byte {})"
    assert [bad[1:] for bad in e.value.found] == [
        (0, reason.format(starts[0]), 1),
        (2, reason.format(starts[2]), 3),
        (0, reason.format(starts[0]), 4),
    ]
    assert set(find_bad_records(source)) == {0, 2}


def test_without_verify_only_the_lengths_are_checked(small):
    path, data = small
    path.write_bytes(data.replace(b"third", b"THIRD"))
    source = TFRecordSource(path, verify=False)
    assert source.read(np.array([2])).tolist() == [b"the THIRD, a longer one"]
    os.utime(path, ns=(1, 1))  # no longer what was indexed, so that its lengths may have moved
    with pytest.raises(BadRecords, match=r"record 2: its checksum is wrong"):
        source.read(np.array([1, 2]))


def test_records_that_do_not_parse_are_each_named_wherever_they_are(tmp_path):
    records = [example(i) for i in range(40)]
    records[3] = b"no example at all"
    records[4] = b"\x0a\xff"
    records[17] = example(17, label=None)
    records[18] = example(18, x=[1, 2, 3])
    records[39] = example(39, label=[1, 2])
    path = write_tfrecord(tmp_path / "a", records[:20])
    other = write_tfrecord(tmp_path / "b", records[20:])
    order = np.random.default_rng(0).permutation(40)
    source = TFRecordSource([path, other], PARSE)
    with pytest.raises(BadRecords) as raised:
        source.read(order)
    found = {order[bad.position]: bad for bad in raised.value.found}
    assert [(number, found[number].file, found[number].record) for number in sorted(found)] == [
        (3, path, 3),
        (4, path, 4),
        (17, path, 17),
        (18, path, 18),
        (39, other, 19),
    ]
    reasons = [found[number].reason.split(" (it begins")[0] for number in sorted(found)]
    assert reasons == [
        "it is not a serialized tf.train.Example",
        "it is not a serialized tf.train.Example",
        "it has no feature 'label'",
        "its feature 'x' is a int64_list, not a float_list",
        "its feature 'label' has 2 values, not 1",
    ]
    good = np.setdiff1d(order, list(found))
    assert_batch(TFRecordSource([path, other], PARSE, labels="label").read(good), good)


def test_what_only_tensorflow_can_tell_is_found_by_halving(tmp_path, monkeypatch):
    monkeypatch.setattr("tfbig.data.sources.examples._mismatch", lambda record, features: "")
    records = [example(i) for i in range(9)]
    records[5] = example(5, label=None)
    source = TFRecordSource(write_tfrecord(tmp_path / "a", records), PARSE)
    with pytest.raises(BadRecords, match=r"record 5: .*Feature: label .* is required") as raised:
        source.read(np.arange(9)[::-1])
    assert [(bad.record, bad.position) for bad in raised.value.found] == [(5, 3)]


def test_a_feature_with_a_default_may_be_missing(tmp_path):
    parse = {**PARSE, "label": tf.io.FixedLenFeature([], tf.int64, 5)}
    records = [example(0), example(1, label=None), example(2, x=[1.0])]
    source = TFRecordSource(write_tfrecord(tmp_path / "a", records), parse)
    assert source.read(np.arange(2))["label"].tolist() == [0, 5]
    assert list(find_bad_records(source)) == [2]


def test_a_function_that_refuses_a_record_with_a_value_error_names_it(tmp_path):
    path = write_tfrecord(tmp_path / "a", [b"1", b"2", b"x", b"4"])
    source = TFRecordSource(path, lambda records: np.array([int(r) for r in records]))
    with pytest.raises(BadRecords, match=r"record 2: it cannot be parsed: invalid literal for int"):
        source.read(np.array([3, 2, 0]))
    np.testing.assert_array_equal(source.read(np.array([3, 0])), [4, 1])


def test_an_error_of_the_function_itself_is_not_blamed_on_records(tmp_path):
    path = write_tfrecord(tmp_path / "a", [b"1", b"22"])
    source = TFRecordSource(path, lambda records: records.no_such_name, on_bad_record="skip")
    with pytest.raises(AttributeError, match="no_such_name"):
        source.read(np.arange(2))

    def stacked(records):  # each alone is good, together they are not
        return np.stack([np.frombuffer(record, np.uint8) for record in records])

    source = TFRecordSource(path, stacked, on_bad_record="skip")
    with pytest.raises(ValueError, match="must have the same shape"):
        source.read(np.arange(2))


def test_left_out_records_are_counted_and_listed_once(tmp_path):
    records = [example(i) for i in range(10)]
    records[4] = b"\x0a\xff"
    path = tmp_path / "a.tfrecord"
    starts = tfrecord_starts((write_tfrecord(path, records), path.read_bytes())[1])
    data = bytearray(path.read_bytes()[:-1])
    data[starts[6] + 20] ^= 1
    path.write_bytes(data)
    source = TFRecordSource(path, PARSE, labels="label", on_bad_record="skip")
    assert len(source) == 9  # the last one is cut
    for _ in range(2):
        batch, kept = bad_records.read_good(source, np.arange(9))
        assert_batch(batch, [0, 1, 2, 3, 5, 7, 8])
        assert np.flatnonzero(~kept).tolist() == [4, 6]
    lines = [json.loads(x) for x in open(f"{path}.quarantine.jsonl", encoding="utf-8")]
    assert sorted((line["file"], line["record"]) for line in lines) == [
        (str(path), 4),
        (str(path), 6),
        (str(path), 9),
    ]


def test_every_damaged_file_is_in_the_report(tmp_path):
    for name, data in (("a", b""), ("b", b"\x01"), ("d", bytes(40))):
        (tmp_path / name).write_bytes(data)
    write_tfrecord(tmp_path / "c", [b"good"])
    found = found_at_once(tmp_path / "*")
    assert [(os.path.basename(bad.file), bad.record) for bad in found] == [
        ("a", None),
        ("b", 0),
        ("d", 0),
    ]


def test_a_compressed_file_is_said_to_be_one(tmp_path):
    path = str(tmp_path / "a.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
        writer.write(b"data")
    assert "it looks like a gzip file: decompress it" in found_at_once(path)[0].reason


def test_a_file_that_is_gone_or_shorter_than_it_was_is_reported_by_record(tmp_path):
    gone = write_tfrecord(tmp_path / "a", map(example, range(5)))
    short = write_tfrecord(tmp_path / "b", map(example, range(5, 10)))
    source = TFRecordSource([gone, short], PARSE, labels="label")
    assert_batch(source.read(np.arange(10)), range(10))
    os.unlink(gone)
    with open(short, "rb+") as file:
        ends = tfrecord_starts(file.read())
        file.truncate(ends[3] + 1)
    with pytest.raises(BadRecords) as raised:
        source.read(np.array([9, 1, 7, 8, 0]))
    shrunk = f"the file has shrunk to {ends[3] + 1} bytes (it begins at byte {{}})"
    assert raised.value.found == [
        (short, 4, shrunk.format(ends[4]), 0),
        (gone, 1, f"the file no longer exists (it begins at byte {ends[1]})", 1),
        (short, 3, shrunk.format(ends[3]), 3),
        (gone, 0, "the file no longer exists (it begins at byte 0)", 4),
    ]
    assert_batch(source.read(np.array([7, 5])), [7, 5])
    os.truncate(short, 0)
    with pytest.raises(BadRecords, match=r"record 2: the file has shrunk to 0 bytes"):
        source.read(np.array([7]))


def test_a_file_replaced_while_it_is_read_is_found_by_its_checksums(tmp_path):
    path = write_tfrecord(tmp_path / "a", [b"one", b"two", b"six"])
    source = TFRecordSource(path, verify=False)
    assert source.read(np.array([2])).tolist() == [b"six"]
    os.replace(write_tfrecord(tmp_path / "b", [b"twelve", b"ten", b"four"]), path)
    with pytest.raises(BadRecords) as raised:
        source.read(np.arange(3))
    assert [bad.record for bad in raised.value.found] == [0, 1, 2]


def test_a_file_far_away_that_is_gone_or_shorter_is_reported_by_record(tmp_path, monkeypatch):
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    path = write_tfrecord(tmp_path / "a", map(example, range(5)))
    with open(path, "rb") as file:
        data = file.read()
    with far_folder() as (memory, folder):
        memory.pipe(f"{folder}/a", data)
        source = TFRecordSource(f"{folder}/a", PARSE, labels="label")
        memory.pipe(f"{folder}/a", data[:-1])
        with pytest.raises(BadRecords, match=rf"^{folder}/a, record 4: .* has shrunk to"):
            source.read(np.arange(5))
        assert_batch(source.read(np.arange(4)), range(4))
        memory.rm(f"{folder}/a")
        with pytest.raises(
            BadRecords, match=r"record 1: the file no longer exists .*\(and 1 more\)"
        ):
            source.read(np.array([1, 3]))
