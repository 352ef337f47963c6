"""Data that a config describes."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict

import tfbig
from tfbig.data import configured
from tfbig.errors import UserError


@pytest.fixture
def table(tmp_path):
    """100 rows: a, b (some missing), a group and a label, which is 1 in every fourth row."""
    with open(tmp_path / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "group", "label"])
        for row in range(100):
            writer.writerow([row, "" if row % 10 == 3 else row / 2, row // 5, int(row % 4 == 0)])
    return str(tmp_path / "table.csv")


def params(path, **data):
    source = {"name": "CsvSource", "paths": path, "label": "label", "features": ("a", "b")}
    return ConfigDict({"data": {"source": source, "batch_size": 16, **data}})


def everything(source):
    return source.read(np.arange(len(source)))


def test_a_csv_is_split_cleaned_stacked_and_batched(table):
    given = params(
        table,
        split={"method": "stratified", "fractions": (0.8, 0.2), "seed": 3},
        cleaning=[{"name": "FillMissing", "strategy": "mean"}],
        stack=True,
    )
    train, test = (configured.input_fn(mode, given) for mode in ("train", "eval"))
    assert (len(train), len(test), train.batch_size, test.batch_size) == (80, 20, 16, 16)
    (x, y), (x_test, y_test) = everything(train), everything(test)
    assert x.dtype == np.float32
    assert x.shape == (80, 2)
    assert y.sum() == 20
    assert y_test.sum() == 5
    assert sorted(np.concatenate([x, x_test])[:, 0].tolist()) == list(range(100))
    filled = x[x[:, 0] % 10 == 3, 1]
    np.testing.assert_allclose(filled, x[x[:, 0] % 10 != 3, 1].mean(), rtol=1e-6)
    assert set(x_test[x_test[:, 0] % 10 == 3, 1]) <= set(filled)
    assert train.cleaning is test.cleaning


@pytest.mark.parametrize("method", ["group", "hash"])
def test_a_split_by_a_column_keeps_its_values_together(table, method):
    given = params(table, split={"method": method, "by": "group", "fractions": (0.6, 0.2, 0.2)})
    given.data.source.features = ("a", "group")
    assert list(configured.input_fn("train", given).element_spec[0]) == ["a"]
    train, validation = (
        {row // 5 for row in everything(configured.input_fn(mode, given))[0]["a"]}
        for mode in ("train", "eval")
    )
    assert train
    assert validation
    assert not train & validation


def test_a_split_by_a_column_reads_it_from_any_source(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(10.0))
    path = str(tmp_path / "x.npy")
    given = {"data": {"source": {"name": "NpySource", "arrays": {"x": path, "z": path}}}}
    given["data"]["split"] = {"method": "time", "by": "x", "fractions": (0.7, 0.3)}
    assert everything(configured.input_fn("train", given))["z"].tolist() == [*range(7)]
    assert everything(configured.input_fn("eval", given))["z"].tolist() == [7, 8, 9]
    given["data"]["split"]["by"] = "y"
    with pytest.raises(UserError, match="there is no such column; the columns are x, z"):
        configured.input_fn("train", given)


def test_evaluation_data_may_be_another_source(table):
    given = params(table, eval_source={"features": ("b",)})
    assert list(everything(configured.input_fn("eval", given))[0]) == ["b"]
    assert list(everything(configured.input_fn("train", given))[0]) == ["a", "b"]


def test_a_source_may_be_named_by_its_module(table):
    given = params(table)
    given.data.source.name = "tfbig.data.sources.csv_source.CsvSource"
    assert len(configured.input_fn("train", given)) == 100


def test_augmentation_is_the_sources(table):
    given = params(table, stack=True)
    assert configured.input_fn("train", given).augmentation is None
    text = {"name": "TokenMasking", "mask_token": 1, "vocabulary_size": 9}
    given.data.augmentation = [text]
    assert isinstance(
        configured.input_fn("train", given).augmentation,
        tfbig.data.augmentation.Augmentation,
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"source": None}, "params.data.source=None: expected the name of a source"),
        (
            {"source": {"name": "Csv"}},
            "there is no 'Csv'; expected one of: ArrayRecordSource, Array",
        ),
        ({"source": {"name": "no.such.Source"}}, "source.name='no.such.Source': No module named"),
        ({"source": {"name": "CsvSource", "path": "x"}}, "source, CsvSource: missing a required"),
        ({"split": {"method": "half"}}, "expected fraction, stratified, group, time or hash"),
        ({"split": {"method": "group"}}, "method 'group' needs by, the name of a column"),
        (
            {"split": {"method": "group", "by": "z"}},
            "there is no such column; the columns are a, b",
        ),
        ({"split": {"fraction": 1}}, "params.data.split: got an unexpected keyword argument"),
        ({"cleaning": [{"name": "Wash"}]}, "params.data.cleaning: there is no 'Wash'"),
        ({"split": {}, "eval_source": {}}, "both eval_source and split"),
        ({"sources": 1}, "unknown params of tfbig.data.configured.input_fn .*'sources'"),
    ],
)
def test_what_cannot_be_used_is_named(table, data, says):
    given = params(table).to_dict()
    given["data"].update(data)
    with pytest.raises(UserError, match=says):
        configured.input_fn("train", given)


def test_evaluation_without_data_says_how_to_get_them(table):
    with pytest.raises(UserError, match="no evaluation data; add eval_source or split"):
        configured.input_fn("eval", params(table))


def test_a_column_of_text_cannot_be_stacked(table, tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("a,b,label\n1,x,0\n2,y,1\n")
    with pytest.raises(UserError, match="column 'b' is not numeric; remove it from features"):
        configured.input_fn("train", params(str(path), stack=True)).read(np.array([0]))


def flawed(path):
    """Rows of (key, class), of which the seventh cannot be parsed."""

    def parse(records):
        rows = np.array([record.split(b",") for record in records.tolist()], np.int64)
        return {"key": rows[:, 0], "x": rows[:, 0]}, rows[:, 1]

    return tfbig.data.TFRecordSource(path, parse, on_bad_record="skip")


@pytest.mark.parametrize("how", [{"method": "stratified"}, {"method": "time", "by": "key"}])
def test_bad_records_that_are_left_out_are_in_no_part(tmp_path, how):
    path = str(tmp_path / "rows.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for row in range(40):
            writer.write(b"torn" if row == 7 else f"{row},{row % 2}".encode())
    source = {"name": f"{__name__}.flawed", "path": path}
    given = {"data": {"source": source, "split": {**how, "fractions": (0.5, 0.5)}}}
    parts = [everything(configured.input_fn(mode, given))[0]["x"] for mode in ("train", "eval")]
    assert sorted(np.concatenate(parts).tolist()) == [row for row in range(40) if row != 7]
    assert min(map(len, parts)) >= 19
