"""CsvSource: what cannot be read is an error that names it, or left out and counted."""

import json
import random
import re

import numpy as np
import pytest

from tfbig.data import BadRecords, CsvSource
from tfbig.data.sources import csv_records
from tfbig.errors import UserError


def write(folder, text, name="a.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def quarantined(source):
    with open(source.quarantine.path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# The file, arguments, the numbers of the bad records, and the reason given for the first.
RECORDS = {
    "too few fields": ("a,b\n1,2\n3\n4,5\n6\n", {}, [1, 3], r"has 1 fields, not 2: '3' \(line 3\)"),
    "too many fields": ("a,b\n1,2,3\n4,5\n", {}, [0], r"has 3 fields, not 2: '1,2,3' \(line 2\)"),
    "after blank and long lines": (
        'a,b\n\n"1\n1",2\n\n\n3\n',
        {},
        [1],
        r"has 1 fields, not 2: '3' \(line 7\)",
    ),
    "no number": (
        "a,b\n1,2\nx,2\n3,y\n",
        {"types": {"a": "int64", "b": "float32"}},
        [1, 2],
        r"column 'a' has 'x', which is not a valid int64 \(line 3\)",
    ),
    "no whole number": (
        "a\n1\n2.5\n",
        {"types": {"a": "int64"}},
        [1],
        r"column 'a' has '2\.5', which is not a valid int64 \(line 3\)",
    ),
    "no truth value": (
        "a\nyes\ntrue\n",
        {"types": {"a": "bool"}},
        [0],
        r"column 'a' has 'yes', which is not a valid bool",
    ),
    "missing integer": (
        "a,b\n1,2\n,2\n",
        {"types": {"a": "int64"}},
        [1],
        r"column 'a' is missing, but int64 has no missing value; float32 has NaN",
    ),
    "too large": ("a\n1.5\n1e39\n", {}, [1], r"has 1e\+39, which is too large for float32"),
    "not UTF-8": (
        b"a,b\nx,1\ny\xff,2\nz,3\n",
        {},
        [1],
        r"column 'a' has bytes that are not UTF-8: b'y\\xff' \(line 3\)",
    ),
    "not UTF-8 and too few": (b"a,b\nx,1\ny\xff\nz,3\n", {}, [1], r"has 1 fields, not 2: b'y"),
    "a quote never closed": (
        'a,b\n1,x\n2,"y\n3,z\n4,w\n',
        {},
        [1],
        r"column 'b' spans 4 lines, and the quotes of the file are unbalanced",
    ),
    "a quote closed later": (
        'a,b\n1,"x"\n2,"y""\n3,"z"\n4,"w"\n',
        {},
        [1],
        r"column 'b' spans 2 lines, and the quotes of the file are unbalanced",
    ),
}


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_record_is_an_error_with_file_number_line_and_reason(case, tmp_path):
    text, arguments, bad, reason = RECORDS[case]
    with pytest.raises(BadRecords, match=rf"a\.csv, record {bad[0]}: .*{reason}"):
        CsvSource(write(tmp_path, text), **arguments)
    assert not list(tmp_path.glob("*.tfbig*"))


@pytest.mark.parametrize("case", RECORDS)
def test_a_bad_record_can_be_left_out_and_is_written_down(case, tmp_path):
    text, arguments, bad, _ = RECORDS[case]
    path = write(tmp_path, text)
    source = CsvSource(path, on_bad_record="skip", **arguments)
    assert [line["record"] for line in quarantined(source)] == bad
    assert source.quarantine.count == len(bad)
    again = CsvSource(path, on_bad_record="skip", quarantine=tmp_path / "q", **arguments)
    assert (len(again), again.quarantine.count) == (len(source), len(bad))
    with pytest.raises(BadRecords):  # what was converted without them is still not whole
        CsvSource(path, **arguments)


def test_what_is_left_out_does_not_change_the_rest(tmp_path):
    path = write(tmp_path, 'a,b\n1,2\n3\n4,5\n6,"7\n8,9"x\n10,11\n')
    read = CsvSource(path, on_bad_record="skip").read(np.arange(3))
    assert read["a"].tolist() == [1, 4, 10]
    assert read["b"].tolist() == [2, 5, 11]  # numbers, whatever stands in the bad records


FILES = {
    "empty": (b"", "the file is empty"),
    "blank": (b"\n\n", "the file has no records"),
    "header not UTF-8": (b"a\xff,b\n1,2\n", "its header is not UTF-8 text"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "its header is not UTF-8 text"),
    "column missing": (b"a\n1\n", r"there is no column 'b'; the columns are 'a'"),
    "column twice": (b"a,b,a\n1,2,3\n", "the column 'a' occurs twice"),
    "other columns": (
        b"a,b,c\n1,2,3\n",
        r"its columns differ from those of .*good\.csv: additional 'c'",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_is_an_error_that_names_it_or_is_left_out(case, tmp_path):
    data, reason = FILES[case]
    paths = [write(tmp_path, "a,b\n1,2\n3,4\n", "good.csv"), write(tmp_path, data, "other.csv")]
    with pytest.raises(BadRecords, match=rf"other\.csv: {reason}"):
        CsvSource(paths, label="b")
    source = CsvSource(paths, label="b", on_bad_record="skip")
    assert (len(source), source.quarantine.count) == (2, 1)
    [line] = quarantined(source)
    assert line["file"].endswith("other.csv")
    assert line["record"] is None


def test_with_nothing_left_to_read_there_is_an_error_anyway(tmp_path):
    with pytest.raises(UserError, match=r"no records to read in '.*a\.csv'; all records are bad"):
        CsvSource(write(tmp_path, "a,b\n1\n"), on_bad_record="skip")
    with pytest.raises(UserError, match=r"no records to read in '.*b\.csv'\.$"):
        CsvSource(write(tmp_path, "a,b\n", "b.csv"))
    with pytest.raises(UserError, match=r"there is no file '.*gone\.csv'; check the path"):
        CsvSource([tmp_path / "a.csv", tmp_path / "gone.csv"])


def test_a_compressed_file_that_ends_early_is_named(tmp_path):
    import gzip

    rows = b"".join(b"%d,%d\n" % (i, i) for i in range(1000))
    path = write(tmp_path, gzip.compress(b"a,b\n" + rows)[:-30], "a.csv.gz")
    with pytest.raises(BadRecords, match=r"a\.csv\.gz: .*[Tt]runcated"):
        CsvSource(path)


def test_a_record_longer_than_what_is_parsed_at_once_ends_the_file_and_is_told_of(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(csv_records, "_BLOCK", 1 << 12)
    text = "a,b\n" + "1,x\n" * 2000 + '2,"' + "y\n" * 10_000 + '"\n3,z\n'
    source = CsvSource(write(tmp_path, text), on_bad_record="skip")
    [line] = quarantined(source)
    assert (
        "this record and all that follow cannot be read: a quote is never closed" in line["reason"]
    )
    assert len(source) == line["record"] > 0


def test_every_record_is_either_read_or_written_down(tmp_path):
    rng = random.Random(0)
    for trial in range(40):
        lines = [f"{i},{i / 7:.3f},name{i}" for i in range(60)]
        damaged = set(rng.sample(range(60), rng.randint(0, 20)))
        for i in damaged:
            lines[i] = rng.choice(
                [f"{i}", f"{i},1,2,3", f"x{i},1,n", f"{i},z,n", f"{i},,", f"{i},1e40,n", ","]
            )
        kept = {i for i in range(60) if i not in damaged or lines[i] == f"{i},,"}
        path = write(tmp_path, "id,x,s\n" + "\n".join(lines), f"{trial}.csv")
        source = CsvSource(path, types={"id": "int64", "x": "float32"}, on_bad_record="skip")
        ids = set(source.read(np.arange(len(source)))["id"].tolist())
        assert ids == kept
        left_out = {line["record"] for line in quarantined(source)} if len(kept) < 60 else set()
        assert left_out == set(range(60)) - kept


def test_random_bytes_changed_never_crash_and_lose_no_record_silently(tmp_path):
    rng = random.Random(1)
    text = "id,x,s\n" + "".join(f'{i},{i / 7:.3f},"name, {i}"\n' for i in range(100))
    for trial in range(150):
        data = bytearray(text.encode())
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(7, len(data))
            how = rng.choice("change insert delete cut".split())
            if how == "change":
                data[place] = rng.randrange(256)
            elif how == "insert":
                data.insert(place, rng.choice([0x22, 0x2C, 0x0A, 0xFF, 0x41, 0x00]))
            elif how == "delete":
                del data[place]
            else:
                del data[max(place, 1500) :]
        path = write(tmp_path, bytes(data), f"{trial}.csv")
        source = CsvSource(path, types={"s": "string"}, on_bad_record="skip")
        read = source.read(np.arange(len(source)))
        assert not [s for s in read["s"] if s.count("name") > 1], path
        found = quarantined(source) if source.quarantine.count else []
        lines = bytes(data).replace(b"\r", b"\n").split(b"\n")
        swallowed = sum(
            int(spanned[1]) - 1
            for line in found
            if (spanned := re.search(r"(?:on|spans) (\d+) lines", line["reason"]))
        )
        assert len(source) + len(found) + swallowed >= sum(map(bool, lines)) - 1 - sum(
            s.count("\n") for s in read["s"]
        )
