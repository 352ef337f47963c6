"""TfdsSource: prepared data sets, read by number without the network."""

import json
import shutil
import socket
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfbig.data import BadRecords, TfdsSource, find_bad_records
from tfbig.data.bad_records import read_good
from tfbig.data.sources.tfds_source import quiet_tfds
from tfbig.datasets import digits
from tfbig.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def no_network():
    def refuse(*arguments, **keywords):
        raise AssertionError("the network was asked for")

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    yield
    patch.undo()


def builder(data_dir):
    from tfbig.datasets.digits.digits_dataset_builder import Builder

    return Builder(data_dir=str(data_dir))


def prepare(made, **keywords):
    import tensorflow_datasets as tfds

    with quiet_tfds():
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        made.download_and_prepare(download_config=config, **keywords)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the digits are prepared as ArrayRecord files."""
    path = tmp_path_factory.mktemp("tfds")
    prepare(builder(path), file_format="array_record")
    return path


@pytest.fixture(scope="module")
def scikit_learns():
    return digits.load_images()


def ragged(data_dir, supervised_keys=None):
    """A dataset whose texts are strings and whose lists have 1, 2 and 3 numbers."""
    import tensorflow_datasets as tfds

    class Ragged(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "text": tfds.features.Text(),
                "number": tfds.features.Scalar(np.float64),
                "list": tfds.features.Sequence(np.int64),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), supervised_keys=supervised_keys
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                yield i, {"text": f"text {i}", "number": i / 3, "list": [i] * (i + 1)}

    with quiet_tfds():
        made = Ragged(data_dir=str(data_dir))
    return prepare(made, file_format="array_record")


# Reading


def test_a_name_is_found_in_its_folder_and_gives_input_and_target(folder):
    source = TfdsSource("digits", data_dir=folder)
    assert len(source) == 1438
    assert source.element_spec == (
        tf.TensorSpec([8, 8, 1], tf.uint8),
        tf.TensorSpec([], tf.int64),
    )
    images, labels = source.read(np.arange(1438))
    expected = np.bincount(digits.digits_arrays(folder)["train_labels"])
    np.testing.assert_array_equal(np.bincount(labels), expected)
    assert images.max() == 16


def test_all_features_are_read_in_any_order_and_more_than_once(folder, scikit_learns):
    source = TfdsSource("digits:1.0.0", "test", data_dir=folder, as_supervised=False)
    batch = source.read(np.array([358, 0, 7, 0]))
    images, labels = scikit_learns
    np.testing.assert_array_equal(batch["image"], images[batch["row"]])
    np.testing.assert_array_equal(batch["label"], labels[batch["row"]])
    assert batch["row"][1] == batch["row"][3]
    rows = source.read(np.arange(359))["row"]
    np.testing.assert_array_equal(np.sort(rows), digits.split_rows(labels)["test"])
    assert source.read(np.array([], np.int64))["image"].shape == (0, 8, 8, 1)


def test_a_builder_and_a_part_of_a_split_can_be_given(folder):
    whole = TfdsSource(builder(folder), "train", as_supervised=False)
    part = TfdsSource(builder(folder), "train[10:20]+test[:5]", as_supervised=False)
    assert len(part) == 15
    np.testing.assert_array_equal(
        part.read(np.arange(10))["row"], whole.read(np.arange(10, 20))["row"]
    )


def test_decoders_change_what_is_read(folder):
    import tensorflow_datasets as tfds

    class Doubled(tfds.decode.Decoder):
        def decode_example(self, example):
            return example * 2

    plain = TfdsSource("digits", data_dir=folder)
    doubled = TfdsSource("digits", data_dir=folder, decoders={"label": Doubled()})
    np.testing.assert_array_equal(doubled.read(np.arange(9))[1], plain.read(np.arange(9))[1] * 2)
    only = tfds.decode.PartialDecoding({"row": np.int64})
    with pytest.raises(
        UserError, match="^decoders=PartialDecoding: expected a dict of decoders by"
    ):
        TfdsSource("digits", data_dir=folder, decoders=only)


def test_strings_stay_strings_and_float64_becomes_float32(tmp_path):
    made = ragged(tmp_path, supervised_keys=("text", {"out": "number"}))
    source = TfdsSource(made)
    assert source.element_spec == (
        tf.TensorSpec([], tf.string),
        {"out": tf.TensorSpec([], tf.float32)},
    )
    text, target = source.read(np.arange(3))
    assert sorted(text) == [b"text 0", b"text 1", b"text 2"]
    assert sorted(target["out"]) == pytest.approx([0, 1 / 3, 2 / 3])
    with pytest.raises(UserError, match=r"^ragged/1\.0\.0: examples differ in shape .*decoders="):
        TfdsSource(made, as_supervised=False).read(np.arange(3))


def test_opening_and_reading_write_nothing_to_the_terminal(folder, capfd):
    TfdsSource("digits", data_dir=folder).read(np.arange(3))
    assert capfd.readouterr() == ("", "")


# Not prepared


def test_a_data_set_that_is_not_prepared_is_not_downloaded_but_the_way_is_shown(tmp_path):
    with pytest.raises(UserError, match=r"^TfdsSource: nothing is not prepared in .*") as caught:
        TfdsSource("nothing", data_dir=tmp_path)
    way = f'tfds.builder("nothing", data_dir={str(tmp_path)!r}, file_format="array_record")'
    assert str(caught.value).endswith(f"Pass download=True, or run {way}.download_and_prepare().")
    with pytest.raises(
        UserError, match=r"^TfdsSource: digits/1\.0\.0 is not prepared in "
    ) as caught:
        TfdsSource(builder(tmp_path))
    way = 'the builder.download_and_prepare(file_format="array_record").'
    assert str(caught.value).endswith(way)
    assert list(tmp_path.iterdir()) == []


def test_download_prepares_with_random_access(tmp_path):
    with quiet_tfds():
        source = TfdsSource(builder(tmp_path), "test", download=True)
    assert len(source) == 359
    assert len(TfdsSource("digits", "test", data_dir=tmp_path)) == 359


def test_a_format_without_random_access_is_refused(tmp_path):
    prepare(builder(tmp_path))
    with pytest.raises(UserError, match=r"prepared as tfrecord, which has no random access\. Prep"):
        TfdsSource("digits", data_dir=tmp_path)


def test_other_mistakes_are_refused_in_one_line(folder, tmp_path):
    cases = [
        (dict(split="val"), r"^digits/1\.0\.0: Unknown split 'val'\. Should be one of"),
        (
            dict(name_or_builder=builder(folder)),
            "^data_dir is only used with a dataset's name; omit",
        ),
        (dict(on_bad_record="no"), "^on_bad_record='no': expected"),
    ]
    for arguments, says in cases:
        with pytest.raises(UserError, match=says) as caught:
            TfdsSource(**{"name_or_builder": "digits", "data_dir": folder, **arguments})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not define an input and a target; pass as"):
        TfdsSource(ragged(tmp_path))


# Bad records


def test_examples_that_cannot_be_read_are_named_and_the_others_are_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "tfds")
    (file,) = (tmp_path / "tfds" / "digits" / "1.0.0").glob("*test.array_record*")
    content = bytearray(file.read_bytes())
    content[30_000] ^= 0xFF  # inside some record
    file.write_bytes(content)
    made = TfdsSource("digits", "test", data_dir=tmp_path / "tfds")
    bad = find_bad_records(made)
    assert 1 <= len(bad) < 359
    number = min(bad)
    good = [n for n in range(359) if n not in bad][:2]
    indices = np.array([good[0], number, good[1]])
    says = rf"digits/1\.0\.0, split test, record {number}: it cannot be read \("
    with pytest.raises(BadRecords, match=says) as caught:
        made.read(indices)
    assert [bad.position for bad in caught.value.found] == [1]
    out = tmp_path / "out.jsonl"
    skipping = TfdsSource(
        "digits", "test", data_dir=tmp_path / "tfds", on_bad_record="skip", quarantine=out
    )
    (_, labels), kept = read_good(skipping, indices)
    assert (kept.tolist(), len(labels)) == ([True, False, True], 2)
    assert json.loads(out.read_text())["record"] == number


def test_the_module_is_imported_without_tfds(in_process):
    assert in_process(_imports) is False


def _imports():
    import tfbig.data.sources.tfds_source  # noqa: F401

    return "tensorflow_datasets" in sys.modules
