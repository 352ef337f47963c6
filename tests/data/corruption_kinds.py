"""The kinds of sources whose files are damaged: how they are written, and what may be lost."""

import collections
import csv
import json
import pathlib
import re

import numpy as np

import tfbig.data

Records = dict[pathlib.Path, list]  # the keys of each file's records, in their order
_WORDS = ("über", "naïve", "plain", "日本", "a, b", 'say "so"', "end")


class Kind:
    """A source over files of its kind.

    Attributes:
        checksums: whether every change of a record is noticed.
        mapped: whether its files stay mapped into memory while the source is open.
        copied: whether an open source reads its own copy of the data.
        whole: whether a damaged file is an error even where bad records are left out.
    """

    checksums = False
    mapped = False
    copied = False
    whole = False

    def write(self, folder: pathlib.Path) -> dict[str, list]:
        """Writes files; returns the keys of each one's records, by its name."""
        records = self._write(folder)
        self._before = {(folder / name).name: (folder / name).read_bytes() for name in records}
        return records

    def _write(self, folder: pathlib.Path) -> dict[str, list]:
        raise NotImplementedError

    def open(self, folder: pathlib.Path, paths: list[str], options: dict) -> tfbig.data.Source:
        raise NotImplementedError

    def keys(self, batch) -> list:
        """What the examples of a batch are known by."""
        raise NotImplementedError

    def problem(
        self, records: Records, read: collections.Counter, entries: list[dict], was_open: bool
    ) -> str:
        """What is wrong with the account of the records, or "".

        Args:
            records: as they were before the damage.
            read: how often each key was read.
            entries: of the quarantine.
            was_open: whether the damage was done while the source was open.
        """
        for path, keys in records.items():
            mine = [entry for entry in entries if pathlib.Path(entry["file"]) == path]
            lost = [keys[i] for i, key in enumerate(keys) if not read[key] and not _left(mine, i)]
            changed = not self._is_as_before(path) and not (was_open and self.copied)
            if lost and not (changed and self._may_lose(path, keys, lost, read, mine)):
                return f"lost {len(lost)} records of {path.name} without a word, as {lost[0]!r}"
        return ""

    def _may_lose(
        self,
        path: pathlib.Path,
        keys: list,
        lost: list,
        read: collections.Counter,
        entries: list[dict],
    ) -> bool:
        """Whether a damaged file need not tell of these records that were not read as they were."""
        return False

    def _now(self, path: pathlib.Path) -> bytes:
        return path.read_bytes() if path.exists() else b""

    def _is_as_before(self, path: pathlib.Path) -> bool:
        return self._now(path) == self._before[path.name]


def _left(entries: list[dict], number: int) -> bool:
    """Whether a record is among those left out."""
    for entry in entries:
        first = entry["record"]
        after = re.search(r"this record and the (\d+) after it", entry["reason"])
        last = first if after is None or first is None else first + int(after[1])
        if first is None or first <= number <= last:
            return True
        if first <= number and re.search("all that follow|the last .* bytes", entry["reason"]):
            return True
    return False


class TFRecords(Kind):
    """Records of 0 to 300 bytes; their lengths and their data have checksums."""

    checksums = True

    def _write(self, folder):
        import tensorflow as tf

        random = np.random.default_rng(0)
        records = {}
        for name, count in (("a.tfrecord", 1), ("b.tfrecord", 40), ("c.tfrecord", 25)):
            records[name] = [
                name.encode() + bytes([i]) + random.bytes(random.integers(300))
                for i in range(count)
            ]
            with tf.io.TFRecordWriter(str(folder / name)) as writer:
                for record in records[name]:
                    writer.write(record)
        return records

    def open(self, folder, paths, options):
        return tfbig.data.TFRecordSource(paths, **options)

    def keys(self, batch):
        return batch.tolist()

    def _may_lose(self, path, keys, lost, read, entries):
        """What a file of so many bytes cannot know of, as it does not say how many records it has.

        It may end between two records; or a piece as long as some records is gone, so that those
        before and after it join, and only the one in which they do has a wrong checksum.
        """
        before, now = len(self._before[path.name]), len(self._now(path))
        sizes = [len(key) + 16 for key in lost]
        return (bool(entries) and sum(sizes) <= before - now) or (
            lost == keys[len(keys) - len(lost) :] and now == before - sum(sizes)
        )


class ArrayRecords(TFRecords):
    """The same records, in groups of one and of four; a file says how many it has."""

    _may_lose = Kind._may_lose

    def _write(self, folder):
        from array_record.python import array_record_module

        random = np.random.default_rng(0)
        records = {}
        for name, count, group in (("a", 1, 1), ("b", 40, 1), ("c", 26, 4)):
            name += ".array_record"
            records[name] = [
                name.encode() + bytes([i]) + random.bytes(random.integers(300))
                for i in range(count)
            ]
            writer = array_record_module.ArrayRecordWriter(
                str(folder / name), f"group_size:{group}"
            )
            for record in records[name]:
                writer.write(record)
            writer.close()
        return records

    def open(self, folder, paths, options):
        return tfbig.data.ArrayRecordSource(paths, **options)


class Table(Kind):
    """Rows of an integer, a number and a text."""

    copied = True

    def _rows(self, name: str, count: int) -> list[tuple]:
        random = np.random.default_rng(count)
        first = 1000 * count
        return [
            (first + i, float(np.float32(random.normal())), f"{random.choice(_WORDS)} {name}{i}")
            for i in range(count)
        ]

    def keys(self, batch):
        return list(
            zip(batch["id"].tolist(), batch["x"].tolist(), batch["text"].tolist(), strict=True)
        )


class Csv(Table):
    """Text without checksums: what still is a proper row is read as it is."""

    def _write(self, folder):
        records = {}
        for name, count in (("a.csv", 30), ("b.csv", 3), ("c.csv", 50)):
            records[name] = self._rows(name, count)
            with open(folder / name, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["id", "x", "text"])
                writer.writerows(records[name])
        return records

    def open(self, folder, paths, options):
        types = {"id": "int64", "x": "float32", "text": "string"}
        return tfbig.data.CsvSource(paths, features=list(types), types=types, **options)

    def _may_lose(self, path, keys, lost, read, entries):
        """Lines that still stand there are read, or are in a record that was left out.

        Two quotes may have come to stand so that the lines between them are one proper text.
        """
        before = self._before[path.name].split(b"\n")[1:]
        now = collections.Counter(self._now(path).split(b"\n")[1:])
        numbers = {key: number for number, key in enumerate(keys)}
        standing = [key for key in lost if now[before[numbers[key]]]]
        swallowed = sum(key[2].count("\n") for key in read)
        return len(standing) <= swallowed + sum(_lines(entry) for entry in entries)


def _lines(entry: dict) -> float:
    """How many lines a record that was left out may have."""
    if entry["record"] is None or "all that follow" in entry["reason"]:
        return float("inf")
    lines = re.search(r"(?:on|spans) (\d+) lines", entry["reason"])
    return int(lines[1]) if lines else 1


class Parquet(Table):
    """Row groups whose pages have checksums; what describes them has none."""

    def _write(self, folder):
        import pyarrow as pa
        from pyarrow import parquet

        records = {}
        for name, count in (("a.parquet", 30), ("b.parquet", 3), ("c.parquet", 50)):
            rows = records[name] = self._rows(name, count)
            columns = dict(zip(("id", "x", "text"), zip(*rows, strict=True), strict=True))
            parquet.write_table(
                pa.table(columns), folder / name, row_group_size=8, write_page_checksum=True
            )
        return records

    def open(self, folder, paths, options):
        return tfbig.data.ParquetSource(paths, features=["id", "x", "text"], **options)


class Npy(Kind):
    """Arrays without checksums: other numbers are read as they are, but not fewer."""

    mapped = True
    whole = True

    def _write(self, folder):
        x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
        y = np.arange(200) * 7
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
        return {"x.npy": [row.tobytes() for row in x], "y.npy": y.tolist()}

    def open(self, folder, paths, options):
        return tfbig.data.NpySource(tuple(paths))

    def keys(self, batch):
        x, y = batch
        return [row.tobytes() for row in x] + np.asarray(y).tolist()

    def problem(self, records, read, entries, was_open):
        if sum(read.values()) != sum(map(len, records.values())):
            return f"read {sum(read.values()) // 2} examples"
        for path, keys in records.items():
            if self._is_as_before(path) and any(not read[key] for key in keys):
                return f"changed the numbers of {path.name}, which is as it was"
            if path.exists() and len(self._now(path)) != len(self._before[path.name]):
                return f"took {path.name} of another size"
        return ""


class Text(Kind):
    """Documents without checksums: what still is UTF-8 is read as it is."""

    _length = 16

    def _write(self, folder):
        random = np.random.default_rng(0)
        for name, words in (("a.txt", 40), ("b.txt", 300), ("c.txt", 200)):
            text = " ".join(random.choice(_WORDS, size=words))
            (folder / name).write_text(text, encoding="utf-8")
        lines = [
            json.dumps({"text": " ".join(random.choice(_WORDS, size=20))}, ensure_ascii=i % 2 == 0)
            for i in range(30)
        ]
        (folder / "d.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return {path.name: [] for path in folder.iterdir()}

    def open(self, folder, paths, options):
        return tfbig.data.TextFolderSource(paths, sequence_length=self._length, **options)

    def keys(self, batch):
        tokens, following = batch
        return [
            (*tuple(a), b[-1]) for a, b in zip(tokens.tolist(), following.tolist(), strict=True)
        ]

    def problem(self, records, read, entries, was_open):
        joined = b""
        expected_entries = set()
        for path in sorted(records):
            data = self._before[path.name] if was_open else self._now(path)
            for record, text in _documents(path, data):
                joined += b"" if text is None else text + b"\xff"
                if text is None:
                    expected_entries.add((str(path), record))
        size, count = self._length, (len(joined) - 1) // self._length
        windows = [tuple(joined[i * size : (i + 1) * size + 1]) for i in range(count)]
        if read != collections.Counter(windows):
            return f"read {sum(read.values())} windows, not the {count} of the text that is there"
        if {(entry["file"], entry["record"]) for entry in entries} != expected_entries:
            return f"did not leave out {expected_entries}"
        return ""


def _documents(path: pathlib.Path, data: bytes) -> list[tuple[int | None, bytes | None]]:
    """The documents as they stand there; None for those that are none."""
    if path.suffix == ".txt" or not data:
        return [(None, data if data and _is_text(data) else None)]
    lines = enumerate(data.split(b"\n"))
    return [(i, _text_of(line)) for i, line in lines if line.strip()]


def _text_of(line: bytes) -> bytes | None:
    try:
        text = json.loads(line.decode())["text"]
        return text.encode() or None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Images(Kind):
    """PNG, whose checksums Pillow does not all look at, and JPEG and BMP, which have none."""

    def _write(self, folder):
        from PIL import Image

        random = np.random.default_rng(0)
        records = {}
        for i in range(24):
            ending = ("png", "jpg", "bmp")[i % 3]
            name = f"{'cat' if i % 2 else 'dog'}/{i}.{ending}"
            (folder / name).parent.mkdir(exist_ok=True)
            noise = random.integers(256, size=[12, 12, 3], dtype=np.uint8)
            Image.fromarray(noise).save(folder / name)
            with Image.open(folder / name) as image:
                records[name] = [(i % 2, np.asarray(image).tobytes())]
        return records

    def open(self, folder, paths, options):
        classes = ("dog", "cat")
        return tfbig.data.ImageFolderSource(folder, image_size=12, classes=classes, **options)

    def keys(self, batch):
        images, labels = batch
        return [(int(y), x.tobytes()) for x, y in zip(images, labels, strict=True)]

    def problem(self, records, read, entries, was_open):
        """Of a folder, what is not there any more is not missed; all that is there is told of."""
        gone = sum(not path.exists() for path in records) if not was_open else 0
        if sum(read.values()) + len(entries) + gone != len(records):
            return f"read {sum(read.values())} of {len(records)} images"
        return super().problem(records, read, entries, was_open)

    def _may_lose(self, path, keys, lost, read, entries):
        return True


KINDS = {
    "ArrayRecordSource": ArrayRecords,
    "CsvSource": Csv,
    "ImageFolderSource": Images,
    "NpySource": Npy,
    "ParquetSource": Parquet,
    "TFRecordSource": TFRecords,
    "TextFolderSource": Text,
}
