"""Each step of a Cleaning against pandas, scikit-learn and figures worked out by hand."""

import logging

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.utils.class_weight import compute_class_weight

from tfbig.data import ArraySource, cleaning as c
from tfbig.errors import UserError

NAN = np.nan


def fit(steps, features, labels=None, weight=None):
    """(cleaned arrays, touched by each step) of a fit on these arrays."""
    cleaning = c.Cleaning(steps if isinstance(steps, list) else [steps])
    arrays = features if labels is None else (features, np.asarray(labels))
    arrays = arrays if weight is None else (*arrays, np.asarray(weight))
    train = cleaning.fit(ArraySource(arrays))
    touched = [step.touched for step in cleaning.report.passes[0].steps]
    return train.read(np.arange(len(train))), touched


def error(steps, features, labels=None) -> str:
    with pytest.raises(UserError) as raised:
        fit(steps, features, labels)
    return str(raised.value)


def skewed(n=501, seed=0) -> np.ndarray:
    values = np.random.RandomState(seed).lognormal(1, 1.2, n).astype("float32")
    values[::25] = NAN
    return values


def test_fix_types_turns_strings_into_numbers_and_the_rest_into_missing_values():
    age = np.array(["41", " 7", "", "?", "1e3", "inf"], object)
    found, touched = fit(c.FixTypes({"age": "float32"}), {"age": age})
    assert found["age"].dtype == np.float32
    np.testing.assert_array_equal(found["age"], [41, 7, NAN, NAN, 1000, NAN])
    assert touched == [2]  # the empty one was missing before


def test_fix_types_makes_integers_once_nothing_is_missing_and_strings_of_integers():
    features = {"age": np.array(["41", "x", "7"], object), "zip": np.array([89073, 1, 2])}
    steps = [
        c.FixTypes({"age": "float32", "zip": "string"}),
        c.FillMissing(["age"], "constant", value=-1),
        c.FixTypes({"age": "int64"}),
    ]
    found, touched = fit(steps, features)
    assert found["age"].dtype == np.int64
    assert found["age"].tolist() == [41, -1, 7]
    assert found["zip"].tolist() == ["89073", "1", "2"]
    assert touched == [1, 1, 0]


def test_what_is_no_integer_is_named_with_the_way_out():
    assert error(c.FixTypes({"a": "int32"}), {"a": np.float32([1, 2.5, NAN])}) == (
        "FixTypes(types={'a': 'int32'}): column 'a' has 2 values that are not valid int32, such "
        "as np.float32(2.5), and an integer cannot be missing; convert to float32 first, then use "
        "FillMissing, then convert to int32."
    )


def test_floats_have_no_one_spelling():
    message = error(c.FixTypes({"a": "string"}), {"a": np.float32([1])})
    assert "column 'a' is float32, whose string form is not unique; only integers" in message


def test_drop_missing_drops_what_pandas_drops():
    a, b = skewed(seed=1), np.array(["x", "", "y"] * 167, object)
    features = {"a": a, "b": b, "id": np.arange(501)}
    frame = pd.DataFrame(features).replace("", None)
    for columns in (None, ["a"], ["b"], ["a", "b"]):
        found, touched = fit(c.DropMissing(columns), features)
        kept = frame.dropna(subset=columns)["id"]
        assert found["id"].tolist() == kept.tolist()
        assert touched == [501 - len(kept)]


def test_drop_missing_of_all_columns_looks_at_the_label_too():
    features = {"a": np.float32([1, NAN, 3, 4])}
    labels = np.float32([NAN, 1, 1, 0])
    assert fit(c.DropMissing(), features, labels)[1] == [2]
    assert fit(c.DropMissing(["a"]), features, labels)[1] == [1]


def test_drop_missing_and_drop_duplicates_look_at_labels_of_several_outputs_or_places():
    a = np.float32([1, 1, 1, 4])
    outputs = {"kind": np.array([0, 0, 1, 1]), "size": np.float32([[1], [1], [1], [NAN]])}
    places = np.float32([[0, 1], [0, 1], [2, 2], [2, NAN]])
    for labels in (outputs, places):
        for step, kept in ((c.DropMissing(), [0, 1, 2]), (c.DropDuplicates(), [0, 2, 3])):
            train = c.Cleaning([step]).fit(ArraySource(({"a": a}, labels)))
            assert train.read(np.arange(len(train)))[0]["a"].tolist() == a[kept].tolist()
            applied = len(train.cleaning.apply(ArraySource(({"a": a}, labels))))
            assert applied == (3 if isinstance(step, c.DropMissing) else 4)
    only = {"kind": outputs["kind"]}  # a label in a dict by itself is looked at too
    assert len(c.Cleaning([c.DropDuplicates()]).fit(ArraySource(({"a": a}, only)))) == 3


@pytest.mark.parametrize("strategy", ["median", "mean", "most_frequent"])
def test_fill_missing_fills_with_scikit_learn_s_statistic(strategy):
    a = np.round(skewed(), 1)
    found, touched = fit(c.FillMissing(strategy=strategy), {"a": a})
    expected = SimpleImputer(strategy=strategy).fit_transform(a[:, None])[:, 0]
    np.testing.assert_allclose(found["a"], expected, rtol=1e-6)
    assert touched == [21]


def test_fill_missing_by_hand():
    features = {"a": np.float32([1, NAN, 2, 9]), "s": np.array(["v", "u", "", "u"], object)}
    for strategy, value in (("median", 2), ("mean", 4), ("most_frequent", 1)):  # ties: the smallest
        found, touched = fit(c.FillMissing(["a"], strategy), features)
        assert (found["a"].tolist(), touched) == ([1, value, 2, 9], [1])
    found, touched = fit(c.FillMissing(strategy="most_frequent"), features)
    assert (found["s"].tolist(), touched) == (["v", "u", "u", "u"], [2])
    found, touched = fit(c.FillMissing(strategy="constant", value="?"), features)
    assert (found["s"].tolist(), touched) == (["v", "u", "?", "u"], [1])
    assert np.isnan(found["a"][1])
    found, touched = fit(c.FillMissing(strategy="constant", value=0), features)
    assert (found["a"].tolist(), touched, found["s"][2]) == ([1, 0, 2, 9], [1], "")


def test_integers_are_left_as_they_are_by_filling():
    found, touched = fit(c.FillMissing(), {"n": np.array([1, 2]), "a": np.float32([NAN, 1])})
    assert (found["n"].dtype, found["a"].tolist(), touched) == (np.int64, [1, 1], [1])


def test_statistics_that_cannot_be_had_are_errors():
    features = {"a": np.float32([NAN, NAN]), "s": np.array(["u", "v"], object)}
    assert error(c.FillMissing(), features) == (
        "FillMissing(): column 'a' is missing in all of the 2 training examples, so it has no "
        'median; remove it from the data, or use strategy="constant" for it.'
    )
    assert error(c.FillMissing(["s"], "mean"), features) == (
        "FillMissing(columns=['s'], strategy='mean'): the mean needs numbers, but column 's' holds "
        'strings; put FixTypes({\'s\': "float32"}) before it, or use strategy="most_frequent".'
    )
    message = error(c.FillMissing(["s"], "constant", value=0), features)
    assert "column 's' holds strings; pass a value of the same type." in message
    message = error(c.FillMissing(["a"], "constant", value="0"), features)
    assert "column 'a' holds numbers; pass a value of the same type." in message
    message = error(c.FillMissing(strategy="mean"), {"a": np.float32([1, np.inf])})
    assert "column 'a' holds infinite values; put FixTypes({'a': \"float32\"}) before" in message


@pytest.mark.parametrize("columns", [None, ["a"], ["s"], ["image"]])
def test_drop_duplicates_drops_what_pandas_drops(columns):
    random = np.random.RandomState(0)
    a, s = np.float32([0, 1, NAN])[random.randint(0, 3, 99)], random.choice(["u", "v", ""], 99)
    features = {"a": a, "s": s.astype(object)}
    if columns == ["image"]:
        columns, features = None, features | {"image": random.randint(0, 2, (99, 1, 2))}
    labels = random.randint(0, 2, 99)
    found, touched = fit(c.DropDuplicates(columns), (features), labels)
    frame = pd.DataFrame({k: v for k, v in features.items() if k != "image"})
    if columns is None:
        frame["label"] = labels
    if "image" in features:
        frame["left"], frame["right"] = features["image"][:, 0].T
    kept = ~frame.duplicated(subset=columns).to_numpy()
    assert touched == [99 - kept.sum()]
    assert touched[0] > 20
    np.testing.assert_array_equal(found[0]["a"], a[kept])
    np.testing.assert_array_equal(found[1], labels[kept])


def test_images_and_one_hot_labels_are_compared_whole():
    images = np.zeros([4, 2, 2], np.float32)
    images[1, 1, 1] = 1e-7
    assert fit(c.DropDuplicates(), images)[1] == [2]
    one_hot = np.eye(2, dtype=np.float32)[[0, 0, 0, 1]]
    found, touched = fit(c.DropDuplicates(), images, one_hot)
    assert touched == [1]
    np.testing.assert_array_equal(found[1], one_hot[[0, 1, 3]])
    tokens = np.array([["a", "b"], ["ab", ""], ["a", "b"]], object)
    assert fit(c.DropDuplicates(), {"tokens": tokens})[1] == [1]


def bounds_of(values: np.ndarray, method: str, factor: float) -> tuple[float, float]:
    series = pd.Series(values.astype("float64"))
    if method == "iqr":
        low, high = series.quantile(0.25), series.quantile(0.75)
        return low - factor * (high - low), high + factor * (high - low)
    mean, spread = series.mean(), series.std(ddof=0)
    return mean - factor * spread, mean + factor * spread


@pytest.mark.parametrize(
    ("method", "factor"), [("iqr", None), ("iqr", 0.5), ("zscore", None), ("zscore", 1)]
)
def test_outliers_are_clipped_or_dropped_at_the_bounds_of_pandas(method, factor):
    a = skewed()
    low, high = bounds_of(a, method, factor or {"iqr": 1.5, "zscore": 3.0}[method])
    out = (a < low) | (a > high)
    found, touched = fit(c.ClipOutliers(method=method, factor=factor), {"a": a})
    np.testing.assert_allclose(found["a"], np.clip(a, low, high), rtol=1e-6)
    assert touched == [out.sum()]
    assert out.sum() > 3
    found, touched = fit(c.DropOutliers(method=method, factor=factor), {"a": a})
    np.testing.assert_array_equal(found["a"], a[~out])
    assert touched == [out.sum()]


def test_integers_are_clipped_to_integers():
    found, touched = fit(c.ClipOutliers(), {"n": np.array([1, 2, 3, 4, 100])})
    assert (found["n"].tolist(), found["n"].dtype, touched) == ([1, 2, 3, 4, 7], np.int64, [1])


def test_a_column_without_spread_is_left_as_it_is_and_warned_of(caplog):
    gain = np.float32([0] * 9 + [5000])
    for step, told in (
        (
            c.ClipOutliers(),
            "ClipOutliers(): column 'gain' is not changed, because its interquartile ",
        ),
        (
            c.DropOutliers(["flat"], "zscore"),
            "column 'flat' is not changed, because its deviation is",
        ),
    ):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "tfbig"):
            found, touched = fit(step, {"gain": gain, "flat": np.ones(10, "f4")})
        assert touched == [0]
        np.testing.assert_array_equal(found["gain"], gain)
        assert any(told in record.getMessage() for record in caplog.records)


def test_bounds_that_cannot_be_had_are_errors():
    text = {"s": np.array(["u", "v"], object)}
    message = error(c.ClipOutliers(["s"]), text)
    assert "bounds need numbers, but column 's' holds strings; put FixTypes" in message
    assert "holds bool; put" in error(c.DropOutliers(["b"]), {"b": np.array([True, False])})
    assert "holds no values in the 2 train" in error(
        c.ClipOutliers(), {"a": np.float32([NAN, NAN])}
    )
    message = error(c.ClipOutliers(), {"a": np.float32([1, np.inf])})
    assert "column 'a' holds infinite values in the 2 training examples" in message


def test_filter_keeps_what_its_predicate_says_of_the_columns_as_they_are_by_then():
    features = {"age": np.array(["9", "?", "41", "18"], object), "x": np.zeros([4, 3])}
    seen = []

    def adults(batch):
        seen.append({name: column.dtype.name for name, column in batch.items()})
        return batch["age"] >= 18

    found, touched = fit([c.FixTypes({"age": "float32"}), c.Filter(adults)], features)
    assert (found["age"].tolist(), touched) == ([41, 18], [1, 2])
    assert seen == [{"age": "float32"}]


def test_a_predicate_that_does_not_return_one_bool_an_example_is_an_error():
    features = {"a": np.float32([1, 2])}
    assert error(c.Filter(lambda batch: batch["a"], "all"), features) == (
        "Filter('all'): the predicate returned float32 of shape [2]; expected bool of shape [2], "
        "True to keep."
    )
    assert "returned bool of shape []" in error(c.Filter(lambda b: (b["a"] > 0).all()), features)


KINDS = {
    "numbers": lambda y: y, "column": lambda y: y[:, None], "float": lambda y: y.astype("f4"),
    "one_hot": lambda y: np.eye(3)[y], "str": lambda y: np.array(["a", "b", "c"], object)[y],
    "bytes": lambda y: np.array([b"a", b"b", b"c"], object)[y], "bool": lambda y: y > 0,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_balance_weighs_classes_as_scikit_learn_does(kind):
    y = np.array([0] * 7 + [1] * 2 + [2])
    classes = (y > 0).astype(int) if kind == "bool" else y
    (_, labels, weights), touched = fit(c.Balance(), {"a": np.arange(10)}, KINDS[kind](y))
    names = np.unique(classes)
    expected = compute_class_weight("balanced", classes=names, y=classes)[classes]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights.sum() == pytest.approx(10)
    np.testing.assert_array_equal(labels, ArraySource(KINDS[kind](y)).read(np.arange(10)))
    assert touched == [10]


def test_equal_classes_weigh_1_and_a_weight_that_is_there_is_multiplied():
    (_, _, weights), touched = fit(c.Balance(), np.zeros([4, 1]), [0, 0, 1, 1], [1, 2, 3, 4])
    assert (weights.tolist(), touched) == ([1, 2, 3, 4], [0])
    given = np.arange(8).reshape(4, 2)
    (_, _, weights), touched = fit(c.Balance(), np.zeros([4, 1]), [0, 0, 0, 1], given)
    np.testing.assert_allclose(weights, given * np.float32([[2 / 3]] * 3 + [[2]]))
    assert touched == [4]


def test_oversampling_repeats_every_example_as_often_as_can_be():
    y = np.array([0] * 7 + [1] * 3 + [2])
    (a, labels), touched = fit(c.Balance("oversample"), np.arange(11), y)
    assert np.bincount(labels).tolist() == [7, 7, 7]
    times = np.bincount(a)
    assert times[:7].tolist() == [1] * 7
    assert sorted(times[7:10]) == [2, 2, 3]
    assert times[10] == 7
    assert touched == [4]
    np.testing.assert_array_equal(labels, y[a])


def test_undersampling_drops_examples_until_the_classes_are_equal():
    y = np.array([0] * 70 + [1] * 30)
    (a, labels), touched = fit(c.Balance("undersample", seed=1), np.arange(100), y)
    assert np.bincount(labels).tolist() == [30, 30]
    assert touched == [40]
    assert len(set(a.tolist())) == 60
    assert (np.diff(a) > 0).all()
    again, _ = fit(c.Balance("undersample", seed=1), np.arange(100), y)
    other, _ = fit(c.Balance("undersample", seed=2), np.arange(100), y)
    np.testing.assert_array_equal(again[0], a)
    assert set(other[0].tolist()) != set(a.tolist())


def test_labels_that_are_no_classes_are_errors():
    features = {"a": np.float32([1, 2])}
    assert error(c.Balance(), features).startswith("Balance(): the examples do not have one class")
    assert "do not have one class label each" in error(c.Balance(), features, np.ones([2, 3]))
    for labels in ({"kind": np.arange(2)}, np.ones([2, 3])):
        with pytest.raises(UserError, match=r"use tfbig\.data\.with_class_weight\(source"):
            c.Cleaning([c.Balance()]).fit(ArraySource((features, labels)))
    assert "the labels are not classes; one is 0.5" in error(c.Balance(), features, [0.5, 1])
    assert "one is nan. If labels are missing, put DropMissing()" in error(
        c.Balance(), features, [NAN, 1]
    )


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: c.FixTypes({}), "FixTypes({}): expected the types of columns by name"),
        (lambda: c.FixTypes(["a"]), "FixTypes(['a']): expected the types of columns by name"),
        (lambda: c.FixTypes({"a": "number"}), "expected one of float32, int32, int64, string."),
        (lambda: c.DropMissing("age"), "DropMissing(columns='age'): expected a list of column"),
        (lambda: c.DropDuplicates([]), "DropDuplicates(columns=[]): expected a list of column"),
        (lambda: c.FillMissing([1]), "FillMissing(columns=[1]): expected a list of column names"),
        (lambda: c.FillMissing(strategy="mode"), "FillMissing(strategy='mode'): expected one of"),
        (lambda: c.FillMissing(strategy="constant"), "expected a finite number, or a string that"),
        (lambda: c.FillMissing(strategy="constant", value=""), "expected a finite number, or a st"),
        (lambda: c.FillMissing(strategy="constant", value=NAN), "expected a finite number, or a"),
        (lambda: c.FillMissing(value=0), 'value is only used with strategy="constant".'),
        (
            lambda: c.ClipOutliers(method="mad"),
            "ClipOutliers(method='mad'): expected one of iqr, z",
        ),
        (lambda: c.DropOutliers(factor=0), "DropOutliers(factor=0): expected a number above 0."),
        (lambda: c.ClipOutliers(factor="3"), "ClipOutliers(factor='3'): expected a number above 0"),
        (lambda: c.Filter("age > 3"), "Filter('age > 3'): expected a function of a dict of arrays"),
        (lambda: c.Balance("smote"), "Balance(method='smote'): expected one of weights, oversamp"),
        (lambda: c.Balance(seed=None), "Balance(seed=None): expected an integer of 0 or more."),
    ],
)
def test_an_argument_that_cannot_be_used_is_an_error_at_once(make, told):
    with pytest.raises(UserError) as raised:
        make()
    assert told in str(raised.value)
