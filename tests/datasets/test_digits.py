"""The digits: prepared by TFDS offline, and equal to scikit-learn's own arrays."""

import logging
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfbig.datasets import digits
from tfbig.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder where TFDS has prepared the digits without any network, and the arrays."""
    folder = tmp_path_factory.mktemp("tfds")
    patch = pytest.MonkeyPatch()

    def no_network(*arguments, **keywords):
        raise OSError("no network in this test")

    patch.setattr(socket.socket, "connect", no_network)
    patch.setattr(socket, "getaddrinfo", no_network)
    digits._cached_arrays.cache_clear()
    try:
        yield folder, digits.digits_arrays(folder)
    finally:
        patch.undo()
        digits._cached_arrays.cache_clear()


def test_the_arrays_are_scikit_learns_in_its_order(prepared):
    _, arrays = prepared
    bunch = load_digits()
    rows = digits.split_rows(bunch.target)
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(images[..., 0], bunch.images[rows[split]])
        np.testing.assert_array_equal(labels, bunch.target[rows[split]])


def test_the_folder_is_one_that_tfds_can_read_by_itself(prepared):
    import tensorflow_datasets as tfds

    folder, arrays = prepared
    assert sorted(os.listdir(folder)) == ["digits"]  # nothing temporary stays
    assert sorted(os.listdir(folder / "digits")) == ["1.0.0", "arrays-1.0.0.npz"]
    builder = tfds.builder_from_directory(str(folder / "digits" / "1.0.0"))
    assert builder.info.splits["train"].num_examples == 1438
    assert builder.info.splits["test"].num_examples == 359
    assert builder.info.features["label"].num_classes == 10
    dataset = builder.as_dataset(split="test", as_supervised=True)
    labels = sorted(int(label) for _, label in dataset)
    assert labels == sorted(arrays["test_labels"].tolist())


def test_the_split_holds_a_fifth_of_each_class_out_and_is_always_the_same():
    labels = load_digits().target
    rows = digits.split_rows(labels)
    assert sorted([*rows["train"], *rows["test"]]) == list(range(1797))
    for label in range(10):
        share = np.mean(np.isin(np.flatnonzero(labels == label), rows["test"]))
        assert 0.19 < share < 0.21
    assert len(rows["test"]) == 359
    # The numbers that everybody's held-out accuracy is about must not change.
    assert rows["test"][:8].tolist() == [11, 12, 16, 17, 19, 32, 35, 36]


def test_a_second_process_reads_the_kept_arrays_without_importing_tfds(prepared):
    folder, arrays = prepared
    code = (
        "import sys; from tfbig.datasets import digits; "
        f"arrays = digits.digits_arrays({str(folder)!r}); "
        "print(int(arrays['train_images'].sum()), 'tensorflow_datasets' in sys.modules, "
        "'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [str(arrays["train_images"].sum()), "False", "False"], done.stderr


def test_damaged_kept_arrays_are_made_again(prepared):
    folder, arrays = prepared
    kept = folder / "digits" / "arrays-1.0.0.npz"
    whole = kept.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"PK nonsense"):
        kept.write_bytes(damage)
        digits._cached_arrays.cache_clear()
        again = digits.digits_arrays(folder)
        np.testing.assert_array_equal(again["train_images"], arrays["train_images"])
        with np.load(kept) as file:
            np.testing.assert_array_equal(file["test_labels"], arrays["test_labels"])


def test_a_folder_that_cannot_be_written_costs_one_line_and_no_data(tmp_path, caplog, prepared):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")  # stops root, too
    with caplog.at_level(logging.WARNING, "absl"):
        arrays = digits.digits_arrays(blocked / "tfds")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"digits: not prepared by TFDS in {blocked / 'tfds'} (")
    assert line.endswith("); read from scikit-learn instead.")
    assert "\n" not in line
    for name, array in prepared[1].items():
        np.testing.assert_array_equal(arrays[name], array)


def test_the_folder_comes_from_the_environment_when_none_is_given(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    assert digits.digits_arrays() is digits.digits_arrays(prepared[0])


def test_the_kept_arrays_cannot_be_changed_by_accident(prepared):
    with pytest.raises(ValueError, match="read-only"):
        prepared[1]["train_images"][0] = 1


def params_for(folder, **data):
    return {"hidden_units": (8,), "data": {"data_dir": str(folder), **data}}


def test_input_fn_gives_the_split_of_its_mode_scaled_to_one(prepared):
    folder, arrays = prepared
    for mode, split, length in (("train", "train", 1438), ("eval", "test", 359)):
        source = digits.input_fn(mode, params_for(folder))
        assert (len(source), source.batch_size) == (length, 64)
        images, labels = source.read(np.arange(length))
        assert (images.shape, images.dtype) == ((length, 8, 8, 1), np.float32)
        assert (images.min(), images.max()) == (0.0, 1.0)
        np.testing.assert_array_equal(images * 16, arrays[f"{split}_images"])
        np.testing.assert_array_equal(labels, arrays[f"{split}_labels"])
        assert labels.dtype == np.int32


def test_input_fn_takes_batch_size_and_flat_from_params_data(prepared):
    source = digits.input_fn("train", params_for(prepared[0], batch_size=7, flat=True))
    assert source.batch_size == 7
    assert source.element_spec[0].shape == (64,)


def test_an_unknown_name_in_params_data_is_refused_with_the_known_ones(prepared):
    with pytest.raises(UserError, match="'batch'; the known ones are: batch_size, flat, data_dir"):
        digits.input_fn("train", params_for(prepared[0], batch=7))


def test_some_classes_are_given_and_numbered_in_their_order(prepared):
    few = {"data": {"classes": (7, 5), "examples_per_class": 3, "batch_size": 8}}
    images, labels = digits.input_fn("train", few).read(np.arange(6))
    arrays = digits.digits_arrays()
    for number, digit in enumerate((7, 5)):
        rows = np.flatnonzero(arrays["train_labels"] == digit)
        spread = rows[[0, len(rows) // 3, 2 * (len(rows) // 3)]]  # over all writers
        expected = arrays["train_images"][spread] / np.float32(16)
        np.testing.assert_array_equal(images[labels == number], expected)
    held_out = digits.input_fn("eval", few)  # all of them: only training is short of examples
    assert len(held_out) == np.isin(arrays["test_labels"], (5, 7)).sum()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"classes": (5, 10)}, r"classes=\[5, 10\]: expected different digits from 0 to 9"),
        ({"classes": (5, 5)}, r"classes=\[5, 5\]: expected different digits"),
        ({"classes": ()}, r"classes=\[\]: expected different digits"),
        ({"examples_per_class": 0}, "examples_per_class=0: expected a whole number of 1 or more"),
    ],
)
def test_digits_that_there_are_not_are_refused(prepared, data, says):
    with pytest.raises(UserError, match=says):
        digits.input_fn("train", {"data": data})
