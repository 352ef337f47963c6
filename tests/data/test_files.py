"""Paths: globs, folders, URLs, what changes with a file, and where its companions go."""

import os

import fsspec
import pytest

from tfbig.data import files
from tfbig.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a/3.txt", "a/.hidden", ".git/x.txt", "top.csv", "[1].csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


@pytest.fixture
def far(folder):
    """The same files in fsspec's memory."""
    system = fsspec.filesystem("memory")
    system.put(str(folder), "/far", recursive=True)
    yield "memory://far"
    system.rm("/far", recursive=True)


@pytest.fixture(params=["here", "far"])
def place(request, folder, far):
    return str(folder) if request.param == "here" else far


def below(place, names):
    """Paths as they are below the place; fsspec writes memory:///far for memory://far."""
    return [name.replace("memory:///", "memory://").removeprefix(place + "/") for name in names]


def test_a_pattern_gives_its_files_in_order_and_a_list_keeps_its_own(place):
    assert below(place, files.expand(place + "/b/*.txt", "X")) == ["b/1.txt", "b/2.txt"]
    given = [place + "/top.csv", place + "/?/[1-3].txt"]
    assert below(place, files.expand(given, "X")) == ["top.csv", "a/3.txt", "b/1.txt", "b/2.txt"]
    assert below(place, files.expand(place + "/**/1.txt", "X")) == ["b/1.txt"]


def test_a_path_that_exists_is_taken_whatever_letters_it_has(place):
    assert below(place, files.expand(place + "/[1].csv", "X")) == ["[1].csv"]


def test_paths_may_be_path_objects_and_begin_with_the_home_folder(folder, monkeypatch):
    assert files.expand(folder / "top.csv", "X") == [str(folder / "top.csv")]
    monkeypatch.setenv("HOME", str(folder))
    assert files.expand("~/t*.csv", "X") == [str(folder / "top.csv")]


def test_nothing_there_is_an_error_that_names_the_owner_and_the_path(place):
    for path in (place + "/none.csv", place + "/*.parquet"):
        with pytest.raises(
            UserError, match=r"^CsvSource: there is no file '.*'; check the path\.$"
        ):
            files.expand([place + "/top.csv", path], "CsvSource")
    with pytest.raises(UserError, match=r"^CsvSource: no files were given; pass a path"):
        files.expand([], "CsvSource")


def test_a_walk_finds_all_files_but_the_hidden_ones(place):
    found = below(place, files.walk(place))
    assert found == ["[1].csv", "a/3.txt", "b/1.txt", "b/2.txt", "top.csv"]


def test_a_walk_below_a_hidden_folder_finds_its_files(folder):
    assert files.walk(str(folder / ".git")) == [str(folder / ".git" / "x.txt")]


def test_a_walk_follows_links_to_folders_but_not_in_circles(folder):
    (folder / "a" / "linked").symlink_to(folder / "b")
    (folder / "a" / "up").symlink_to(folder)
    found = below(str(folder), files.walk(str(folder / "a")))
    assert found == ["a/3.txt", "a/linked/1.txt", "a/linked/2.txt"]


def test_a_folder_that_cannot_be_read_is_an_error_not_a_silent_loss(folder, monkeypatch):
    scandir = os.scandir

    def denied(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError, match=r"/b: the folder cannot be read: Permission denied\.$"):
        files.walk(str(folder))


def test_existence_and_folders(place):
    assert files.exists(place + "/top.csv")
    assert not files.exists(place + "/none.csv")
    assert files.is_folder(place + "/a")
    assert not files.is_folder(place + "/top.csv")
    assert not files.is_folder(place + "/none")


def test_files_are_read_with_random_access(place):
    with files.open_binary(place + "/b/1.txt") as file:
        file.seek(2)
        assert file.read(3) == b"1.t"
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"txt"


def test_a_signature_changes_with_the_size_and_with_the_time(place):
    path = place + "/top.csv"

    def write(text):
        with fsspec.open(path, "w") as file:
            file.write(text)
        return files.signature(path)

    first = files.signature(path)
    assert first == files.signature(path)
    assert first[0] == 7
    longer = write("top.csv!")
    assert longer[0] == 8
    rewritten = write("top.cs v")
    assert rewritten[0] == 8
    assert rewritten != longer


def test_a_signature_of_a_file_that_is_not_there_is_an_os_error(place):
    with pytest.raises(OSError):
        files.signature(place + "/none.csv")


def test_a_companion_is_written_beside_a_file_or_a_folder(folder, monkeypatch):
    assert files.sidecar_path(str(folder / "top.csv"), ".idx") == str(folder / "top.csv.idx")
    assert files.sidecar_path(str(folder / "a") + "/", ".idx") == str(folder / "a.idx")
    monkeypatch.chdir(folder)
    assert files.sidecar_path("top.csv", ".idx") == str(folder / "top.csv.idx")


def test_a_companion_goes_to_the_cache_where_the_folder_cannot_be_written(folder, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("TFBIG_CACHE_DIR", str(folder / "cache"))
    one = files.sidecar_path(str(folder / "a" / "top.csv"), ".idx")
    other = files.sidecar_path(str(folder / "b" / "top.csv"), ".idx")
    assert os.path.dirname(one) == os.path.dirname(other) == str(folder / "cache")
    assert one.endswith("-top.csv.idx")
    assert one != other
    assert one == files.sidecar_path(str(folder / "b" / ".." / "a" / "top.csv"), ".idx")


def test_a_companion_of_a_file_far_away_goes_to_the_cache(monkeypatch):
    monkeypatch.delenv("TFBIG_CACHE_DIR", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    path = files.sidecar_path("gs://bucket/train.tfrecord", ".idx")
    assert os.path.dirname(path) == "/home/someone/.cache/tfbig"
    assert path.endswith("-train.tfrecord.idx")
    assert path != files.sidecar_path("gs://other/train.tfrecord", ".idx")


def test_a_scheme_that_is_not_known_or_not_installed_says_what_to_do(monkeypatch):
    with pytest.raises(UserError, match=r"^nowhere://a: .*nowhere"):
        files.exists("nowhere://a")

    def missing(url):
        raise ImportError("no module")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for url, package in (("s3://b/f", "s3fs"), ("GS://b/f", "gcsfs")):
        with pytest.raises(UserError, match=rf"needs the package {package}; run pip install"):
            files.expand(url, "X")
