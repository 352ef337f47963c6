"""Leaks: examples, groups and copies that are in two parts of a split."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from tfbig.data import ArraySource, BadRecord, BadRecords, Source
from tfbig.data.bad_records import Quarantine
from tfbig.data.splitting import Split, check_leaks
from tfbig.errors import UserError


class Broken(Source):
    """Ten different examples and ten copies of them; one record is bad."""

    def __init__(self, bad, quarantine=None):
        self.bad, self.quarantine, self.asked = bad, quarantine, []

    def __len__(self):
        return 20

    def read(self, indices):
        self.asked.append(len(indices))
        found = [BadRecord("f", self.bad, "torn", p) for p in np.flatnonzero(indices == self.bad)]
        if found:
            raise BadRecords(found, self.quarantine)
        return indices % 10


FIRST_HALF = Split(train=np.arange(10), test=np.arange(10, 20))


def test_a_split_without_leaks_is_clean():
    report = check_leaks(Split([0, 1], [2], [3]), groups=["a", "a", "b", "c"], examples=np.eye(4))
    assert report.clean
    assert str(report) == "no leaks"
    assert report.duplicates.shape == report.groups.shape == report.overlaps.shape == (0, 2)


def test_numbers_in_two_parts_are_found_and_not_called_copies_of_themselves():
    report = check_leaks(
        Split([0, 1, 2], [2, 3], [3, 1, 4]), groups=np.arange(5), examples=np.eye(5)
    )
    assert report.overlaps.tolist() == [[2, 2], [1, 1], [3, 3]]
    assert (len(report.groups), len(report.duplicates)) == (0, 0)
    assert not report.clean


def test_groups_in_two_parts_are_found_with_their_first_example_in_the_earlier_part():
    report = check_leaks(Split([0, 1], [2, 3], [4, 5]), groups=["a", "b", "b", "c", "c", "d"])
    assert report.groups.tolist() == [[2, 1], [4, 3]]
    assert str(report) == "2 examples belong to a group of an earlier part: 2 (1), 4 (3)"


def test_copies_inside_one_part_are_no_leak():
    assert check_leaks(Split([0, 1, 2], test=[3]), examples=np.array([5, 5, 5, 6])).clean


def test_copies_with_another_label_are_found():
    features = {"x": np.array([[1.0], [2.0], [1.0]]), "s": np.array(["a", "b", "a"], object)}
    split = Split([0, 1], test=[2])
    assert check_leaks(split, examples=(features, np.array([0, 0, 1]))).duplicates.tolist() == [
        [2, 0]
    ]
    features["s"][2] = "A"
    assert check_leaks(split, examples=(features, np.array([0, 0, 1]))).clean


def test_strings_are_compared_one_by_one():
    words = np.array([["ab", "c"], ["a", "bc"], ["é", b"c"], ["é".encode(), "c"]], object)
    assert check_leaks(Split([0], test=[1]), examples=words).clean
    assert check_leaks(Split([2], test=[3]), examples=words).duplicates.tolist() == [[3, 2]]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 15), min_size=2, max_size=40),
    st.integers(1, 50),
    st.randoms(use_true_random=False),
)
def test_every_copy_across_parts_is_found_and_leaving_them_out_mends_the_split(
    values, chunk, random
):
    parts = np.array([random.randrange(3) for _ in values])
    split = Split(*(np.flatnonzero(parts == part) for part in range(3)))
    report = check_leaks(split, examples=np.array(values), chunk=chunk)
    expected = [
        number
        for number, value in enumerate(values)
        if any(v == value and p < parts[number] for v, p in zip(values, parts, strict=True))
    ]
    assert sorted(report.duplicates[:, 0].tolist()) == expected
    for late, early in report.duplicates.tolist():
        assert values[late] == values[early]
        assert parts[late] > parts[early]
    mended = Split(*(np.setdiff1d(p, report.duplicates[:, 0]) for p in vars(split).values()))
    assert check_leaks(mended, examples=np.array(values)).clean


def test_a_source_is_read_in_chunks():
    source = Broken(bad=None)
    assert check_leaks(FIRST_HALF, examples=source, chunk=8).duplicates.tolist() == [
        [10 + n, n] for n in range(10)
    ]
    assert source.asked == [8, 8, 4]


def test_bad_records_are_left_out_or_raised_as_the_source_says(tmp_path):
    quarantine = Quarantine(tmp_path / "bad.jsonl")
    report = check_leaks(FIRST_HALF, examples=Broken(3, quarantine))
    assert len(report.duplicates) == 9
    assert 13 not in report.duplicates
    assert quarantine.count == 1
    with pytest.raises(BadRecords, match=r"^f, record 3: torn\."):
        check_leaks(FIRST_HALF, examples=Broken(3))


def test_leaks_can_raise_an_error_that_names_the_first_of_them():
    groups = np.arange(20) % 10
    with pytest.raises(
        UserError,
        match=r"^the split leaks: 10 examples belong to a group of an earlier part: "
        r"10 \(0\), 11 \(1\), 12 \(2\), 13 \(3\), 14 \(4\), …\. Remove these",
    ):
        check_leaks(FIRST_HALF, groups=groups, raise_on_leak=True)


def test_groups_and_examples_of_other_data_are_refused():
    with pytest.raises(UserError, match=r"has example 19, but there are 19 groups;"):
        check_leaks(FIRST_HALF, groups=np.arange(19))
    with pytest.raises(UserError, match=r"has example 15, but there are 15 examples;"):
        check_leaks(FIRST_HALF, examples=ArraySource(np.arange(15)))
