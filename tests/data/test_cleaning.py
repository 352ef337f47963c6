"""Cleaning: learned from training rows alone, one rule for evaluation rows, reported and saved."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tfbig
from tfbig.data import ArraySource, BadRecord, BadRecords, Source, cleaning as c
from tfbig.data.bad_records import Quarantine
from tfbig.errors import UserError

NAN = np.nan


def adults(batch):
    return batch["age"] >= 18


def steps() -> list[c.Step]:
    return [
        c.FixTypes({"age": "float32"}),
        c.DropMissing(["age"]),
        c.Filter(adults),
        c.DropDuplicates(),
        c.FillMissing(["pay"], "median"),
        c.DropOutliers(["pay"]),
        c.ClipOutliers(["age"]),
        c.Balance("oversample"),
    ]


AGE = ["20", "20", "?", "17", "30", "40", "50", "60", "200", "44"]
PAY = [1.0, 1.0, 2.0, 3.0, NAN, 2.0, 3.0, 4.0, 3.0, 99.0]
LABELS = [0, 0, 1, 1, 1, 0, 0, 0, 0, 1]


def people() -> ArraySource:
    return ArraySource(({"age": np.array(AGE, object), "pay": np.array(PAY)}, np.array(LABELS)))


def read(source: Source):
    return source.read(np.arange(len(source)))


def touched(cleaning: c.Cleaning, number: int) -> list:
    return [(s.touched, s.examples) for s in cleaning.report.passes[number].steps]


def message(call, *arguments, **keywords) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments, **keywords)
    return str(raised.value)


def test_training_data_go_through_every_step_in_order():
    cleaning = c.Cleaning(steps())
    train = cleaning.fit(people().batch(4))
    # dropped: "?" has no age, 17 is no adult, the second 20 is a duplicate, 99 is an outlier
    # filled: the pay of 30 by the median of 1, 2, 3, 4, 3, 99; clipped: 200 years
    features, labels = read(train)
    assert labels.tolist() == [0, 1, 1, 1, 1, 1, 0, 0, 0, 0]
    low, high = np.quantile([20, 30, 40, 50, 60, 200], [0.25, 0.75])
    bound = high + 1.5 * (high - low)
    assert features["age"].tolist() == [20, 30, 30, 30, 30, 30, 40, 50, 60, np.float32(bound)]
    assert features["pay"].tolist() == [1, 3, 3, 3, 3, 3, 2, 3, 4, 3]
    assert train.cleaning is cleaning
    assert train.batch_size == 4
    assert touched(cleaning, 0) == [
        (1, 10), (1, 10), (1, 9), (1, 8), (1, 7), (1, 7), (1, 6), (1, 6)
    ]  # fmt: skip


def test_evaluation_data_lose_rows_to_missing_values_and_filters_only():
    cleaning = c.Cleaning(steps())
    train = cleaning.fit(people().select(np.arange(9)))
    test = cleaning.apply(people())
    features, labels = read(test)
    bound = read(train)[0]["age"].max()
    assert features["age"].tolist() == [20, 20, 30, 40, 50, 60, bound, 44]
    assert features["pay"].tolist() == [1, 1, 3, 2, 3, 4, 3, 99]
    assert labels.tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert test.cleaning is cleaning
    assert touched(cleaning, 1) == [
        (1, 10), (1, 10), (1, 9), (None, 8), (1, 8), (None, 8), (1, 8), (None, 8)
    ]  # fmt: skip


def test_the_report_has_one_line_a_step_for_the_fit_and_for_each_apply():
    cleaning = c.Cleaning([c.FillMissing(["pay"]), c.DropOutliers(["pay"]), c.Balance()])
    assert str(cleaning.report) == "not fitted yet"
    cleaning.fit(people())
    cleaning.apply(people().select([0, 4]))
    assert str(cleaning.report) == (
        "fit: 10 examples, 9 afterwards\n"
        "  FillMissing(columns=['pay']): 1 of 10 examples filled\n"
        "  DropOutliers(columns=['pay']): 1 of 10 examples dropped\n"
        "  Balance(): 9 of 9 examples weighed\n"
        "apply: 2 examples, 2 afterwards\n"
        "  FillMissing(columns=['pay']): 1 of 2 examples filled\n"
        "  DropOutliers(columns=['pay']): not applied to evaluation data\n"
        "  Balance(): not applied to evaluation data"
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.none(), st.integers(-99, 99)), min_size=6, max_size=40), st.data())
def test_statistics_come_from_the_rows_given_to_fit_alone(numbers, data):
    values = np.array([NAN if n is None else n for n in numbers], np.float32)
    train = data.draw(st.lists(st.integers(0, len(values) - 1), min_size=1, unique=True))
    train = np.sort(train)
    if np.isnan(values[train]).all():
        values[train[0]] = 5
    others = np.setdiff1d(np.arange(len(values)), train)
    learned = []
    for shift in (0, 1e6):  # other values elsewhere change nothing
        changed = values.copy()
        changed[others] += shift
        cleaning = c.Cleaning([c.FillMissing(strategy="mean"), c.ClipOutliers(method="zscore")])
        source = ArraySource({"a": changed})
        cleaning.fit(source.select(train))
        if len(others):
            cleaning.apply(source.select(others))
        learned.append([step.fitted for step in cleaning.steps])
    assert learned[0] == learned[1]
    assert learned[0][0]["a"] == pytest.approx(np.nanmean(values[train].astype("f8")), abs=1e-9)


def test_steps_can_be_used_for_several_cleanings_and_learn_nothing_themselves():
    shared = [c.FillMissing(strategy="mean")]
    fills = []
    for value in (1, 7):
        cleaning = c.Cleaning(shared)
        cleaning.fit(ArraySource({"a": np.float32([value, NAN])}))
        fills.append(cleaning.steps[0].fitted["a"])
    assert fills == [1, 7]
    assert shared[0].fitted is None


def test_a_second_fit_is_refused_for_the_first_source_would_change():
    cleaning = c.Cleaning([c.FillMissing()])
    cleaning.fit(ArraySource({"a": np.float32([1, NAN])}))
    assert message(cleaning.fit, ArraySource({"a": np.float32([1])})) == (
        "Cleaning.fit: it is already fitted, on 2 examples; create a new Cleaning with the same "
        "steps for other training data."
    )


def test_a_fit_that_fails_leaves_nothing_behind():
    cleaning = c.Cleaning([c.FillMissing(strategy="mean"), c.Balance()])
    source = ArraySource({"a": np.float32([1, NAN])})
    assert "one class label" in message(cleaning.fit, source)
    assert "it is not fitted" in message(cleaning.apply, source)
    assert cleaning.report.passes == []
    assert cleaning.steps[0].fitted is None


@pytest.mark.parametrize("width", [1, 3])
def test_the_columns_of_an_array_are_numbered(width):
    array = np.random.RandomState(0).randn(60, width).astype("float32")
    array[::9, width - 1] = NAN
    cleaning = c.Cleaning(
        [c.FillMissing([str(width - 1)], "mean"), c.ClipOutliers(method="zscore")]
    )
    train = cleaning.fit(ArraySource((array, np.arange(60))))
    filled = np.where(np.isnan(array), np.nanmean(array.astype("f8"), 0), array)
    mean, reach = filled.mean(0), 3 * filled.std(0)
    expected = np.clip(filled, mean - reach, mean + reach)
    np.testing.assert_allclose(read(train)[0], expected, rtol=1e-5)
    assert read(train)[0].dtype == np.float32
    np.testing.assert_array_equal(cleaning.transform(array), read(train)[0])


def test_a_column_of_shape_n_1_stays_one_and_images_pass_through():
    images = np.random.RandomState(0).rand(4, 2, 2).astype("float32")
    features = {"a": np.float32([[1], [NAN], [3], [5]]), "image": images}
    train = c.Cleaning([c.FillMissing(), c.DropMissing()]).fit(ArraySource(features))
    assert read(train)["a"].tolist() == [[1], [3], [3], [5]]
    np.testing.assert_array_equal(read(train)["image"], images)


def test_nothing_is_copied_and_a_source_is_read_once():
    class Counting(ArraySource):
        reads = []

        def read(self, indices):
            self.reads.append(len(indices))
            return super().read(indices)

    source = Counting({"a": np.arange(1000.0), "image": np.zeros([1000, 32, 32], "f4")})
    c.Cleaning([c.DropOutliers(["a"])]).fit(source)
    assert sum(source.reads) == 1000 + 1  # one for the element spec


def test_chunks_change_nothing(monkeypatch):
    found = []
    for size in (3, 1000):
        monkeypatch.setattr("tfbig.data.cleaning.table._chunk_size", lambda spec, size=size: size)
        cleaning = c.Cleaning(steps())
        train = cleaning.fit(people())
        test = cleaning.apply(people())
        found.append([str(cleaning.report), *(read(s)[0]["age"].tolist() for s in (train, test))])
    assert found[0] == found[1]


class Torn(ArraySource):
    """Has a record that cannot be read and may be left out."""

    quarantine: Quarantine

    def read(self, indices):
        bad = [BadRecord("torn", 2, "torn", place) for place in np.flatnonzero(indices == 2)]
        if bad:
            raise BadRecords(bad, self.quarantine)
        return super().read(indices)


def test_bad_records_are_quarantined_and_not_examples(tmp_path):
    source = Torn({"a": np.float32([1, 2, 300, NAN, 3])})
    source.quarantine = Quarantine(tmp_path / "quarantine.jsonl")
    cleaning = c.Cleaning([c.FillMissing(strategy="mean")])
    train = cleaning.fit(source)
    assert read(train)["a"].tolist() == [1, 2, 2, 3]
    assert (cleaning.report.passes[0].examples, source.quarantine.count) == (4, 1)
    assert len(cleaning.apply(source)) == 4


def test_a_cleaned_source_trains():
    def input_fn():
        cleaning = c.Cleaning([c.FillMissing(), c.Balance("weights")])
        features = np.random.RandomState(0).randn(90, 4).astype("float32")
        features[::5] = NAN
        labels = (np.arange(90) % 9 == 0).astype("int32")
        return cleaning.fit(ArraySource((features, labels))).batch(30)

    def build():
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    result = tfbig.train_distributed(build, input_fn, max_steps=4)
    assert np.isfinite(result.loss)
    assert result.global_step == 4


def test_a_saved_cleaning_does_the_same_to_the_bit(tmp_path):
    cleaning = c.Cleaning(steps())
    cleaning.fit(people())
    path = tmp_path / "made" / "cleaning.json"
    cleaning.save(path)
    assert os.listdir(tmp_path / "made") == ["cleaning.json"]
    loaded = c.Cleaning.load(path, predicates={"adults": adults})
    assert [str(step) for step in loaded.steps] == [str(step) for step in cleaning.steps]
    assert [step.fitted for step in loaded.steps] == [step.fitted for step in cleaning.steps]
    assert (str(loaded.report), loaded.raw_spec) == (str(cleaning.report), cleaning.raw_spec)
    for one, other in zip(
        *(read(s.apply(people()))[0].values() for s in (loaded, cleaning)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    other = c.Cleaning([c.FillMissing()])
    other.fit(ArraySource(np.float32([[1, 2], [NAN, 4]])))
    other.save(str(path))
    again = c.Cleaning.load(str(path))
    assert again.transform(np.float32([[NAN, NAN]])).tolist() == [[1, 3]]


def test_a_filter_is_saved_by_its_name_and_is_not_needed_in_serving(tmp_path):
    cleaning = c.Cleaning([c.Filter(adults), c.FillMissing()])
    features = {"age": np.float32([20, 30])}
    cleaning.fit(ArraySource(features))
    cleaning.save(tmp_path / "cleaning.json")
    loaded = c.Cleaning.load(tmp_path / "cleaning.json")
    assert loaded.transform({"age": np.float32([NAN, 3])})["age"].tolist() == [25, 3]
    assert message(loaded.apply, ArraySource(features)) == (
        "Filter('adults') was saved without its predicate; use "
        "Cleaning.load(path, predicates={'adults': the function})."
    )
    told = message(c.Cleaning.load, tmp_path / "cleaning.json", predicates={"old": adults})
    assert told.endswith("there is no such Filter; the Filters are adults.")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', "\x00"])
def test_a_file_that_save_did_not_write_is_an_error(content, tmp_path):
    (tmp_path / "c.json").write_text(content)
    told = message(c.Cleaning.load, tmp_path / "c.json")
    assert told.endswith("c.json'): it is not a file that Cleaning.save wrote.")
    assert "No such file or directory" in message(c.Cleaning.load, tmp_path / "none.json")


def test_a_damaged_file_is_an_error(tmp_path):
    cleaning = c.Cleaning([c.FillMissing()])
    cleaning.fit(ArraySource({"a": np.float32([1])}))
    cleaning.save(tmp_path / "c.json")
    whole = json.loads((tmp_path / "c.json").read_text())
    for name in ("features", "steps", "report"):
        (tmp_path / "c.json").write_text(json.dumps({k: v for k, v in whole.items() if k != name}))
        assert "the file is damaged" in message(c.Cleaning.load, tmp_path / "c.json")
    whole["steps"][0]["step"] = "Unknown"
    (tmp_path / "c.json").write_text(json.dumps(whole))
    assert "the file is damaged" in message(c.Cleaning.load, tmp_path / "c.json")


def test_a_path_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    cleaning = c.Cleaning([c.FillMissing()])
    cleaning.fit(ArraySource({"a": np.float32([1])}))
    (tmp_path / "folder").mkdir()
    told = message(cleaning.save, tmp_path / "folder")
    assert told.endswith("Is a directory; pass a writable path.")
    assert os.listdir(tmp_path) == ["folder"]


def test_what_is_not_fitted_says_so():
    cleaning = c.Cleaning([c.FillMissing()])
    for call, argument in (
        (cleaning.apply, people()), (cleaning.transform, {}), (cleaning.save, "c.json")
    ):  # fmt: skip
        assert message(call, argument) == (
            f"Cleaning.{call.__name__}: it is not fitted; call cleaning.fit(training source) first."
        )


def test_unknown_columns_are_named_with_those_there_are():
    told = message(c.Cleaning([c.FillMissing(["aeg"])]).fit, people())
    assert (
        told == "FillMissing(columns=['aeg']): there is no column 'aeg'; the columns are age, pay."
    )
    image = ArraySource({"image": np.zeros([2, 3, 3])})
    told = message(c.Cleaning([c.ClipOutliers(["image"])]).fit, image)
    assert told.endswith(
        "column 'image' has the shape [3, 3] in each example; only columns with one value per "
        "example can be cleaned."
    )
    cleaning = c.Cleaning([c.FillMissing(["pay"])])
    cleaning.fit(people())
    assert message(cleaning.transform, {"pay": np.float32([1])}) == (
        "Cleaning.transform: there is no column 'age'; the columns are pay."
    )


def test_other_data_must_have_the_columns_of_the_training_data():
    cleaning = c.Cleaning([c.FixTypes({"a": "float32"}), c.FillMissing()])
    cleaning.fit(ArraySource({"a": np.array(["1", "2"], object), "b": np.float32([1, 2])}))
    assert message(cleaning.apply, ArraySource({"a": np.float32([1])})) == (
        "Cleaning.apply: the columns are a, but those of the training data were a, b."
    )
    told = message(cleaning.apply, ArraySource({"a": np.float32([1]), "b": np.array([1])}))
    assert told.startswith(
        "Cleaning.apply: column 'b' is int64 of shape [n], but was float32 of shape [n] in the "
    )
    fine = ArraySource({"a": np.float32([NAN, 4]), "b": np.float32([1, 2])})  # FixTypes converts a
    assert read(cleaning.apply(fine))["a"].tolist() == [1.5, 4]


def test_the_columns_of_one_array_stay_of_one_type():
    source = ArraySource(np.array([["1", "x"], ["2", "y"]], object))
    told = message(c.Cleaning([c.FixTypes({"0": "float32"})]).fit, source)
    assert "FixTypes would convert its columns to float32 and string; use the same" in told
    train = c.Cleaning([c.FixTypes({"0": "float32", "1": "float32"})]).fit(source)
    np.testing.assert_array_equal(read(train), np.float32([[1, NAN], [2, NAN]]))


def test_data_of_which_nothing_is_left_are_an_error_with_the_report():
    cleaning = c.Cleaning([c.DropMissing(), c.FillMissing()])
    told = message(cleaning.fit, ArraySource({"a": np.float32([NAN, NAN])}))
    assert told == (
        "Cleaning.fit: no example is left.\nfit: 2 examples, 0 afterwards\n"
        "  DropMissing(): 2 of 2 examples dropped"
    )
    cleaning.fit(ArraySource({"a": np.float32([NAN, 1])}))
    assert "no example is left" in message(cleaning.apply, ArraySource({"a": np.float32([NAN])}))


def test_what_cannot_be_cleaned_is_an_error():
    cleaning = c.Cleaning([c.FillMissing()])
    assert message(cleaning.fit, [1]).endswith("expected a tfbig.data.Source, received a list.")
    train = cleaning.fit(ArraySource({"a": np.float32([1])}))
    told = message(c.Cleaning([c.FillMissing()]).fit, train)
    assert told.endswith("this source is already cleaned; put all steps into one Cleaning.")
    nested = ArraySource({"a": {"b": np.float32([1])}})
    assert "expected a dict of columns" in message(c.Cleaning([c.FillMissing()]).fit, nested)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "Cleaning([]): expected a list of one or more steps."),
        (c.FillMissing(), "expected a list of one or more steps."),
        ([c.FillMissing], "Cleaning: steps[0] is <class"),
        ([c.Balance(), c.FillMissing()], "Cleaning: Balance() is steps[0]; Balance comes last."),
    ],
)
def test_steps_that_cannot_be_used_are_an_error_at_once(given, told):
    assert told in message(c.Cleaning, given)
