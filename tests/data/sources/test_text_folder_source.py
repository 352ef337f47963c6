"""TextFolderSource: files to tokens, kept in a file of their own."""

import json
import os
import sys
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tfbig.data import TextFolderSource
from tfbig.data.sources import text_folder_source
from tfbig.data.text import documents as text_documents
from tfbig.errors import UserError

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


@pytest.fixture
def built(monkeypatch):
    """The number of files that each write of a token file reads."""
    calls = []

    def counted(writer, paths, *arguments):
        calls.append(len(paths))
        return original(writer, paths, *arguments)

    original = text_folder_source._write
    monkeypatch.setattr(text_folder_source, "_write", counted)
    return calls


def tokens_of(source):
    """All tokens that a source's windows cover."""
    tokens, following = source.read(np.arange(len(source)))
    return [*tokens.ravel().tolist(), int(following[-1, -1])]


def text_of(folder, **keywords):
    return bytes(tokens_of(TextFolderSource(folder, sequence_length=1, **keywords)))


# Bytes


def test_files_are_documents_in_the_order_of_their_names_each_with_its_end(folder):
    assert text_of(folder) == b"first" + END + "zwölf €".encode() + END
    source = TextFolderSource(str(folder), sequence_length=5)
    assert (source.vocabulary_size, source.separator_id, len(source)) == (256, 255, 3)
    assert source.element_spec == (tf.TensorSpec([5], tf.int32),) * 2


def test_boundaries_tell_documents_apart(folder):
    source = TextFolderSource(folder, sequence_length=8, boundaries=True)
    features, following, weight = source.read(np.array([0]))
    assert bytes(features["tokens"][0].tolist()) == b"first" + END + b"zw"
    assert bytes(following[0].tolist()) == b"irst" + END + b"zw\xc3"
    assert features["segment"].tolist() == [[0] * 6 + [1, 1]]
    assert features["position"].tolist() == [[0, 1, 2, 3, 4, 5, 0, 1]]
    assert weight.tolist() == [[1, 1, 1, 1, 1, 0, 1, 1]]  # "z" cannot be foreseen
    assert (features["segment"].dtype, weight.dtype) == (np.int32, np.float32)


def test_a_document_may_be_larger_than_what_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(text_documents, "_BLOCK", 7)  # cuts characters in two
    monkeypatch.setattr(text_documents, "MAX_PIECE", 5)
    texts = ["zwölf € " * 9 + "\n" + "€" * 20, "kurz", "\n" * 17]
    write(tmp_path / "c", {f"{i}.txt": text.encode() for i, text in enumerate(texts)})
    assert text_of(tmp_path / "c") == b"".join(text.encode() + END for text in texts)


def test_other_encodings_become_utf_8_and_none_takes_any_bytes(tmp_path):
    write(tmp_path, {"a.txt": "zwölf".encode("latin-1")})
    assert text_of(tmp_path, encoding="latin-1") == "zwölf".encode() + END
    assert text_of(tmp_path, encoding=None) == "zwölf".encode("latin-1") + END


def test_only_the_files_of_the_patterns_are_read_and_single_files_and_globs_too(folder):
    write(folder, {"d.md": b"dd", ".hidden/e.txt": b"e"})
    assert text_of(folder, patterns=".md") == b"dd" + END
    assert text_of(folder / "d.md") == b"dd" + END
    assert text_of([str(folder / "*.md"), folder / "a.txt"]) == b"dd" + END + b"first" + END


def test_a_folder_far_away_is_read_and_its_tokens_kept_here(tmp_path, monkeypatch):
    import fsspec

    monkeypatch.setenv("TFBIG_CACHE_DIR", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.pipe("/far/corpus/a.txt", b"far away")
    try:
        assert text_of("memory://far/corpus") == b"far away" + END
    finally:
        system.rm("/far", recursive=True)
    assert [name.split(".")[-1] for name in os.listdir(tmp_path / "cache")] == ["tokens"]


def test_each_line_of_json_lines_is_a_document(tmp_path):
    lines = [{"text": "one", "id": 1}, {"text": "zw€i"}]
    content = "\n".join(json.dumps(line) for line in lines) + "\n\n"
    write(tmp_path, {"a.jsonl": content.encode()})
    assert text_of(tmp_path, patterns=".jsonl") == b"one" + END + "zw€i".encode() + END


# The token file


def test_tokens_are_made_once_and_again_when_a_file_changes(folder, built):
    text_of(folder)
    text_of(folder)
    TextFolderSource(folder, sequence_length=3, boundaries=True)
    assert built == [2]
    write(folder, {"a.txt": b"other"})
    os.utime(folder / "a.txt", ns=(1, time.time_ns()))
    assert text_of(folder).startswith(b"other" + END)
    write(folder, {"new.txt": b"new"})
    assert text_of(folder).endswith(b"new" + END)
    (folder / "new.txt").unlink()
    assert text_of(folder).startswith(b"other" + END + b"zw")
    assert built == [2, 2, 3, 2]
    (kept,) = [name for name in os.listdir(folder.parent) if name != "corpus"]
    assert kept.startswith("corpus.")
    assert kept.endswith(".tokens")


def test_a_token_file_cut_short_or_damaged_is_made_again(folder, built):
    expected = TextFolderSource(folder, sequence_length=1)
    text, documents = tokens_of(expected), expected.documents.tolist()
    (kept,) = folder.parent.glob("*.tokens")
    whole = kept.read_bytes()
    after_tokens = range(-(-len(text) // 8) * 8, len(whole))
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in after_tokens]
    for content in damaged:
        kept.write_bytes(content)
        source = TextFolderSource(folder, sequence_length=1)
        assert (tokens_of(source), source.documents.tolist()) == (text, documents)
    assert len(built) > len(whole)


def test_an_interrupted_write_leaves_no_file(folder, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(text_folder_source, "_write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        text_of(folder)
    assert os.listdir(folder.parent) == ["corpus"]


def test_the_text_is_not_held_in_memory(tmp_path):
    with open(tmp_path / "a.txt", "wb") as file:
        for _ in range(64):
            file.write((b"x" * 99 + b"\n") * 10_000)
    peaks = []
    for _ in range(2):  # made, then opened
        tracemalloc.start()
        source = TextFolderSource(tmp_path, sequence_length=128)
        source.read(np.arange(0, len(source), 5000))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(source) == 500_000
    assert peaks[0] < 50e6  # some copies of the 8 MB that are read at once
    assert peaks[1] < 2e6


def test_nothing_is_written_to_a_standard_error_that_is_no_terminal(folder, tmp_path):
    code = (
        "from tfbig.data import TextFolderSource\n"
        f"TextFolderSource({str(folder)!r}, sequence_length=3)\n"
    )
    done = harness.run_forked("-c", code, folder=tmp_path)
    assert (done.out, done.err) == ("", "")


def test_a_terminal_shows_one_line_while_tokens_are_made(folder, tmp_path):
    code = (
        "import os, pty, sys\n"
        "from tfbig.data import TextFolderSource\n"
        "main, end = pty.openpty()\n"
        "os.dup2(end, 2)\n"
        f"TextFolderSource({str(folder)!r}, sequence_length=3)\n"
        "os.write(1, os.read(main, 100_000))\n"
    )
    done = harness.run_forked("-c", code, folder=tmp_path, TERM="xterm", COLUMNS="100")
    assert "tokenizing text" in done.out, done.err
    shown = done.out
    assert shown.rstrip().endswith("\x1b[2K")  # and takes it away


# Tokenizers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A byte-level BPE file with truncation, padding and special tokens around each text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat\n", "thirteen things"] * 5, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    made.enable_truncation(4)
    made.enable_padding(length=40)
    path = tmp_path_factory.mktemp("tokenizer") / "bpe.json"
    made.save(str(path))
    return made, path


def test_a_tokenizer_file_makes_the_tokens_without_its_padding_and_truncation(tmp_path, tokenizer):
    made, path = tokenizer
    texts = ["the cat sat on the thing\n", "zwölf € mats"]
    write(tmp_path, {f"{i}.txt": text.encode() for i, text in enumerate(texts)})
    source = TextFolderSource(tmp_path, sequence_length=1, tokenizer=path)
    size = made.get_vocab_size()
    assert (source.vocabulary_size, source.separator_id) == (size + 1, size)
    tokens = tokens_of(source)
    first, second = tokens[: tokens.index(size)], tokens[tokens.index(size) + 1 : -1]
    assert tokens[-1] == size
    assert made.decode(first) + made.decode(second) == "".join(texts)
    assert len(first) < 15


def test_a_tokenizers_own_token_may_end_the_documents(folder, tokenizer):
    made, path = tokenizer
    source = TextFolderSource(folder, sequence_length=1, tokenizer=path, separator="<|endoftext|>")
    assert (source.vocabulary_size, source.separator_id) == (made.get_vocab_size(), 0)
    assert tokens_of(source).count(0) == 2
    with pytest.raises(UserError, match=r"^separator='</s>' is not a token of .*bpe\.json'; pass"):
        TextFolderSource(folder, sequence_length=1, tokenizer=path, separator="</s>")


def test_a_large_document_is_cut_at_line_ends_to_be_made_into_tokens(
    tmp_path, tokenizer, monkeypatch
):
    _made, path = tokenizer
    text = "the cat sat on the mat\n" * 50
    write(tmp_path, {"a.txt": b"small", "b.txt": text.encode(), "c.txt": b"last"})
    whole = tokens_of(TextFolderSource(tmp_path, sequence_length=1, tokenizer=path))
    monkeypatch.setattr(text_documents, "_BLOCK", 100)
    monkeypatch.setattr(text_documents, "MAX_PIECE", 60)
    for kept in tmp_path.parent.glob("*.tokens"):
        kept.unlink()
    assert tokens_of(TextFolderSource(tmp_path, sequence_length=1, tokenizer=path)) == whole


def test_another_tokenizer_makes_other_tokens(folder, tokenizer, tmp_path, built):
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(tokenizer[1].read_bytes())
    before = tokens_of(TextFolderSource(folder, sequence_length=1, tokenizer=copy))
    text = copy.read_text().replace('"add_prefix_space": false', '"add_prefix_space": true')
    assert '"add_prefix_space": true' in text
    copy.write_text(text)
    assert tokens_of(TextFolderSource(folder, sequence_length=1, tokenizer=copy)) != before
    assert text_of(folder).startswith(b"first")
    assert len(built) == 3


def test_without_the_library_the_error_says_what_to_install(folder, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(
        UserError,
        match=r"needs the package tokenizers.*; write pip install 'tfbig\[text\]'",
    ):
        TextFolderSource(folder, sequence_length=1, tokenizer=tokenizer[1])


def test_a_file_that_is_no_tokenizer_is_refused(folder, tmp_path):
    write(tmp_path, {"no.json": b"{}"})
    with pytest.raises(UserError, match=r"no\.json' is not a JSON file of the tokenizers library"):
        TextFolderSource(folder, sequence_length=1, tokenizer=tmp_path / "no.json")
    with pytest.raises(UserError, match=r"absent\.json' cannot be read: No such file"):
        TextFolderSource(folder, sequence_length=1, tokenizer=tmp_path / "absent.json")


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(folder_or_files="/absent"), r"^TextFolderSource: there is no file '/absent'; check"),
        (
            dict(patterns=".md"),
            r"corpus' has no files whose names end in \.md; pass another folder",
        ),
        (dict(sequence_length=0), "^sequence_length=0: expected an integer of 1 or more"),
        (dict(sequence_length=99), r"corpus: a text of 17 bytes is shorter than one window of 100"),
        (dict(encoding="utf-9"), "^encoding='utf-9': expected the name of an encoding such as"),
        (dict(encoding=None, tokenizer="t.json"), "^encoding=None: a tokenizer takes text, not by"),
        (dict(separator="</s>"), "^separator='</s>' needs a tokenizer; without one, omit"),
        (dict(on_bad_record="no"), "^on_bad_record='no': expected"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(folder, arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        TextFolderSource(**{"folder_or_files": folder, "sequence_length": 4, **arguments})
    assert "\n" not in str(caught.value)


def test_a_token_file_beside_the_files_of_a_glob_is_none_of_them(folder, built):
    assert text_of(folder / "a*") == text_of(folder / "a*") == b"first" + END
    assert (built, len(list(folder.glob("*.tokens")))) == ([1], 1)
