"""ImageFolderSource: images by class, decoded when they are read."""

import io
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfbig.data import BadRecords, ImageFolderSource, find_bad_records
from tfbig.data.bad_records import read_good
from tfbig.errors import UserError


def picture(height, width, seed=0, channels=3):
    shape = [height, width, channels] if channels > 1 else [height, width]
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def save(folder, name, image, **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Three classes with 2, 3 and 1 images of 6 x 4 pixels."""
    for number, name in enumerate(["ant/1.png", "ant/2.png", "bee/a.png", "bee/b.png"]):
        save(tmp_path / "images", name, picture(6, 4, number))
    save(tmp_path / "images", "bee/deep/er.bmp", picture(6, 4, 4))
    save(tmp_path / "images", "cat/1.webp", picture(6, 4, 5), lossless=True)
    return tmp_path / "images"


def one(folder, **keywords):
    """The only image of a folder."""
    source = ImageFolderSource(folder, **{"image_size": (6, 4), **keywords})
    assert len(source) == 1
    return source.read(np.array([0]))[0][0]


# Reading


def test_sub_folders_are_classes_in_the_order_of_their_names(folder):
    (folder / "bee" / "notes.txt").write_text("no image")
    source = ImageFolderSource(str(folder), image_size=(6, 4))
    assert source.class_names == ("ant", "bee", "cat")
    assert source.labels.tolist() == [0, 0, 1, 1, 1, 2]
    assert source.labels.dtype == np.int64
    assert [os.path.basename(path) for path in source.files[:3]] == ["1.png", "2.png", "a.png"]
    assert source.element_spec == (
        tf.TensorSpec([6, 4, 3], tf.uint8),
        tf.TensorSpec([], tf.int64),
    )


def test_images_are_read_in_any_order_and_more_than_once(folder):
    source = ImageFolderSource(folder, image_size=(6, 4))
    images, labels = source.read(np.array([5, 0, 4, 0]))
    expected = [picture(6, 4, seed) for seed in (5, 0, 4, 0)]
    np.testing.assert_array_equal(images, expected)
    assert labels.tolist() == [2, 0, 1, 0]
    assert source.read(np.array([], np.int64))[0].shape == (0, 6, 4, 3)


def test_threads_read_at_the_same_time(folder):
    source = ImageFolderSource(folder, image_size=(6, 4))
    assert source.threads == min(8, os.cpu_count())
    orders = [np.random.default_rng(i).integers(0, 6, 40) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        for order, (images, labels) in zip(orders, pool.map(source.read, orders), strict=True):
            np.testing.assert_array_equal(images, [picture(6, 4, seed) for seed in order])
            np.testing.assert_array_equal(labels, source.labels[order])


@pytest.mark.parametrize("ending", ["png", "jpg", "JPEG", "bmp", "gif", "webp"])
def test_every_format_is_read_as_pillow_reads_it(tmp_path, ending):
    path = save(tmp_path, f"a/1.{ending}", picture(6, 4))
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(one(tmp_path), expected)


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "bicubic", "lanczos"])
def test_images_of_another_size_are_stretched(tmp_path, interpolation):
    save(tmp_path, "a/1.png", picture(30, 10))
    way = Image.Resampling[interpolation.upper()]
    expected = np.asarray(Image.fromarray(picture(30, 10)).resize((7, 5), way))
    actual = one(tmp_path, image_size=[5, 7], interpolation=interpolation)
    np.testing.assert_array_equal(actual, expected)


def test_a_large_jpeg_looks_the_same_though_it_is_not_decoded_at_full_size(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    smooth = np.stack([np.tile(ramp, [600, 1])] * 3, -1)
    save(tmp_path, "a/1.jpg", smooth, quality=95)
    expected = np.asarray(Image.fromarray(smooth).resize((32, 24), Image.Resampling.BILINEAR))
    actual = one(tmp_path, image_size=(24, 32))
    assert np.abs(actual.astype(int) - expected).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_orientation_says(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    shown = picture(6, 4)
    stored = {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.swapaxes(0, 1),
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(shown, -1),
    }[orientation]
    save(tmp_path, "a/1.png", np.ascontiguousarray(stored), exif=exif)
    np.testing.assert_array_equal(one(tmp_path), shown)


def test_channels_are_brought_to_the_number_asked_for(tmp_path):
    grey = picture(6, 4, channels=1)
    save(tmp_path, "a/1.png", grey)
    np.testing.assert_array_equal(one(tmp_path), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(one(tmp_path, channels=1)[..., 0], grey)
    assert (one(tmp_path, channels=4)[..., 3] == 255).all()
    save(tmp_path, "a/1.png", picture(6, 4, channels=4))
    np.testing.assert_array_equal(one(tmp_path), picture(6, 4, channels=4)[..., :3])


def test_sixteen_bits_become_the_upper_eight(tmp_path):
    deep = np.arange(24, dtype=np.uint16).reshape(6, 4) * 2700
    save(tmp_path, "a/1.png", deep)
    np.testing.assert_array_equal(one(tmp_path, channels=1)[..., 0], deep // 256)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path):
    image = Image.fromarray(picture(6, 4)).quantize(4)
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "1.png", transparency=b"\x00\x80\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(one(tmp_path), np.asarray(image.convert("RGB")))


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    first, second = (Image.fromarray(np.full([6, 4, 3], v, np.uint8)) for v in (10, 200))
    (tmp_path / "a").mkdir()
    first.save(tmp_path / "a" / "1.gif", save_all=True, append_images=[second])
    assert (one(tmp_path) == 10).all()


def test_some_classes_can_be_chosen_with_their_numbers(folder):
    source = ImageFolderSource(folder, image_size=(6, 4), classes=["cat", "ant"])
    assert source.class_names == ("cat", "ant")
    images, labels = source.read(np.arange(3))
    np.testing.assert_array_equal(images, [picture(6, 4, seed) for seed in (5, 0, 1)])
    assert labels.tolist() == [0, 1, 1]


def test_a_folder_far_away_can_be_read():
    import fsspec

    system = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    Image.fromarray(picture(6, 4)).save(buffer, "png")
    system.pipe("/far/images/bee/1.png", buffer.getvalue())
    try:
        source = ImageFolderSource("memory://far/images", image_size=(6, 4))
        assert source.class_names == ("bee",)
        np.testing.assert_array_equal(source.read(np.array([0]))[0], [picture(6, 4)])
    finally:
        system.rm("/far", recursive=True)


# Bad records


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_bytes(b"this is no image")
    else:
        path.unlink()


REASONS = {
    "empty": "the file is empty",
    "cut": r"it cannot be decoded \(.*truncated",
    "text": r"it cannot be decoded \(not an image file\)",
    "gone": "the file no longer exists",
}


@pytest.mark.parametrize("how", REASONS)
def test_an_image_that_cannot_be_used_is_named_with_the_reason(folder, how):
    source = ImageFolderSource(folder, image_size=(6, 4))
    damage(folder / "bee" / "a.png", how)
    with pytest.raises(BadRecords, match=rf"bee/a\.png: {REASONS[how]}") as caught:
        source.read(np.array([0, 2, 1]))
    (bad,) = caught.value.found
    assert (bad.file, bad.record, bad.position) == (str(folder / "bee" / "a.png"), None, 1)
    assert "\n" not in str(caught.value)


def test_all_bad_images_of_a_read_are_reported_and_the_others_are_read(folder, tmp_path):
    out = tmp_path / "out.jsonl"
    source = ImageFolderSource(folder, image_size=(6, 4), on_bad_record="skip", quarantine=out)
    damage(folder / "ant" / "2.png", "cut")
    damage(folder / "bee" / "b.png", "gone")
    with pytest.raises(BadRecords) as caught:
        source.read(np.array([3, 0, 1, 3]))
    assert [bad.position for bad in caught.value.found] == [0, 2, 3]
    (images, labels), kept = read_good(source, np.array([3, 0, 1, 5]))
    assert kept.tolist() == [False, True, False, True]
    np.testing.assert_array_equal(images, [picture(6, 4, 0), picture(6, 4, 5)])
    assert labels.tolist() == [0, 2]
    names = [os.path.basename(json.loads(line)["file"]) for line in out.read_text().splitlines()]
    assert sorted(names) == ["2.png", "b.png"]
    assert sorted(find_bad_records(source)) == [1, 3]


def test_images_with_too_many_pixels_are_refused_before_they_are_decoded(folder, monkeypatch):
    source = ImageFolderSource(folder, image_size=(6, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(BadRecords, match=r"it has 4 x 6 pixels, more than the limit of 20"):
            source.read(np.array([0]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(BadRecords, match="decompression bomb"):
        source.read(np.array([0]))


def test_pixels_of_32_bits_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(picture(6, 4).astype(np.float32)[..., 0]).save(tmp_path / "a" / "1.tif")
    (tmp_path / "a" / "1.tif").rename(tmp_path / "a" / "1.png")
    with pytest.raises(
        BadRecords, match="its pixel values have 32 bits; save the image with 8 or 16"
    ):
        one(tmp_path)


def test_an_image_in_no_class_is_reported_when_the_source_is_made(folder, tmp_path):
    save(folder, "stray.png", picture(6, 4))
    with pytest.raises(BadRecords, match=r"stray\.png: it is not in a class folder\. Repair"):
        ImageFolderSource(folder, image_size=6)
    out = tmp_path / "out.jsonl"
    source = ImageFolderSource(folder, image_size=6, on_bad_record="skip", quarantine=out)
    assert len(source) == 6
    assert len(out.read_text().splitlines()) == 1


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_is_read_or_reported(tmp_path, seed):
    """Neither a crash nor another kind of error, whatever the bytes are."""
    random = np.random.default_rng(seed)
    ending = ["png", "jpg", "gif", "bmp", "webp"][seed % 5]
    path = save(tmp_path, f"a/1.{ending}", picture(40, 30))
    content = bytearray(path.read_bytes())
    for place in random.integers(0, len(content), 10):
        content[place] = random.integers(256)
    path.write_bytes(content)
    try:
        image = one(tmp_path, image_size=8)
    except BadRecords as error:
        assert error.found[0].file == str(path)
    else:
        assert image.shape == (8, 8, 3)


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            dict(folder="/absent"),
            "^ImageFolderSource: '/absent' is not a folder; pass one with a sub",
        ),
        (dict(image_size=0), r"^image_size=0: expected pixels, such as 128 or \(height, width\)"),
        (dict(image_size=(1, 2, 3)), r"^image_size=\(1, 2, 3\): expected pixels"),
        (dict(image_size=(8, 2.5)), r"^image_size=\(8, 2\.5\): expected pixels"),
        (dict(channels=2), r"^channels=2: expected 1 \(grey\), 3 \(RGB\) or 4"),
        (dict(interpolation="area"), "^interpolation='area': expected one of 'nearest', 'box', "),
        (dict(classes=["ant", "dog"]), "^classes: .* has no images of 'dog'; its classes are ant"),
        (dict(classes=["ant", "ant"]), "expected a list of different folder names"),
        (dict(classes="ant"), "^classes='ant': expected a list of different folder names"),
        (dict(on_bad_record="no"), "^on_bad_record='no': expected"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(folder, arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        ImageFolderSource(**{"folder": folder, "image_size": 8, **arguments})
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match=r"has no images \(\.png, .*\) in subfolders; make a subfo"):
        ImageFolderSource(tmp_path, image_size=8)


def test_pillow_may_be_told_to_take_images_of_any_size(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    images, _ = ImageFolderSource(folder, image_size=(6, 4)).read(np.array([0]))
    assert images.shape == (1, 6, 4, 3)
