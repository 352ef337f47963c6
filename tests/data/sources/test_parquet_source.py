"""ParquetSource: rows of Parquet files, by number."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from pyarrow import parquet

from tfbig.data import BadRecords, ParquetSource
from tfbig.errors import UserError


def write(folder, columns, name="a.parquet", **options):
    path = folder / name
    parquet.write_table(pa.table(columns), path, **options)
    return path


def everything(source):
    return source.read(np.arange(len(source)))


def test_rows_come_from_all_row_groups_in_the_order_asked_for(tmp_path):
    rng = np.random.default_rng(0)
    columns = {
        "n": rng.integers(-(2**40), 2**40, 1000),
        "x": rng.normal(size=1000),
        "city": rng.choice(["Oslo", "Köln", ""], 1000).astype(object),
        "y": rng.integers(0, 2, 1000).astype(bool),
        "w": rng.random(1000, np.float32),
    }
    path = write(tmp_path, columns, row_group_size=77)
    asked = rng.integers(0, 1000, 300)
    features, label, weight = ParquetSource(path, label="y", weight="w").read(asked)
    np.testing.assert_array_equal(features["n"], columns["n"][asked])
    np.testing.assert_array_equal(features["x"], columns["x"][asked].astype(np.float32))
    np.testing.assert_array_equal(features["city"], columns["city"][asked])
    np.testing.assert_array_equal(label, columns["y"][asked])
    np.testing.assert_array_equal(weight, columns["w"][asked])
    assert label.dtype == bool


def test_numbers_of_all_widths_become_int64_and_float32(tmp_path):
    types = [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()]
    types += [pa.float16(), pa.float64(), pa.decimal128(6, 2)]
    values = [decimal.Decimal(v) if pa.types.is_decimal(t) else v for t in types for v in (1, 2)]
    pairs = zip(types, np.reshape(np.array(values, object), [-1, 2]).tolist(), strict=True)
    path = write(tmp_path, {str(t): pa.array(pair).cast(t) for t, pair in pairs})
    read = everything(ParquetSource(path))
    assert [v.dtype for v in read.values()] == [np.int64] * 4 + [np.float32] * 3
    assert all(v.tolist() == [1, 2] for v in read.values())


def test_texts_of_all_encodings_become_str_and_binary_ones_bytes(tmp_path):
    path = write(
        tmp_path,
        {
            "s": ["a", None, "é"],
            "d": pa.array(["x", "y", None]).dictionary_encode(),
            "l": pa.array(["p", "q", "r"], pa.large_string()),
            "b": pa.array([b"\xff", None, b""]),
            "f": pa.array([b"12", b"34", b"56"], pa.binary(2)),
        },
    )
    read = ParquetSource(path).read(np.array([2, 1, 0]))
    assert {name: value.tolist() for name, value in read.items()} == {
        "s": ["é", "", "a"],
        "d": ["", "y", "x"],
        "l": ["r", "q", "p"],
        "b": [b"", b"", b"\xff"],
        "f": [b"56", b"34", b"12"],
    }


def test_missing_numbers_are_nan_wherever_they_stand(tmp_path):
    write(tmp_path, {"i": [1, 2], "b": [True, False], "x": [1.5, 2.5]}, "0.parquet")
    columns = {"i": [3, None], "b": [None, True], "x": [None, 3.5]}
    for statistics in (True, False):
        write(tmp_path, columns, "1.parquet", write_statistics=statistics)
        read = everything(ParquetSource([tmp_path / "0.parquet", tmp_path / "1.parquet"]))
        nan = np.nan
        for name, expected in {
            "i": [1, 2, 3, nan],
            "b": [1, 0, nan, 1],
            "x": [1.5, 2.5, nan, 3.5],
        }.items():
            np.testing.assert_array_equal(read[name], np.array(expected, np.float32))


def test_times_are_integers_in_the_unit_of_their_type(tmp_path):
    when = datetime.datetime(2024, 2, 29, 12)
    path = write(
        tmp_path,
        {
            "ms": pa.array([when, None], pa.timestamp("ms")),
            "ns": pa.array([when, when], pa.timestamp("ns", "UTC")),
            "day": pa.array([when.date(), None], pa.date32()),
            "time": pa.array([when.time(), when.time()], pa.time32("ms")),
            "long": pa.array([datetime.timedelta(hours=1)] * 2, pa.duration("us")),
        },
    )
    read = everything(ParquetSource(path))
    assert all(value.dtype == np.int64 for value in read.values())
    missing = np.iinfo(np.int64).min
    assert read["ms"].tolist() == [1709208000_000, missing]
    assert read["ms"].view("datetime64[ms]")[0] == np.datetime64(when)
    assert np.isnat(read["ms"].view("datetime64[ms]")[1])
    assert read["ns"][0] == 1709208000 * 10**9
    assert read["day"].tolist() == [19782, missing]
    assert (read["time"][0], read["long"][0]) == (12 * 3600_000, 3600 * 10**6)


def test_lists_of_a_fixed_length_become_rows_of_arrays(tmp_path):
    fixed = pa.array([[1.0, 2.0], None, [3.0, None]], pa.list_(pa.float64(), 2))
    path = write(tmp_path, {"f": fixed, "l": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}, row_group_size=2)
    source = ParquetSource(path)
    assert source.element_spec["l"].shape == (3,)
    read = source.read(np.array([2, 0, 1]))
    nan = np.nan
    np.testing.assert_array_equal(read["f"], np.array([[3, nan], [1, 2], [nan, nan]], np.float32))
    np.testing.assert_array_equal(read["l"], [[7, 8, 9], [1, 2, 3], [4, 5, 6]])


COLUMN = st.sampled_from(
    [
        st.integers(-(2**63), 2**63 - 1),
        st.one_of(st.none(), st.integers(-(2**24), 2**24)),
        st.one_of(st.none(), st.floats(width=32, allow_nan=False)),
        st.one_of(st.none(), st.text(st.characters(codec="utf-8"))),
        st.booleans(),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_tables_are_read_as_pyarrow_reads_them(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    length = data.draw(st.integers(1, 20))
    columns = {
        f"c{i}": pa.array(data.draw(st.lists(values, min_size=length, max_size=length)))
        for i, values in enumerate(data.draw(st.lists(COLUMN, min_size=1, max_size=4)))
    }
    path = write(folder, columns, row_group_size=data.draw(st.integers(1, 20)))
    asked = data.draw(st.lists(st.integers(0, length - 1), min_size=1, max_size=30))
    expected = parquet.read_table(path).take(asked)
    for name, read in ParquetSource(path).read(np.array(asked)).items():
        texts = pa.types.is_string(expected[name].type)
        nothing = "" if texts else np.nan
        values = [nothing if v is None else v for v in expected[name].to_pylist()]
        if texts:
            assert read.tolist() == values
        else:
            np.testing.assert_array_equal(read, np.array(values, read.dtype))


def test_one_column_of_all_rows_can_be_had_to_split_by(tmp_path):
    path = write(tmp_path, {"x": [1.0, 2.0, 3.0], "who": ["a", "b", "a"], "y": [0, 1, 0]})
    source = ParquetSource(path, label="y")
    assert source.column("y").tolist() == [0, 1, 0]
    assert source.column("who").tolist() == ["a", "b", "a"]
    with pytest.raises(UserError, match=r"column\('z'\): the columns are 'x', 'who', 'y'\.$"):
        source.column("z")


def test_remote_files_are_read(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    path = write(tmp_path, {"a": [1, 2]})
    with fsspec.open("memory://parquet/a.parquet", "wb") as file:
        file.write(path.read_bytes())
    assert everything(ParquetSource("memory://parquet/*.parquet"))["a"].tolist() == [1, 2]
    assert list((tmp_path / "cache").glob("*.tfbig-*.rows"))


FILES = {
    "empty": (lambda data: b"", "the file is empty"),
    "truncated": (lambda data: data[:-100], "cannot be read as Parquet"),
    "other": (lambda data: b"a,b\n1,2\n", "cannot be read as Parquet"),
    "footer": (lambda data: data[:-60] + b"\xff" * 40 + data[-20:], "cannot be read as Parquet"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_parquet_is_an_error_that_names_it_or_is_left_out(case, tmp_path):
    good = write(tmp_path, {"a": [1, 2], "b": [3, 4]}, "good.parquet")
    damage, reason = FILES[case]
    other = tmp_path / "other.parquet"
    other.write_bytes(damage(good.read_bytes()))
    with pytest.raises(BadRecords, match=rf"other\.parquet: .*{reason}"):
        ParquetSource([good, other])
    source = ParquetSource([good, other], on_bad_record="skip")
    assert (len(source), source.quarantine.count) == (2, 1)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"a": [1]}, r"there is no column 'b'; the columns are 'a'"),
        ({"a": [1], "b": [2], "c": [3]}, r"its columns differ from those of .*: additional 'c'"),
        (
            {"a": [1], "b": ["x"]},
            r"its column 'b' is string, but in the previous files it is int64",
        ),
    ],
)
def test_a_file_with_other_columns_is_named_or_left_out(columns, reason, tmp_path):
    paths = [write(tmp_path, {"a": [1, 2], "b": [3, 4]}), write(tmp_path, columns, "b.parquet")]
    with pytest.raises(BadRecords, match=rf"b\.parquet: {reason}"):
        ParquetSource(paths, label="b")
    source = ParquetSource(paths, label="b", on_bad_record="skip")
    assert (len(source), source.quarantine.count) == (2, 1)


def test_a_damaged_row_group_is_left_out_and_its_size_told(tmp_path):
    path = write(
        tmp_path,
        {"a": np.arange(3000), "x": np.ones(3000)},
        row_group_size=1000,
        use_dictionary=False,
        compression="none",  # so that nothing but the checksum can tell
        write_page_checksum=True,
    )
    chunk = parquet.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    place = chunk.data_page_offset + chunk.total_compressed_size // 2
    data[place : place + 50] = b"\0" * 50
    path.write_bytes(bytes(data))
    told = (
        r"a\.parquet, record 1000: this record and the 999 after it cannot be read \(row group 1\)"
    )
    with pytest.raises(BadRecords, match=told):
        ParquetSource(path)
    read = everything(ParquetSource(path, on_bad_record="skip"))
    assert read["a"].tolist() == [*range(1000), *range(2000, 3000)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1, 2], [3], [4, 5]], r"is a list of 1 numbers, not of 2"),
        ([[1, 2], None, [4, 5]], r"is missing, but int64 has no missing value"),
        ([[1, 2], [3, None], [4, 5]], r"is missing, .* \(at index 1\)"),
        (pa.array([1, 2**63, 3], pa.uint64()), r"has 9223372036854775808, which is too large"),
        ([1.0, 1e300, 2.0], r"has 1e\+300, which is too large for float32"),
        (pa.array([b"a", b"\xff", b"b"]).view(pa.string()), r"has bytes that are not UTF-8"),
    ],
)
def test_a_bad_value_is_an_error_with_its_record_or_is_left_out(values, reason, tmp_path):
    path = write(tmp_path, {"v": values, "n": [0, 1, 2]})
    with pytest.raises(BadRecords, match=rf"a\.parquet, record 1: column 'v' .*{reason}"):
        ParquetSource(path)
    source = ParquetSource(path, on_bad_record="skip")
    assert everything(source)["n"].tolist() == [0, 2]
    assert source.quarantine.count == 1


def test_a_column_that_cannot_be_an_array_is_refused_unless_it_is_left_out(tmp_path):
    path = write(tmp_path, {"a": [1], "s": [{"x": 1}], "t": [["x"]], "e": pa.array([[]])})
    with pytest.raises(UserError, match=r"column 's' of .* select other columns with features="):
        ParquetSource(path)
    with pytest.raises(UserError, match=r"the type list<.*string>, which cannot be an array"):
        ParquetSource(path, features=["a", "t"])
    assert everything(ParquetSource(path, features=["a"]))["a"].tolist() == [1]


def test_random_damage_never_crashes(tmp_path):
    rng = np.random.default_rng(0)
    columns = {"a": np.arange(400), "x": rng.random(400), "s": [f"t{i % 7}" for i in range(400)]}
    data = write(tmp_path, columns, row_group_size=100, compression="zstd").read_bytes()
    for trial in range(60):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path = tmp_path / f"{trial}.parquet"
        path.write_bytes(bytes(damaged))
        try:
            source = ParquetSource(path, on_bad_record="skip")
        except UserError:
            continue
        assert len(everything(source)["a"]) + 100 * source.quarantine.count >= 400


@pytest.mark.parametrize("other", [pa.timestamp("us"), pa.date64(), pa.int64()])
def test_times_that_count_in_another_unit_than_those_of_the_first_file_are_refused(tmp_path, other):
    write(tmp_path, {"t": pa.array([1, 2], pa.timestamp("ms"))}, "a.parquet")
    write(tmp_path, {"t": pa.array([3], pa.timestamp("ms", "UTC"))}, "b.parquet")
    pattern = tmp_path / "*.parquet"
    assert everything(ParquetSource(pattern))["t"].tolist() == [1, 2, 3]
    write(tmp_path, {"t": pa.array([86_400_000], other)}, "c.parquet")
    with pytest.raises(
        BadRecords,
        match=r"c\.parquet: its column 't' is .*, but in the previous files .* timestamp\[ms\]",
    ):
        ParquetSource(pattern)
    assert len(ParquetSource(pattern, on_bad_record="skip")) == 3


def test_a_list_that_is_empty_does_not_tell_the_length_of_the_others(tmp_path):
    path = str(tmp_path / "lists.parquet")
    parquet.write_table(pa.table({"x": [[], [1, 2], [3, 4]], "y": [0, 1, 2]}), path)
    with pytest.raises(BadRecords, match="record 0: .*is a list of 0 numbers, not of 2"):
        ParquetSource(path, label="y")
    source = ParquetSource(path, label="y", on_bad_record="skip")
    assert source.read(np.arange(2))[0]["x"].tolist() == [[1, 2], [3, 4]]
