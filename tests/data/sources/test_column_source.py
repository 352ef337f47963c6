"""The converted table behind CsvSource and ParquetSource: kept, and made anew when stale."""

import os

import numpy as np
import pytest

from tfbig.data import CsvSource
from tfbig.data.sources import column_source
from tfbig.data.sources.row_cache import Column, RowCache, RowCacheWriter
from tfbig.errors import UserError


def write(folder, text, name="a.csv"):
    path = folder / name
    path.write_text(text)
    return path


def cache_of(folder):
    [path] = folder.glob("*.tfbig-*.rows")
    return path


def values(source):
    return source.read(np.arange(len(source)))["a"].tolist()


@pytest.fixture
def builds(monkeypatch):
    """Counts how often a table is converted."""
    calls = []
    build = column_source.ColumnSource._build

    def counted(self, *arguments):
        calls.append(arguments)
        return build(self, *arguments)

    monkeypatch.setattr(column_source.ColumnSource, "_build", counted)
    return calls


def test_the_table_is_converted_once(tmp_path, builds):
    path = write(tmp_path, "a,b\n1,2\n3,4\n")
    assert values(CsvSource(path)) == values(CsvSource(str(path))) == [1, 3]
    assert len(builds) == 1
    CsvSource(path, label="b")  # other columns are another table
    assert len(builds) == 2
    CsvSource(path)
    assert len(builds) == 2


def test_it_is_made_anew_when_a_file_has_changed(tmp_path, builds):
    path = write(tmp_path, "a\n1\n3\n")
    old = CsvSource(path)
    write(tmp_path, "a\n1\n3\n5\n")
    assert values(CsvSource(path)) == [1, 3, 5]
    assert values(old) == [1, 3]
    write(tmp_path, "a\n1\n3\n7\n")
    os.utime(path, (1, 1))  # of the same size, at another time
    assert values(CsvSource(path)) == [1, 3, 7]
    assert len(builds) == 3


DAMAGES = {
    "truncated": lambda data: data[:-20],
    "empty": lambda data: b"",
    "other": lambda data: b"x" * len(data),
    "lengthened": lambda data: data + b"\0",
    "rows missing": lambda data: data[:10] + data[20:],
    "footer changed": lambda data: data.replace(b'"length"', b'"lengta"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_it_is_made_anew_when_it_is_damaged(damage, tmp_path, caplog):
    path = write(tmp_path, "a\n1\n3\n")
    CsvSource(path)
    cache = cache_of(tmp_path)
    cache.write_bytes(DAMAGES[damage](cache.read_bytes()))
    assert values(CsvSource(path)) == [1, 3]
    assert "is damaged" in caplog.text
    assert cache_of(tmp_path)


def test_nothing_half_made_is_left_behind(tmp_path, monkeypatch):
    path = write(tmp_path, "a\n1\n3\n")

    def fail(self, footer):
        raise OSError("no space left on device")

    monkeypatch.setattr(RowCacheWriter, "finish", fail)
    with pytest.raises(OSError, match="no space left"):
        CsvSource(path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


def test_it_is_kept_in_the_cache_folder_where_the_data_cannot_be_written_beside(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("os.access", lambda *arguments: False)
    data = tmp_path / "data"
    data.mkdir()
    assert values(CsvSource(write(data, "a\n1\n3\n"))) == [1, 3]
    assert cache_of(tmp_path / "cache")
    assert len(list(data.iterdir())) == 1


def test_a_pattern_for_all_files_of_a_folder_leaves_out_what_is_kept_beside_them(tmp_path):
    write(tmp_path, "a,b\n1,2\n3\n", "0")
    for _ in range(2):
        source = CsvSource(tmp_path / "*", on_bad_record="skip")
        assert (values(source), source.quarantine.count) == ([1], 1)


def test_texts_that_are_damaged_on_disk_are_told_of_when_they_are_read(tmp_path):
    import pyarrow as pa

    path = str(tmp_path / "t.rows")
    with RowCacheWriter(path, [Column("s", "string"), Column("x", "float32", (2,))]) as writer:
        writer.append([pa.array(["abc", "", "abc"]), np.ones([3, 2], np.float32)])
        writer.finish({})
    read = RowCache(path).read(np.array([1, 2, 0]))
    assert read["s"].tolist() == ["", "abc", "abc"]
    assert read["x"].shape == (3, 2)
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data.replace(b"abc", b"a\xffc"))
    with pytest.raises(UserError, match=r"t\.rows is damaged; delete it"):
        RowCache(path).read(np.array([0]))


def test_several_threads_may_read_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = write(tmp_path, "a,s\n" + "".join(f"{i},t{i}\n" for i in range(1000)))
    source = CsvSource(path)
    asked = [np.random.default_rng(i).integers(0, 1000, 300) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for indices, read in zip(asked, pool.map(source.read, asked), strict=True):
            np.testing.assert_array_equal(read["a"], indices)
            assert read["s"].tolist() == [f"t{i}" for i in indices]
