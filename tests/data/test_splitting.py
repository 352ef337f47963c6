"""Splits: each example in one part, in its share, with no group or time in two."""

import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

from tfbig.data import ArraySource, splitting
from tfbig.data.splitting import Split
from tfbig.errors import UserError

SEEDS = st.integers(-(2**70), 2**70)
FRACTIONS = st.one_of(
    st.integers(1, 99).map(lambda a: (a / 100, 1 - a / 100)),
    st.tuples(st.integers(1, 50), st.integers(0, 25), st.integers(0, 24)).map(
        lambda w: tuple(part / sum(w) for part in w)
    ),
)
properties = settings(deadline=None, max_examples=150)


def parts_of(split, length):
    """The part of each example, after a check that each is in one, and in increasing order."""
    parts = np.full(length, -1)
    for number, part in enumerate((split.train, split.validation, split.test)):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
        assert (parts[part] == -1).all()
        parts[part] = number
    assert (parts >= 0).all()
    return parts


def three(fractions):
    return np.array(fractions if len(fractions) == 3 else (fractions[0], 0, fractions[1]))


def same(a, b):
    return all(
        np.array_equal(getattr(a, n), getattr(b, n)) for n in ("train", "validation", "test")
    )


@properties
@given(st.integers(3, 500), FRACTIONS, SEEDS)
def test_fractions_put_each_example_in_one_part_and_leave_none_empty(length, fractions, seed):
    split = splitting.by_fraction(length, fractions, seed)
    counts = np.bincount(parts_of(split, length), minlength=3)
    exact = three(fractions) * length
    assert ((counts > 0) == (exact > 0)).all()
    assert (np.abs(counts - np.maximum(exact, exact > 0)) <= 2).all()
    assert same(split, splitting.by_fraction(length, fractions, seed))


def test_fractions_are_exact_where_they_can_be_and_the_seed_draws_the_examples():
    splits = [splitting.by_fraction(1000, (0.7, 0.2, 0.1), seed) for seed in range(200)]
    assert {(len(s.train), len(s.validation), len(s.test)) for s in splits} == {(700, 200, 100)}
    in_test = np.bincount(np.concatenate([s.test for s in splits]), minlength=1000)
    assert abs(in_test.mean() - 20) < 1e-9
    assert 0.8 < in_test.var() / 18 < 1.2  # binomial: 200 draws of 0.1


def test_a_split_does_not_change_with_the_versions_of_libraries():
    assert splitting.by_fraction(20, (0.6, 0.2, 0.2), 1).test.tolist() == TEST_BY_FRACTION
    labels = [0, 1] * 10
    assert splitting.stratified(labels, (0.6, 0.2, 0.2), 1).test.tolist() == TEST_STRATIFIED
    groups = np.arange(20) // 2
    assert splitting.by_group(groups, (0.6, 0.2, 0.2), 1).test.tolist() == TEST_BY_GROUP
    assert splitting.by_hash(np.arange(20), (0.6, 0.2, 0.2)).test.tolist() == TEST_BY_INTEGER
    names = [f"{n}.png" for n in range(20)]
    assert splitting.by_hash(names, (0.6, 0.2, 0.2)).test.tolist() == TEST_BY_NAME
    assert splitting.folds(20, 4, seed=1)[0].test.tolist() == TEST_FOLD


TEST_BY_FRACTION = [8, 17, 18, 19]
TEST_STRATIFIED = [2, 11, 13, 16]
TEST_BY_GROUP = [10, 11, 14, 15]
TEST_BY_INTEGER = [0, 4]
TEST_BY_NAME = [2, 14, 17]
TEST_FOLD = [1, 6, 14, 15, 18]


@properties
@given(st.lists(st.integers(3, 60), min_size=1, max_size=8), FRACTIONS, SEEDS)
def test_every_part_has_every_class_in_its_share(sizes, fractions, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = splitting.stratified(labels, fractions, seed)
    parts = parts_of(split, len(labels))
    for label, size in enumerate(sizes):
        counts = np.bincount(parts[labels == label], minlength=3)
        assert (np.abs(counts - three(fractions) * size) < 1).all()
    totals = np.bincount(parts, minlength=3)
    assert (np.abs(totals - three(fractions) * len(labels)) <= 2).all()


def test_what_classes_leave_over_goes_where_most_is_owed():
    split = splitting.stratified(np.repeat(np.arange(100), 5), (0.8, 0.1, 0.1))
    assert (len(split.train), len(split.validation), len(split.test)) == (400, 50, 50)


@pytest.mark.parametrize(
    "labels",
    [["cat", "dog"] * 10, np.array([b"cat", b"dog"] * 10), pd.Series([1.5, 2.5] * 10)],
)
def test_classes_may_be_strings_bytes_and_numbers(labels):
    split = splitting.stratified(labels, (0.5, 0.5))
    assert (len(split.train), np.count_nonzero(split.train % 2)) == (10, 5)
    column = np.asarray(labels).reshape(-1, 1)
    assert same(split, splitting.stratified(column, (0.5, 0.5)))


def test_a_class_of_fewer_examples_than_parts_is_an_error_or_trained_on():
    labels = ["a"] * 20 + ["b"] * 2 + ["c"]
    with pytest.raises(UserError, match=r"class 'b' has 2, 'c' has 1, fewer than the 3 parts\."):
        splitting.stratified(labels)
    split = splitting.stratified(labels, rare="train")
    assert set(split.train) >= {20, 21, 22}
    with pytest.raises(UserError, match=r"^rare='drop': expected"):
        splitting.stratified(labels, rare="drop")


@properties
@given(st.lists(st.integers(0, 12), min_size=20, max_size=200), FRACTIONS, SEEDS)
def test_no_group_is_in_two_parts_and_parts_are_off_by_a_group_at_most(groups, fractions, seed):
    groups = np.array([*groups, 20, 21, 22])
    split = splitting.by_group(groups, fractions, seed)
    parts = parts_of(split, len(groups))
    assert all(len(set(parts[groups == g])) == 1 for g in groups)
    largest = np.bincount(groups).max()
    counts = np.bincount(parts, minlength=3)
    exact = three(fractions) * len(groups)
    assert ((counts > 0) == (exact > 0)).all()
    assert (np.abs(counts - exact) <= 2 * largest).all()
    assert splitting.check_leaks(split, groups=groups).clean


def test_the_seed_draws_the_groups():
    groups = np.repeat(np.arange(10), 3)
    drawn = {tuple(splitting.by_group(groups, (0.9, 0.1), seed).test) for seed in range(200)}
    assert drawn == {(3 * g, 3 * g + 1, 3 * g + 2) for g in range(10)}


@properties
@given(st.lists(st.integers(-5, 30), min_size=5, max_size=200), FRACTIONS)
def test_older_examples_come_first_and_no_time_is_in_two_parts(times, fractions):
    times = np.array([*times, 40, 41, 42])
    parts = parts_of(splitting.by_time(times, fractions), len(times))
    ordered = parts[np.argsort(times, kind="stable")]
    assert (np.diff(ordered) >= 0).all()
    assert all(len(set(parts[times == t])) == 1 for t in times)
    assert set(parts) == set(np.flatnonzero(three(fractions)))


def test_times_may_be_dates_of_any_kind():
    days = np.array(["2020-03-01", "2020-01-01", "2020-02-01", "2020-04-01"], "datetime64[D]")
    dates = [datetime.datetime(2020, month, 1) for month in (3, 1, 2, 4)]
    aware = pd.Series(pd.to_datetime(dates)).dt.tz_localize("Europe/Berlin")
    for times in (days, dates, [d.date() for d in dates], pd.Series(dates), aware, [3.0, 1, 2, 4]):
        split = splitting.by_time(times, (0.5, 0.25, 0.25))
        parts = (split.train.tolist(), split.validation.tolist(), split.test.tolist())
        assert parts == ([1, 2], [0], [3])


def test_times_that_are_strings_or_missing_are_refused():
    with pytest.raises(UserError, match=r"strings, .* pass pandas\.to_datetime\(times\)\.$"):
        splitting.by_time(["2020-03-01", "1/4/2020", "x"])
    for times in ([1.0, np.nan, 3.0], np.array(["2020-01-01", "NaT"], "datetime64[D]")):
        with pytest.raises(UserError, match=r"^by_time: example 1 has no time \(NaN or NaT\)"):
            splitting.by_time(times)


KEYS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.lists(st.text(), min_size=1),
    st.lists(st.binary(), min_size=1),
)


@properties
@given(KEYS, st.data(), st.text(max_size=5))
def test_an_example_keeps_its_part_when_rows_are_added_and_moved(keys, data, salt):
    more = data.draw(st.lists(st.sampled_from(keys)))
    kind = object if isinstance(keys[0], (str, bytes)) else np.int64
    before = parts_of(splitting.by_hash(np.array(keys, kind), salt=salt), len(keys))
    after = splitting.by_hash(np.array(more + keys, kind), salt=salt)
    after = parts_of(after, len(more) + len(keys))
    np.testing.assert_array_equal(after[len(more) :], before)
    known = dict(zip(keys, before, strict=True))
    assert [known[key] for key in more] == after[: len(more)].tolist()


def test_a_hash_gives_the_fractions_on_average_and_a_salt_gives_another_split():
    numbers = np.arange(100_000)
    for keys in (numbers, numbers.astype(str), numbers << 40):
        sizes = [len(p) for p in vars(splitting.by_hash(keys, (0.7, 0.2, 0.1))).values()]
        np.testing.assert_allclose(sizes, [70_000, 20_000, 10_000], atol=600)
    first, second = (splitting.by_hash(numbers, (0.5, 0.5), salt=salt) for salt in "ab")
    assert abs(len(np.intersect1d(first.train, second.train)) - 25_000) < 700


def test_a_larger_training_fraction_keeps_what_was_trained_on():
    small, large = (splitting.by_hash(np.arange(1000), (f, 1 - f)) for f in (0.5, 0.6))
    assert set(small.train) < set(large.train)


def test_the_width_of_integers_and_the_kind_of_strings_do_not_matter():
    numbers = np.arange(100)
    names = [str(n) for n in numbers]
    for a, b in (
        (numbers, numbers.astype(np.uint8)),
        (names, np.array(names, "S")),
        (names, pd.Series(names)),
        (names, np.array(names, np.dtypes.StringDType())),
    ):
        assert same(splitting.by_hash(a), splitting.by_hash(b))


def test_keys_that_are_no_integers_or_strings_are_refused():
    with pytest.raises(UserError, match=r"keys are float64; pass integers, strings or bytes\.$"):
        splitting.by_hash([1.5, 2.5])
    with pytest.raises(UserError, match=r"^by_hash: key 1 is None;"):
        splitting.by_hash(np.array(["a", None], object))


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.8, 0.3), r"sum to 1\.1;"),
        ((0.8, 0.1, 0.05, 0.05), r"expected \(train, test\) or"),
        ((1.2, -0.2), r"0 or more"),
        ((0, 1), r"train above 0"),
        (0.8, r"expected \(train, test\)"),
        ("80", r"expected \(train, test\)"),
        ((float("nan"), 0.5), r"0 or more"),
    ],
)
def test_fractions_that_do_not_split_are_refused(fractions, message):
    for split in (splitting.stratified, splitting.by_group, splitting.by_time, splitting.by_hash):
        with pytest.raises(UserError, match=message):
            split(np.arange(9) // 3, fractions)
    with pytest.raises(UserError, match=message):
        splitting.by_fraction(10, fractions)


def test_data_that_cannot_fill_the_parts_are_refused():
    with pytest.raises(UserError, match=r"^2 examples cannot fill 3 parts;"):
        splitting.by_fraction(2)
    with pytest.raises(UserError, match=r"^2 groups cannot fill 3 parts;"):
        splitting.by_group([7] * 50 + [8])
    with pytest.raises(UserError, match=r"^1 different times cannot fill 2 parts;"):
        splitting.by_time([5, 5, 5], (0.5, 0.5))
    assert splitting.by_fraction(2, (1, 0)).train.tolist() == [0, 1]


def test_labels_and_groups_of_a_wrong_shape_or_missing_are_refused():
    with pytest.raises(UserError, match=r"\[4, 4\]; expected \[n\].* labels\.argmax\(axis=1\)\.$"):
        splitting.stratified(np.eye(4))
    with pytest.raises(
        UserError, match=r"^groups: the value of example 1 is missing \(NaN or None\)"
    ):
        splitting.by_group(["a", None, "b"], (0.5, 0.5))
    with pytest.raises(UserError, match=r"^there are 3 groups for 4 examples;"):
        splitting.folds(4, 2, groups=[1, 2, 3])
    with pytest.raises(UserError, match=r"^seed=0\.5: expected an integer\.$"):
        splitting.by_fraction(10, seed=0.5)
    with pytest.raises(UserError, match=r"^Split: test is float64 of shape \[1\]"):
        Split([0], test=[0.5])
    with pytest.raises(
        UserError, match=r"^labels are a dict \('kind', 'size'\).* labels\['kind'\]\.$"
    ):
        splitting.stratified({"kind": [0, 1], "size": [0, 1]}, (0.5, 0.5))


def test_a_split_selects_from_a_source_without_copying():
    source = ArraySource((np.arange(30), np.arange(30) % 3)).batch(4)
    split = splitting.stratified(np.arange(30) % 3, (0.8, 0.2))
    train, test = source.select(split.train), source.select(split.test)
    assert (len(train), len(test), len(source.select(split.validation))) == (24, 6, 0)
    np.testing.assert_array_equal(train.read(np.arange(24))[0], split.train)
    assert repr(split) == "Split(train: 24, validation: 0, test: 6)"


@properties
@given(st.integers(2, 60), st.integers(2, 8), SEEDS)
def test_folds_test_each_example_once_and_are_of_one_size(length, k, seed):
    k = min(k, length)
    splits = splitting.folds(length, k, seed=seed)
    sizes = [len(s.test) for s in splits]
    assert (len(splits), max(sizes) - min(sizes) <= 1) == (k, True)
    tested = np.concatenate([s.test for s in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(length))
    for split in splits:
        assert set(parts_of(split, length)) == {0, 2}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(4, 20), min_size=1, max_size=5), SEEDS)
def test_folds_with_labels_have_every_class_in_its_share(sizes, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    splits = splitting.folds(len(labels), 4, labels=labels.astype(str), seed=seed)
    tested = np.concatenate([s.test for s in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(labels)))
    for split in splits:
        counts = np.bincount(labels[split.test], minlength=len(sizes))
        assert (np.abs(counts - np.array(sizes) / 4) < 1).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=20, max_size=80), st.booleans(), SEEDS)
def test_folds_with_groups_have_each_group_in_one_fold(groups, with_labels, seed):
    groups = np.array([*groups, 10, 11, 12])
    labels = np.arange(len(groups)) % 2 if with_labels else None
    splits = splitting.folds(len(groups), 3, labels=labels, groups=groups, seed=seed)
    fold = np.full(len(groups), -1)
    for number, split in enumerate(splits):
        fold[split.test] = number
        assert not set(groups[split.train]) & set(groups[split.test])
    assert all(len(set(fold[groups == g])) == 1 for g in groups)
    assert (fold >= 0).all()


@pytest.mark.parametrize("labels", [None, np.arange(60) % 3])
@pytest.mark.parametrize("groups", [None, np.arange(60) // 4])
def test_the_seed_draws_the_folds_and_nothing_else_does(labels, groups):
    a, b, c = (
        [s.test.tolist() for s in splitting.folds(60, 5, labels=labels, groups=groups, seed=seed)]
        for seed in (3, 3, 4)
    )
    assert a == b != c


def test_folds_that_cannot_be_filled_are_refused():
    with pytest.raises(UserError, match=r"^folds: 3 examples cannot fill 5 folds;"):
        splitting.folds(3)
    with pytest.raises(UserError, match=r"^folds: 2 groups cannot fill 3 folds;"):
        splitting.folds(10, 3, groups=[0, 1] * 5)
    with pytest.raises(UserError, match=r"class 'b' has 2, fewer than the 3 folds\."):
        splitting.folds(10, 3, labels=["a"] * 8 + ["b"] * 2)
    for k in (1, 2.5):
        with pytest.raises(UserError, match=r"^folds: k=.*2 or more\.$"):
            splitting.folds(10, k)
