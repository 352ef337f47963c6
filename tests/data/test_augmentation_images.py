"""Every image layer: the same rows from shards as from the whole batch, and right shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

from tests.harness import call
from tfbig.data.augmentation import Augmentation
from tfbig.data.augmentation.building import _KERAS

BATCH = 11
SHAPE = (17, 23, 3)
ARGUMENTS = {
    "AugMix": {},
    "AutoContrast": {},
    "CenterCrop": {"height": 12, "width": 16},
    "ContrastLimitedAdaptiveHistogramEqualization": {},
    "CutMix": {},
    "Equalization": {},
    "MixUp": {},
    "Normalization": {"mean": [1.0, 2.0, 3.0], "variance": [4.0, 5.0, 6.0]},
    "Pipeline": {
        "layers": [{"name": "RandomFlip"}, {"name": "RandomZoom", "height_factor": 0.3}],
    },
    "RandAugment": {},
    "RandomBrightness": {"factor": 0.3},
    "RandomColorDegeneration": {"factor": 0.6},
    "RandomColorJitter": {
        "brightness_factor": 0.2,
        "contrast_factor": 0.2,
        "saturation_factor": 0.2,
        "hue_factor": 0.2,
    },
    "RandomContrast": {"factor": 0.4},
    "RandomCrop": {"height": 12, "width": 16},
    "RandomElasticTransform": {},
    "RandomErasing": {},
    "RandomFlip": {"mode": "horizontal"},
    "RandomGaussianBlur": {"kernel_size": 5},
    "RandomGrayscale": {},
    "RandomHue": {"factor": 0.4},
    "RandomInvert": {"factor": 0.5},
    "RandomPerspective": {},
    "RandomPosterization": {"factor": 4},
    "RandomRotation": {"factor": 0.2},
    "RandomSaturation": {"factor": 0.4},
    "RandomSharpness": {"factor": 0.6},
    "RandomShear": {"x_factor": 0.3, "y_factor": 0.2},
    "RandomTranslation": {"height_factor": 0.2, "width_factor": 0.2},
    "RandomZoom": {"height_factor": 0.3},
    "Rescaling": {"scale": 1 / 255},
    "Resizing": {"height": 20, "width": 18},
    "Solarization": {"addition_factor": 0.3, "threshold_factor": 0.6},
    "ZeroPadding2D": {"padding": 4},
}
FIXED = (
    "AutoContrast",
    "CenterCrop",
    "ContrastLimitedAdaptiveHistogramEqualization",
    "Equalization",
    "Normalization",
    "RandomCrop",
    "Rescaling",
    "Resizing",
    "ZeroPadding2D",
)
KEYS = dict(seed=3, step=7, batch_size=BATCH)


def images(dtype="float32") -> np.ndarray:
    # Floats that are no whole numbers: their sums depend on the order of the additions.
    return np.random.default_rng(0).uniform(3, 250, (BATCH, *SHAPE)).astype(dtype)


def labels() -> np.ndarray:
    return np.eye(BATCH, dtype="float32")


def made(name: str) -> Augmentation:
    return Augmentation([{"name": name, **ARGUMENTS[name]}])


def trained(augmentation, positions, x, y, **changes):
    """The images and labels at these positions, as a worker that has only these makes them."""
    keys = {**KEYS, **changes}
    positions = np.asarray(positions)
    needed = augmentation.needed(positions=positions, **keys)
    batch = (x[needed], y[needed])
    out = augmentation.train(batch, positions=needed, wanted=positions, **keys)
    return [np.asarray(part) for part in out]


def test_every_layer_that_can_be_named_is_tested():
    assert sorted(ARGUMENTS) == _KERAS


def test_no_layer_of_keras_for_images_has_been_forgotten():
    there = [n for n in dir(keras.layers) if hasattr(getattr(keras.layers, n), "transform_images")]
    assert set(there) - set(_KERAS) == {"MaxNumBoundingBoxes"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_shard_is_augmented_to_the_bits_of_the_whole_batch(name):
    augmentation, x, y = made(name), images(), labels()
    whole = trained(augmentation, range(BATCH), x, y)
    assert whole[0].dtype == np.float32
    assert whole[0].shape != x.shape or np.abs(whole[0] - x).max() > 1

    @settings(max_examples=15, deadline=None, database=None, derandomize=True)
    @given(st.sets(st.integers(0, BATCH - 1), min_size=1))
    def same(shard):
        shard = sorted(shard)
        part = trained(augmentation, shard, x, y)
        np.testing.assert_array_equal(part[0], whole[0][shard])
        np.testing.assert_array_equal(part[1], whole[1][shard])

    same()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ARGUMENTS) - {"Normalization", "Rescaling"}))
def test_images_of_bytes_are_augmented_as_floats_of_the_same_values(name):
    x = images("uint8")
    ours = trained(made(name), range(BATCH), x, labels())[0]
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(
        ours, trained(made(name), range(BATCH), x.astype("float32"), labels())[0]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_the_spec_is_that_of_what_comes_out_in_training_and_in_evaluation(name):
    augmentation, batch = made(name), (images("uint8"), labels())
    spec = augmentation.output_spec(
        (tf.TensorSpec(SHAPE, tf.uint8), tf.TensorSpec([BATCH], tf.float32))
    )
    for out in (
        augmentation.train(batch, positions=np.arange(BATCH), **KEYS),
        augmentation.evaluate(batch),
    ):
        for part, leaf in zip(out, spec, strict=True):
            part = np.asarray(part)
            assert tf.TensorSpec(part.shape[1:], part.dtype) == leaf


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_evaluation_sees_no_randomness(name):
    x = images()
    found, same_labels = made(name).evaluate((x, labels()))
    np.testing.assert_array_equal(same_labels, labels())
    unchanged = np.array_equal(found, x)
    assert unchanged == (name not in FIXED)


RANDOM = sorted(set(ARGUMENTS) - set(FIXED) | {"RandomCrop"})


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_other_steps_seeds_and_positions_are_augmented_otherwise(name):
    augmentation = made(name)
    x = np.repeat(images()[:1], BATCH, axis=0)
    x[::2] = x[::2, ::-1]  # mixing an image with itself shows nothing
    first = trained(augmentation, range(BATCH), x, labels())[0]
    assert np.array_equal(first, trained(augmentation, range(BATCH), x, labels())[0])
    for change in ({"step": 8}, {"seed": 4}):
        assert not np.array_equal(
            first, trained(augmentation, range(BATCH), x, labels(), **change)[0]
        )
    assert len(np.unique(first[1::2].reshape(5, -1), axis=0)) > 1


def checksums() -> dict:
    """What each layer makes, in numbers that JSON can hold; for a process of its own."""
    found = {}
    for name in sorted(ARGUMENTS):
        out = trained(made(name), [1, 4, 10], images(), labels())[0]
        found[name] = np.ascontiguousarray(out).view("uint32").astype("uint64").sum().item()
    return found


@pytest.mark.slow
def test_another_process_makes_the_same_bits(tmp_path):
    elsewhere = call(checksums, tmp_path, timeout=240, TF_NUM_INTRAOP_THREADS="1")
    assert elsewhere == checksums()


# What single layers do.


def one(name, x, **arguments):
    augmentation = Augmentation([{"name": name, **arguments}])
    positions = np.arange(len(x))
    return np.asarray(augmentation.train(x, seed=1, step=2, positions=positions, batch_size=len(x)))


def test_a_flip_flips_about_half_of_the_images():
    x = np.random.default_rng(0).random((200, 4, 5, 1), "float32")
    found = one("RandomFlip", x, mode="horizontal")
    flipped = [np.array_equal(a, b[:, ::-1]) for a, b in zip(found, x, strict=True)]
    kept = [np.array_equal(a, b) for a, b in zip(found, x, strict=True)]
    assert np.logical_xor(flipped, kept).all()
    assert 70 < sum(flipped) < 130  # four standard deviations are 28


def test_each_image_is_cropped_at_its_own_place_and_all_places_occur():
    x = np.arange(8 * 6, dtype="float32").reshape(1, 8, 6, 1).repeat(400, axis=0)
    found = one("RandomCrop", x, height=6, width=6)
    starts = found[:, 0, 0, 0]
    np.testing.assert_array_equal(found[0].reshape(-1), starts[0] + np.arange(36))
    values, counts = np.unique(starts, return_counts=True)
    np.testing.assert_array_equal(values, [0, 6, 12])
    assert counts.min() > 90


def test_a_crop_is_the_centre_in_evaluation_whatever_the_sizes():
    x = np.arange(10 * 10, dtype="float32").reshape(1, 10, 10, 1)
    crop = Augmentation([{"name": "RandomCrop", "height": 4, "width": 6}])
    np.testing.assert_array_equal(crop.evaluate(x), x[:, 3:7, 2:8])
    small = Augmentation([{"name": "RandomCrop", "height": 12, "width": 12}])
    assert np.asarray(small.evaluate(x)).shape == (1, 12, 12, 1)
    assert one("RandomCrop", x, height=12, width=12).shape == (1, 12, 12, 1)


def test_contrast_stretches_about_each_images_own_mean():
    x = images()
    found = one("RandomContrast", x, factor=0.5, value_range=(-1000, 1000))
    middle = x - x.mean(axis=(1, 2), keepdims=True, dtype="float64")
    changed = found - x.mean(axis=(1, 2), keepdims=True, dtype="float64")
    factors = (changed * middle).sum(axis=(1, 2, 3)) / (middle**2).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(changed, factors[:, None, None, None] * middle, atol=1e-3)
    assert factors.min() > 0.5
    assert factors.max() < 1.5
    assert np.ptp(factors) > 0.3


def test_equalization_is_keras_own_for_a_single_image():
    x = images("uint8")
    found = one("Equalization", x)
    layer = keras.layers.Equalization()
    for row in (0, 5):
        np.testing.assert_array_equal(found[row], layer(x[row : row + 1])[0])


def test_randaugment_chooses_operations_for_each_image():
    x = np.repeat(images("uint8")[:1], 300, axis=0)
    found = one("RandAugment", x, num_ops=1, factor=0.0)
    # With the factor 0 most operations leave an image as it is; a few, as solarization, do not.
    kinds, counts = np.unique(np.round(found).reshape(300, -1), axis=0, return_counts=True)
    assert 3 < len(kinds) < 12
    assert counts.max() < 240


def test_layers_are_applied_in_their_order():
    x = images()
    shrunk = {"name": "Rescaling", "scale": 0.5}
    moved = {"name": "Rescaling", "scale": 1.0, "offset": 8.0}
    found = Augmentation([shrunk, moved]).evaluate(x)
    np.testing.assert_allclose(found, x * 0.5 + 8, rtol=1e-6)
    assert len(Augmentation([shrunk, moved]).transforms) == 1  # compiled together


def test_channels_may_come_first():
    x = np.moveaxis(images(), 3, 1)
    for name in ("RandomFlip", "RandomCrop", "RandomContrast", "CutMix"):
        arguments = ARGUMENTS[name] | {"data_format": "channels_first"}
        found = Augmentation([{"name": name, **arguments}]).train(
            (x, labels()), positions=np.arange(BATCH), **KEYS
        )[0]
        last = trained(made(name), range(BATCH), images(), labels())[0]
        np.testing.assert_allclose(np.moveaxis(np.asarray(found), 1, 3), last, atol=1e-3)
