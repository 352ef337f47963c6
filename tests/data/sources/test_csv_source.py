"""CsvSource: rows of CSV files, by number."""

import gzip
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tfbig.data import CsvSource
from tfbig.errors import UserError


def write(folder, text, name="a.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def everything(source):
    return source.read(np.arange(len(source)))


def table(rows=50, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.integers(0, 90, rows),
            "height": rng.normal(170, 10, rows),
            "city": rng.choice(["Köln", "São Paulo, SP", 'the "Hague"', "two\nlines"], rows),
            "sick": rng.choice([True, False], rows),
            "price": rng.normal(0, 1, rows),
        }
    )


def test_rows_are_those_of_pandas_in_any_order_and_as_often_as_asked(tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "a.csv", index=False)
    source = CsvSource(tmp_path / "a.csv", label="price")
    asked = np.array([49, 0, 3, 3, 20])
    features, price = source.read(asked)
    assert list(features) == ["age", "height", "city", "sick"]
    assert [features[n].dtype for n in features] == [np.int64, np.float32, object, bool]
    for name in ("age", "city", "sick"):
        np.testing.assert_array_equal(features[name], frame[name].to_numpy()[asked])
    np.testing.assert_array_equal(price, frame["price"].to_numpy(np.float32)[asked])


def test_columns_are_chosen_by_name_and_a_weight_comes_last(tmp_path):
    path = write(tmp_path, "a,b,c,d\n1,2,3,4\n5,6,7,8\n")
    features, label, weight = CsvSource(path, features=["d", "a"], label="b", weight="c").read(
        np.array([1])
    )
    assert {name: value.tolist() for name, value in features.items()} == {"d": [8], "a": [5]}
    assert (label.tolist(), weight.tolist()) == ([6], [7])
    assert list(everything(CsvSource(path))) == ["a", "b", "c", "d"]


def test_files_follow_one_another_whatever_the_order_of_their_columns(tmp_path):
    write(tmp_path, "a,b\n1,x\n2,y\n", "part-0.csv")
    write(tmp_path, "b,a\nz,3\n", "part-1.csv")
    read = everything(CsvSource(tmp_path / "part-*.csv"))
    assert read["a"].tolist() == [1, 2, 3]
    assert read["b"].tolist() == ["x", "y", "z"]


def test_a_type_is_the_narrowest_that_fits_all_rows_of_all_files(tmp_path):
    write(tmp_path, "i,f,m,s,t,e\n1,1,1,1,true,\n2,2,,2,False,\n", "0.csv")
    write(tmp_path, "i,f,m,s,t,e\n +3 ,2.5e1,4,x,TRUE,NA\n", "1.csv")
    source = CsvSource([tmp_path / "0.csv", tmp_path / "1.csv"])
    kinds = [column.kind for column in source.columns]
    assert kinds == ["int64", "float32", "float32", "string", "bool", "float32"]
    read = everything(source)
    assert read["i"].tolist() == [1, 2, 3]
    assert read["f"].tolist() == [1, 2, 25]
    np.testing.assert_array_equal(read["m"], np.array([1, np.nan, 4], np.float32))
    assert read["s"].tolist() == ["1", "2", "x"]
    assert read["t"].tolist() == [True, False, True]
    assert np.isnan(read["e"]).all()


def test_floats_that_come_long_after_integers_widen_the_column(tmp_path):
    text = "a\n" + "7\n" * 200_000 + "0.5\n"
    read = everything(CsvSource(write(tmp_path, text)))["a"]
    assert (read.dtype, len(read), read[-1], read[:-1].mean()) == (np.float32, 200_001, 0.5, 7)


def test_numbers_that_become_text_because_of_one_row_are_told_of(tmp_path, caplog):
    path = write(tmp_path, "a\n" + "1\n" * 50 + "oops\n")
    with caplog.at_level(logging.WARNING, "tfbig"):
        CsvSource(path)
    assert "column 'a' is read as text: its first 50 values are numbers" in caplog.text
    assert "'oops'" in caplog.text


def test_missing_values_are_nan_and_empty_texts_and_can_be_named(tmp_path):
    path = write(tmp_path, 'x,s\n1,a\nNA,""\n?,?\n')
    read = everything(CsvSource(path, missing=["", "NA", "?"]))
    np.testing.assert_array_equal(read["x"], np.array([1, np.nan, np.nan], np.float32))
    assert read["s"].tolist() == ["a", "", ""]
    assert everything(CsvSource(path, missing=[]))["x"].tolist() == ["1", "NA", "?"]


def test_types_and_the_delimiter_can_be_given(tmp_path):
    path = write(tmp_path, "zip;n\n01234;1\n99999;2\n")
    read = everything(CsvSource(path, types={"zip": "string", "n": "float32"}, delimiter=";"))
    assert read["zip"].tolist() == ["01234", "99999"]
    assert read["n"].dtype == np.float32


def test_empty_texts_and_long_ones_stay_apart(tmp_path):
    texts = ["", "a", "", "b" * 100_000, "ä€😀", "a"]
    pd.DataFrame({"s": texts, "n": range(6)}).to_csv(tmp_path / "a.csv", index=False)
    read = CsvSource(tmp_path / "a.csv", types={"s": "string"}).read(np.array([5, 4, 3, 2, 1, 0]))
    assert read["s"].tolist() == texts[::-1]


def test_many_columns_are_read(tmp_path):
    values = np.random.default_rng(0).integers(-99, 99, (2000, 300))
    frame = pd.DataFrame(values, columns=[f"c{i}" for i in range(300)])
    frame.to_csv(tmp_path / "a.csv", index=False)
    asked = np.random.default_rng(1).integers(0, 2000, 500)
    read = CsvSource(tmp_path / "a.csv").read(asked)
    np.testing.assert_array_equal(np.stack(list(read.values()), 1), values[asked])


def test_compressed_and_remote_files_are_read(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    path = write(tmp_path, gzip.compress(b"a,b\n1,2\n3,4\n"), "a.csv.gz")
    assert everything(CsvSource(path))["b"].tolist() == [2, 4]
    with fsspec.open("memory://tables/a.csv", "wb") as file:
        file.write(b"a,b\n5,6\n")
    assert everything(CsvSource("memory://tables/*.csv"))["a"].tolist() == [5]
    assert list((tmp_path / "cache").glob("*.tfbig-*.rows"))


CELL = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.floats(-1e6, 1e6, allow_nan=False).map(repr),
    st.sampled_from(["", "NA", "x", "true", "a,b", 'q"q', "l\nl", " 1", "é"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=12), data=st.data())
def test_random_tables_are_read_as_pandas_reads_them(rows, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    pd.DataFrame(rows, columns=["a", "b", "c"]).to_csv(folder / "a.csv", index=False)
    source = CsvSource(folder / "a.csv")
    asked = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1)))
    missing = ["", "NA", "NaN", "null"]
    texts = pd.read_csv(folder / "a.csv", dtype=str, na_values=missing, keep_default_na=False).iloc[
        asked
    ]
    for name, read in source.read(asked).items():
        if read.dtype == object:
            assert read.tolist() == texts[name].fillna("").tolist()
        elif read.dtype == bool:
            assert read.tolist() == [text.strip() in ("true", "1") for text in texts[name]]
        else:
            expected = np.array([float(text) for text in texts[name].fillna("nan")])
            np.testing.assert_array_equal(read, expected.astype(read.dtype))


def test_wrong_arguments_are_answered(tmp_path):
    path = write(tmp_path, "a,b\n1,2\n")
    for arguments, message in [
        ({"types": {"a": "double"}}, r"expected one of int64, float32, bool, string\.$"),
        (
            {"types": {"z": "int64"}},
            r"'z' is not a column that is read; the columns are 'a', 'b'\.$",
        ),
        ({"features": "a"}, r"pass a list of column names"),
        ({"features": ["a"], "label": "a"}, r"the column 'a' is named twice"),
        ({"weight": "a"}, r"a weight needs a label"),
        ({"delimiter": "::"}, r"expected one ASCII character"),
        ({"missing": "NA"}, r"expected a list of texts"),
        ({"quarantine": "q"}, r"only used with on_bad_record="),
    ]:
        with pytest.raises(UserError, match=message):
            CsvSource(path, **arguments)
    with pytest.raises(UserError, match=r"is a folder; pass its files"):
        CsvSource(tmp_path)
