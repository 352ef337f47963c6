"""NpySource: rows of memory-mapped .npy files."""

import numpy as np
import pytest

import tfbig
from tfbig.data import BadRecords, NpySource
from tfbig.errors import UserError


def save(folder, name, array):
    path = folder / f"{name}.npy"
    np.save(path, array)
    return path


def test_rows_come_in_the_order_asked_for_and_as_often(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (20, 4, 3), np.uint8)
    labels = np.arange(20)
    source = NpySource(({"x": save(tmp_path, "x", images)}, save(tmp_path, "y", labels)))
    asked = np.array([19, 0, 7, 7, 3])
    features, read = source.read(asked)
    np.testing.assert_array_equal(features["x"], images[asked])
    np.testing.assert_array_equal(read, labels[asked])
    assert (len(source), source.element_spec[0]["x"].shape) == (20, (4, 3))


def test_what_is_read_is_a_copy_in_the_machines_own_types(tmp_path):
    source = NpySource(
        (save(tmp_path, "d", np.array([1.5, 2.5])), save(tmp_path, "b", np.array([1, 2], ">i4")))
    )
    doubles, big = source.read(np.array([1, 0]))
    assert (doubles.dtype, big.dtype) == (np.float32, np.dtype("i4"))
    np.testing.assert_array_equal(big, [2, 1])
    big[:] = 7
    np.testing.assert_array_equal(source.read(np.array([0, 1]))[1], [1, 2])


def test_arrays_in_fortran_order_are_read_row_by_row(tmp_path):
    array = np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    source = NpySource(save(tmp_path, "f", array))
    np.testing.assert_array_equal(source.read(np.array([2, 0])), array[[2, 0]])


def test_files_of_different_lengths_are_named(tmp_path):
    paths = save(tmp_path, "x", np.zeros(3)), save(tmp_path, "y", np.zeros(4))
    with pytest.raises(UserError, match=r"x\.npy has 3, .*y\.npy has 4\.$"):
        NpySource(paths)


def truncated(path):
    np.save(path, np.zeros([100, 10]))
    path.write_bytes(path.read_bytes()[:-40])


def damaged_header(path):
    np.save(path, np.zeros([100, 10]))
    data = bytearray(path.read_bytes())
    data[12:30] = b"\xff" * 18
    path.write_bytes(bytes(data))


def grown(path):
    np.save(path, np.zeros([100, 10]))
    with open(path, "ab") as file:
        file.write(b"123")


def unclosed(path):
    np.save(path, np.zeros([100, 10]))
    path.write_bytes(path.read_bytes().replace(b"}", b" "))


DAMAGES = {
    "grown": (grown, "it is 3 bytes longer than its header says"),
    "unclosed": (unclosed, "cannot be read as a .npy array"),
    "truncated": (truncated, "cannot be read as a .npy array"),
    "header": (damaged_header, "cannot be read as a .npy array"),
    "short": (lambda path: path.write_bytes(b"\x93NUMPY"), "cannot be read as a .npy array"),
    "other": (lambda path: path.write_bytes(b"PK\x03\x04 a zip"), "cannot be read as a .npy array"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty"),
    "objects": (lambda path: np.save(path, np.array([{}, None])), "cannot be read as a .npy array"),
    "scalar": (lambda path: np.save(path, np.float32(3)), "single value, without rows"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_cannot_be_read_is_named(damage, tmp_path):
    path = tmp_path / "x.npy"
    write, reason = DAMAGES[damage]
    write(path)
    with pytest.raises(BadRecords, match=rf"x\.npy: .*{reason}"):
        NpySource(path)


def test_a_file_that_is_not_there_and_one_far_away_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"there is no file '.*gone\.npy'; check the path\.$"):
        NpySource(tmp_path / "gone.npy")
    with pytest.raises(UserError, match=r"gs://b/x\.npy is remote.*copy it to this machine first"):
        NpySource("gs://b/x.npy")
    with pytest.raises(
        UserError, match=r"received ndarray\. For arrays in memory, use ArraySource"
    ):
        NpySource(np.zeros(3))


def test_a_damaged_header_never_runs_a_pickle(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(BadRecords, match="magic"):
        tfbig.data.NpySource(path)


def test_several_threads_may_read_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    array = np.arange(1000, dtype=np.int64)
    source = NpySource(save(tmp_path, "x", array))
    assert source.threads >= 1
    asked = [np.random.default_rng(i).integers(0, 1000, 500) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for indices, read in zip(asked, pool.map(source.read, asked), strict=True):
            np.testing.assert_array_equal(read, indices)
