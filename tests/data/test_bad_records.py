"""Bad records: errors that name them, or a quarantine file and a count."""

import json
import logging
import threading

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tfbig.data import ArraySource, BadRecord, BadRecords, Source, find_bad_records
from tfbig.data.bad_records import (
    Quarantine,
    concatenate_batches,
    make_quarantine,
    read_good,
    report_bad,
)
from tfbig.errors import UserError


class Numbers(Source):
    """Its examples are their own numbers; some records are bad, of which it finds a few a time.

    Args:
        length: number of examples.
        bad: numbers of the bad ones.
        quarantine: where they go, None for errors.
        at_once: how many of the bad ones one read reports.
    """

    def __init__(self, length, bad, quarantine=None, at_once=10**9):
        self.length, self.bad, self.quarantine, self.at_once = length, bad, quarantine, at_once

    def __len__(self):
        return self.length

    def read(self, indices):
        positions = np.flatnonzero(np.isin(indices, list(self.bad)))[: self.at_once]
        if len(positions):
            raise BadRecords(
                [BadRecord("data.bin", int(indices[p]), "torn", int(p)) for p in positions],
                self.quarantine,
            )
        return {"x": indices.copy()}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_bad_record_is_shown_with_its_file_its_number_and_the_reason():
    assert str(BadRecord("a.csv", 3, "2 fields of 4", 0)) == "a.csv, record 3: 2 fields of 4"
    assert str(BadRecord("a.csv", None, "it is empty")) == "a.csv: it is empty"


def test_the_error_names_the_first_counts_the_rest_and_says_what_to_write():
    bad = [BadRecord("a", n, "torn") for n in range(3)]
    rest = 'Repair the data, or skip such records with on_bad_record="skip".'
    assert str(BadRecords(bad[:1])) == f"a, record 0: torn. {rest}"
    assert str(BadRecords(bad)) == f"a, record 0: torn (and 2 more). {rest}"
    assert isinstance(BadRecords(bad), UserError)


def test_positions_are_moved_to_those_of_an_outer_read(tmp_path):
    quarantine = Quarantine(tmp_path / "q")
    inner = BadRecords([BadRecord("a", 7, "torn", 1), BadRecord("a", None, "gone")], quarantine)
    outer = inner.at(np.array([5, 9]))
    assert outer.found == [BadRecord("a", 7, "torn", 9), BadRecord("a", None, "gone", None)]
    assert outer.quarantine is quarantine
    assert inner.found[0].position == 1
    assert type(outer.found[0].position) is int


def test_a_quarantine_writes_each_record_once_and_counts_it(tmp_path, caplog):
    path = tmp_path / "new" / "folder" / "q.jsonl"
    quarantine = Quarantine(path)
    assert (quarantine.count, path.parent.exists()) == (0, False)
    with caplog.at_level(logging.WARNING, "tfbig"):
        quarantine.add([BadRecord("é.csv", 3, 'a "quoted"\nreason', 0)])
        quarantine.add([BadRecord("é.csv", 3, "seen again", 8), BadRecord("b.csv", 3, "torn", 2)])
        quarantine.add([BadRecord("b.csv", None, "it is empty")])
        quarantine.add([])
    assert quarantine.count == 3
    assert lines(path) == [
        {"file": "é.csv", "record": 3, "reason": 'a "quoted"\nreason'},
        {"file": "b.csv", "record": 3, "reason": "torn"},
        {"file": "b.csv", "record": None, "reason": "it is empty"},
    ]
    assert len(caplog.messages) == 1
    assert str(path) in caplog.messages[0]


def test_a_record_that_is_found_twice_at_once_is_written_once(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl")
    quarantine.add([BadRecord("a", 3, "torn", 0), BadRecord("a", 3, "torn", 5)])
    assert (quarantine.count, len(lines(tmp_path / "q.jsonl"))) == (1, 1)


def test_records_of_numpy_numbers_and_odd_file_names_can_be_written(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl")
    quarantine.add([BadRecord("a\udcff.png", np.int64(3), "torn", 0)])
    assert lines(tmp_path / "q.jsonl") == [{"file": "a\udcff.png", "record": 3, "reason": "torn"}]
    assert str(BadRecord("a\udcff.png", 3, "torn")) == "a\\udcff.png, record 3: torn"


def test_threads_share_a_quarantine(tmp_path):
    quarantine = Quarantine(tmp_path / "q.jsonl")

    def add():
        for n in range(100):
            quarantine.add([BadRecord("a", n, "torn")])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert quarantine.count == 100
    assert sorted(line["record"] for line in lines(tmp_path / "q.jsonl")) == list(range(100))


def test_a_quarantine_is_asked_for_by_skip_and_lies_beside_the_data(tmp_path):
    data = str(tmp_path / "data.csv")
    assert make_quarantine("error", None, data) is None
    assert make_quarantine("skip", None, data).path == data + ".quarantine.jsonl"
    assert make_quarantine("skip", tmp_path / "q", data).path == str(tmp_path / "q")


def test_a_quarantine_of_data_far_away_lies_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path))
    path = make_quarantine("skip", None, "gs://bucket/data.csv").path
    assert path.startswith(str(tmp_path))
    assert path.endswith("-data.csv.quarantine.jsonl")


def test_arguments_that_would_be_ignored_are_refused():
    with pytest.raises(UserError, match=r'^on_bad_record=\'ignore\': expected "error" or "skip"'):
        make_quarantine("ignore", None, "d")
    with pytest.raises(
        UserError, match=r"^quarantine='q' is only used with on_bad_record=\"skip\""
    ):
        make_quarantine("error", "q", "d")
    with pytest.raises(UserError, match=r"^quarantine='gs://b/q': .* pass a local path\.$"):
        make_quarantine("skip", "gs://b/q", "d")


def test_what_is_found_while_a_source_is_made_is_raised_or_written(tmp_path):
    bad = [BadRecord("a", 1, "torn")]
    report_bad([], None)
    with pytest.raises(BadRecords, match=r"^a, record 1: torn\."):
        report_bad(bad, None)
    quarantine = Quarantine(tmp_path / "q.jsonl")
    report_bad(bad, quarantine)
    assert quarantine.count == 1


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.integers(0, 11), max_size=40),
    st.sets(st.integers(0, 11)),
    st.integers(1, 4),
)
def test_good_examples_are_read_and_bad_ones_are_accounted_for(
    tmp_path_factory, indices, bad, at_once
):
    quarantine = Quarantine(tmp_path_factory.mktemp("q") / "q.jsonl")
    source = Numbers(12, bad, quarantine, at_once)
    used = set()
    batch, kept = read_good(source, np.array(indices, np.int64), used)
    good = [n for n in indices if n not in bad]
    assert kept.tolist() == [n not in bad for n in indices]
    assert ([] if batch is None else batch["x"].tolist()) == good
    assert (batch is None) == (not good)
    assert quarantine.count == len(set(indices) & bad)
    assert used == ({quarantine} if set(indices) & bad else set())


def test_bad_records_are_raised_where_they_may_not_be_left_out(tmp_path):
    with pytest.raises(BadRecords, match=r"^data\.bin, record 4: torn\."):
        read_good(Numbers(9, {4}), np.arange(9))

    class Gone(Numbers):
        def read(self, indices):
            raise BadRecords([BadRecord("data.bin", None, "it is gone")], self.quarantine)

    quarantine = Quarantine(tmp_path / "q.jsonl")
    for read in (lambda s: read_good(s, np.arange(9)), find_bad_records):
        with pytest.raises(BadRecords, match=r"^data\.bin: it is gone\."):
            read(Gone(9, (), quarantine))
    assert quarantine.count == 0


@pytest.mark.parametrize("chunk", [1, 4, 1024])
@pytest.mark.parametrize("at_once", [1, 100])
def test_all_bad_records_of_a_source_are_found_and_nothing_is_written(tmp_path, chunk, at_once):
    quarantine = Quarantine(tmp_path / "q.jsonl")
    source = Numbers(11, {0, 5, 6, 10}, quarantine, at_once)
    bad = find_bad_records(source, chunk)
    assert {n: b.record for n, b in bad.items()} == {0: 0, 5: 5, 6: 6, 10: 10}
    assert (quarantine.count, list(tmp_path.iterdir())) == (0, [])
    good = source.select(np.setdiff1d(np.arange(11), list(bad)))
    assert good.read(np.arange(7))["x"].tolist() == [1, 2, 3, 4, 7, 8, 9]
    assert find_bad_records(ArraySource(np.arange(3))) == {}


def test_bad_records_keep_their_positions_through_select_and_map():
    source = Numbers(10, {2, 7}).select([9, 7, 2, 1]).map(lambda batch: batch["x"] * 10)
    with pytest.raises(BadRecords) as error:
        source.read(np.array([3, 1, 0, 1, 2]))
    assert [(b.record, b.position) for b in error.value.found] == [(7, 1), (7, 3), (2, 4)]
    assert set(find_bad_records(source)) == {1, 2}


def test_a_specification_is_that_of_the_first_good_example(tmp_path):
    source = Numbers(5, {0, 1}, Quarantine(tmp_path / "q.jsonl"))
    assert source.element_spec["x"].dtype == np.int64
    assert source.quarantine.count == 2
    with pytest.raises(BadRecords, match="record 0"):
        _ = Numbers(5, {0, 1}).element_spec
    with pytest.raises(
        UserError, match=r"^Numbers: the first 2 of 2 records are all bad; repair the data"
    ):
        _ = Numbers(2, {0, 1}, Quarantine(tmp_path / "r.jsonl")).element_spec


def test_batches_are_put_one_after_the_other():
    a, b = {"x": np.array([1, 2])}, {"x": np.array([3])}
    assert concatenate_batches([a, b])["x"].tolist() == [1, 2, 3]
    assert concatenate_batches([a]) is a


def test_another_run_does_not_write_the_same_records_again(tmp_path):
    path = tmp_path / "q.jsonl"
    Quarantine(path).add([BadRecord("a", 1, "torn"), BadRecord("a", 2, "torn")])
    later = Quarantine(path)
    later.add([BadRecord("a", 2, "torn")])
    later.add([BadRecord("a", 1, "torn"), BadRecord("b", 1, "torn")])
    assert later.count == 3
    assert [(line["file"], line["record"]) for line in lines(path)] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
    ]
