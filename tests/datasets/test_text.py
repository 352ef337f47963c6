"""Text as windows of bytes, split by file."""

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.datasets import text
from tfbig.datasets.text import TextSource, text_source
from tfbig.errors import UserError


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


@pytest.fixture
def folder(tmp_path):
    """Forty files whose bytes all say the file's number."""
    return write(tmp_path, {f"part{i % 4}/{i:02d}.txt": bytes([65 + i]) * 50 for i in range(40)})


def text_of(source):
    """The bytes that a source's windows cover."""
    tokens, following = source.read(np.arange(len(source)))
    return bytes(tokens.ravel().tolist()) + bytes([following[-1, -1]])


# Windows


def test_a_window_and_the_bytes_that_follow_are_read_for_each_number():
    source = TextSource(np.frombuffer(b"hello, world", np.uint8), sequence_length=4)
    assert len(source) == 2
    tokens, following = source.read([1, 0])
    assert [bytes(t.tolist()) for t in tokens] == [b"o, w", b"hell"]
    assert [bytes(t.tolist()) for t in following] == [b", wo", b"ello"]
    assert source.element_spec == (tf.TensorSpec([4], tf.int32),) * 2


@pytest.mark.parametrize(("size", "windows"), [(5, 1), (8, 1), (9, 2), (12, 2), (13, 3)])
def test_windows_meet_and_the_last_one_has_a_byte_to_predict(size, windows):
    source = TextSource(np.arange(size, dtype=np.uint8), sequence_length=4)
    tokens, following = source.read(np.arange(len(source)))
    assert len(source) == windows
    assert tokens.ravel().tolist() == list(range(4 * windows))
    np.testing.assert_array_equal(following, tokens + 1)


def test_bytes_above_127_stay_what_they_are():
    source = TextSource(np.frombuffer("€uro".encode(), np.uint8), sequence_length=3)
    assert source.read(np.array([0]))[0].tolist() == [[0xE2, 0x82, 0xAC]]


def test_a_text_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="^a text of 4 bytes is shorter than one window of 5 bytes"):
        TextSource(np.zeros([4], np.uint8), sequence_length=4)


# Folders


def test_each_file_is_in_one_split_and_none_is_lost(folder):
    train = text_of(text_source(folder, sequence_length=1, split="train", holdout=0.2))
    test = text_of(text_source(folder, sequence_length=1, split="test", holdout=0.2))
    pieces = train.split(b"\0") + test.split(b"\0")
    assert sorted(pieces) == [bytes([65 + i]) * 50 for i in range(40)]
    assert 2 <= len(test.split(b"\0")) <= 16


def test_a_file_stays_in_its_split_when_others_come(folder):
    def held_out():
        source = text_source(folder, sequence_length=1, split="test", holdout=0.2)
        return set(text_of(source).split(b"\0"))

    before = held_out()
    write(folder, {f"new/{i}.txt": bytes([200 + i]) * 9 for i in range(20)})
    text._read_split.cache_clear()
    after = held_out()
    assert before < after
    assert all(piece[0] >= 200 for piece in after - before)


def test_at_least_one_file_is_held_out(folder):
    test = text_source(folder, sequence_length=1, split="test", holdout=1e-9)
    assert len(text_of(test)) == 50


def test_of_a_single_file_the_end_is_held_out(tmp_path):
    write(tmp_path, {"all.txt": bytes(range(100))})
    assert text_of(text_source(tmp_path, sequence_length=1, holdout=0.1)) == bytes(range(90))
    test = text_source(tmp_path, sequence_length=1, holdout=0.1, split="test")
    assert text_of(test) == bytes(range(90, 100))


def test_only_files_with_these_endings_outside_hidden_folders_are_read(tmp_path):
    names = ("a.md", "b.md", "c.py", ".git/d.md", "__pycache__/e.md", "site-packages/f.md")
    write(tmp_path, {name: name.encode() * 2 for name in names})
    found = b""
    for split in ("train", "test"):
        found += text_of(text_source(tmp_path, ".md", sequence_length=1, split=split)) + b"\0"
    assert sorted(found.split(b"\0")) == [b"", b"a.mda.md", b"b.mdb.md"]


def test_max_bytes_limits_what_is_read(folder):
    source = text_source(folder, sequence_length=1, max_bytes=120)
    assert len(text_of(source)) == 120
    whole = text_of(text_source(folder, sequence_length=1))
    assert whole.startswith(text_of(source))


def test_the_default_is_python_source_of_the_standard_library():
    source = text_source(max_bytes=200_000)
    tokens, _ = source.read(np.arange(len(source)))
    content = bytes(tokens.astype(np.uint8).ravel())
    assert content.count(b"import ") > 20
    assert tokens.min() >= 0
    assert tokens.max() < text.VOCABULARY_SIZE


# input_fn


def test_input_fn_reads_the_split_of_its_mode(folder):
    data = {"folder": str(folder), "sequence_length": 10, "holdout": 0.2, "batch_size": 3}
    params = {"layers": 2, "data": {**data, "max_bytes": 300, "eval_max_bytes": 60}}
    train, held_out = text.input_fn("train", params), text.input_fn("eval", params)
    assert (train.batch_size, held_out.batch_size) == (3, 3)
    assert (len(train), len(held_out)) == (29, 5)
    assert not set(text_of(train)) & set(text_of(held_out)) - {0}
    del params["data"]["eval_max_bytes"]
    assert len(text.input_fn("eval", params)) > 5


# Bad input


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(folder="/absent"), r"^folder='/absent' is not a folder; pass one with text"),
        (dict(patterns=(".rst", ".md")), r"has no files whose names end in \.rst or \.md; pass an"),
        (dict(sequence_length=10_000), r"the train split has \d+ bytes, fewer than one window of"),
        (dict(sequence_length=0), "^sequence_length=0: expected an integer of 1 or more"),
        (dict(sequence_length="128"), "^sequence_length='128': expected an integer"),
        (dict(max_bytes=-5), "^max_bytes=-5: expected an integer of 1 or more"),
        (dict(holdout=1.0), "^holdout=1.0: expected a fraction between 0 and 1, such"),
        (dict(split="val"), "^split='val': expected one of 'train', 'test'"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(folder, arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        text_source(**{"folder": folder, **arguments})
    assert "\n" not in str(caught.value)


def test_an_unknown_name_in_params_data_is_refused():
    with pytest.raises(UserError, match=r"'seq_len'; the known ones are: batch_size, folder, pat"):
        tfbig.datasets.text.input_fn("train", {"data": {"seq_len": 3}})
