"""Text files that cannot be used: what is said of them, and what is read all the same."""

import json
import os

import numpy as np
import pytest

from tfbig.data import BadRecords, TextFolderSource
from tfbig.data.sources import text_folder_source
from tfbig.data.text import documents as text_documents

END = b"\xff"


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "corpus", {"a.txt": b"first", "b/c.txt": "zwölf €".encode()})


def text_of(folder, **keywords):
    source = TextFolderSource(folder, sequence_length=1, **keywords)
    tokens, following = source.read(np.arange(len(source)))
    return bytes([*tokens.ravel().tolist(), int(following[-1, -1])])


def quarantined(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


BAD = {
    "b.txt": (b"", "the file is empty"),
    "c.txt": (b"caf\xe9 au lait", "it is not utf-8 at byte 3 (0xe9)"),
    "d.txt": (b"cut off \xe2\x82", "it is not utf-8 at byte 8 (0xe2)"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(folder, name):
    content, reason = BAD[name]
    write(folder, {name: content})
    for _ in range(2):  # while the tokens are made, and from the file that keeps them
        with pytest.raises(BadRecords) as caught:
            text_of(folder)
        (bad,) = caught.value.found
        assert bad[:3] == (str(folder / name), None, reason)


def test_bad_files_are_left_out_and_written_down_whenever_the_source_is_made(folder, tmp_path):
    write(folder, {name: content for name, (content, _) in BAD.items()})
    for name in ("first.jsonl", "second.jsonl"):
        text = text_of(folder, on_bad_record="skip", quarantine=tmp_path / name)
        assert text == b"first" + END + "zwölf €".encode() + END
        found = quarantined(tmp_path / name)
        assert [(os.path.basename(bad["file"]), bad["reason"]) for bad in found] == [
            (name, reason) for name, (_, reason) in BAD.items()
        ]


def test_the_place_of_a_wrong_byte_is_right_in_a_large_file_and_nothing_of_it_stays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(text_documents, "_BLOCK", 7)
    monkeypatch.setattr(text_documents, "MAX_PIECE", 5)
    good = "€" * 200
    write(tmp_path / "c", {"a.txt": b"a", "b.txt": good.encode() + b"\xc0 rest", "c.txt": b"c"})
    assert text_of(tmp_path / "c", on_bad_record="skip") == b"a" + END + b"c" + END
    with pytest.raises(BadRecords, match=r"b\.txt: it is not utf-8 at byte 600 \(0xc0\)"):
        text_of(tmp_path / "c")


def test_a_line_of_json_without_a_text_has_its_number(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": 3}',
        b"",
        b'{"text": "cut',
        b'["text"]',
        b'{"text": ""}',
    ]
    lines += [b'{"text": "\\ud800"}', b'{"text": "\xe9"}', b'{"text": "end"}']
    write(tmp_path / "c", {"a.jsonl": b"\n".join(lines)})
    out = tmp_path / "out.jsonl"
    text = text_of(tmp_path / "c", patterns=".jsonl", on_bad_record="skip", quarantine=out)
    assert text == b"good" + END + b"end" + END
    assert [bad["record"] for bad in quarantined(out)] == [1, 3, 4, 5, 6, 7]


def test_a_file_that_vanished_is_reported_and_looked_for_again(folder, monkeypatch):
    walk = text_folder_source.files.walk
    gone = str(folder / "gone.txt")
    monkeypatch.setattr(text_folder_source.files, "walk", lambda path: [*walk(path), gone])
    with pytest.raises(BadRecords, match=r"gone\.txt: the file no longer exists\. Repair"):
        text_of(folder)
    assert text_of(folder, on_bad_record="skip").startswith(b"first")
    (folder / "gone.txt").write_bytes(b"back")
    assert b"back" in text_of(folder)


def test_a_file_that_may_not_be_read_is_reported_until_it_may(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patch:
        patch.setattr(text_documents.files, "open_binary", refuse)
        with pytest.raises(BadRecords, match=r"a\.txt: it cannot be read \(Permission denied\)"):
            text_of(folder)
    assert text_of(folder).startswith(b"first")
