"""The list of layers: how it is written, what is refused, and what a feed makes of it."""

import keras
import ml_collections
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.harness import call
from tfbig.data.augmentation import Augmentation, Transform, as_augmentation
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.errors import UserError

FLIP = {"name": "RandomFlip", "mode": "horizontal"}
ZOOM = {"name": "RandomZoom", "height_factor": [-0.2, 0.0]}
ZOOMING = keras.layers.RandomZoom((-0.2, 0.0))
X = np.random.default_rng(0).uniform(0, 255, (12, 6, 8, 3)).astype("float32")
Y = np.eye(12, dtype="float32")
KEYS = dict(seed=1, step=2, positions=np.arange(12), batch_size=12)


def trained(layers, batch=X, **changes):
    return Augmentation(layers).train(batch, **{**KEYS, **changes})


# How it is written.


@pytest.mark.parametrize(
    "layers",
    [
        (FLIP, ZOOM),
        [ml_collections.ConfigDict(FLIP), ml_collections.ConfigDict(ZOOM)],
        ml_collections.ConfigDict({"augment": [FLIP, ZOOM]}).augment,
        ml_collections.ConfigDict({"augment": (FLIP, ZOOM)}).augment,
        [keras.layers.RandomFlip("horizontal"), ZOOMING],
        [{"name": "Pipeline", "layers": [FLIP, ZOOM]}],
        [keras.Sequential([keras.layers.RandomFlip("horizontal"), ZOOMING])],
    ],
    ids=["tuple", "configs", "config's list", "config's tuple", "layers", "Pipeline", "Sequential"],
)  # fmt: skip
def test_layers_may_be_written_in_several_ways_that_mean_the_same(layers):
    np.testing.assert_array_equal(trained(layers), trained([FLIP, ZOOM]))


def test_a_source_takes_a_list_an_augmentation_or_a_mapping_with_the_key():
    by_key = ml_collections.ConfigDict({"layers": [FLIP], "key": "image"})
    made = as_augmentation(by_key)
    assert (made.key, len(made.transforms)) == ("image", 1)
    assert as_augmentation(made) is made
    source = tfbig.data.ArraySource(X).augment([FLIP])
    assert isinstance(source.augmentation, Augmentation)


@pytest.mark.parametrize("value", [None, 3, "RandomFlip", FLIP, {"layer": [FLIP]}])
def test_what_is_no_list_of_layers_is_refused(value):
    with pytest.raises(UserError, match=r"^augment\(.*expected a list of layers, such as [^\n]*$"):
        tfbig.data.ArraySource(X).augment(value)


class Unknown(keras.layers.RandomFlip):
    pass


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"name": "RandomFlop"}, r"no layer 'RandomFlop'; the layers are .*TokenMasking"),
        ({"mode": "horizontal"}, r"no layer None"),
        ({"name": "Dense", "units": 1}, r"no layer 'Dense'"),
        ({"name": "RandomFlip", "mod": 1}, r"RandomFlip: .*'mod'.* arguments are mode, "),
        ({"name": "RandomFlip", "mode": "up"}, r"RandomFlip: mode='up'; expected horizontal, "),
        ({"name": "RandomRotation"}, r"RandomRotation: .*'factor'"),
        ({"name": "RandomRotation", "factor": 7}, r"RandomRotation: .*factor=7"),
        ({"name": "RandomFlip", "seed": 7}, r"RandomFlip has seed=7, .*tf_random_seed"),
        ({"name": "MaxNumBoundingBoxes"}, r"MaxNumBoundingBoxes cannot be used: .*bounding boxes"),
        ({"name": "TokenMasking", "rate": 0.1}, r"TokenMasking: .*'mask_token'.* vocabulary_size"),
        ({"name": "Normalization"}, r"Normalization has no mean .*adapt"),
        (Unknown(), r"Unknown cannot be used: .*independent.*Transform"),
        (keras.layers.Dense(3), r"Dense cannot be used"),
        ("RandomFlip", r"'RandomFlip' is not a layer; pass a dict"),
    ],
)  # fmt: skip
def test_an_unknown_name_or_argument_is_refused_by_its_name(layer, words):
    with pytest.raises(UserError, match=rf"^augmentation: .*{words}[^\n]*$"):
        Augmentation([layer])


def test_an_empty_list_is_refused():
    with pytest.raises(UserError, match="list of layers is empty"):
        Augmentation([])


@pytest.mark.parametrize(
    ("layer", "x", "words"),
    [
        (FLIP, X[..., 0], r"RandomFlip needs images .* received \[6, 8\]; write source\.map"),
        (
            FLIP,
            np.full((12, 2, 2, 1), "a", object),
            r"RandomFlip .* numeric images; received string",
        ),
        ({"name": "RandomHue", "factor": 0.1}, X[..., :1], r"RandomHue cannot .* \[6, 8, 1\]: "),
    ],
)
def test_images_that_a_layer_cannot_work_on_are_refused_by_its_name(layer, x, words):
    with pytest.raises(UserError, match=rf"^{words}[^\n]*$"):
        trained([layer], x)


# Which part of a batch.


def test_one_entry_of_the_features_is_changed_and_the_others_keep_company():
    batch = ({"image": X, "id": np.arange(12)}, Y)
    by_key = Augmentation([FLIP, {"name": "MixUp"}], key="image")
    features, labels = by_key.train(batch, **KEYS)
    plain = Augmentation([FLIP, {"name": "MixUp"}]).train((X, Y), **KEYS)
    np.testing.assert_array_equal(features["image"], plain[0])
    np.testing.assert_array_equal(labels, plain[1])
    keys = {**KEYS, "positions": (needed := by_key.needed(**{**KEYS, "positions": [3, 7]}))}
    part = tf.nest.map_structure(lambda a: a[needed], batch)
    features, labels = by_key.train(part, wanted=[3, 7], **keys)
    np.testing.assert_array_equal(features["id"], [3, 7])
    np.testing.assert_array_equal(features["image"], plain[0][[3, 7]])
    np.testing.assert_array_equal(labels, plain[1][[3, 7]])


def test_weights_and_labels_go_with_their_examples():
    x, y, w = trained([FLIP], (X, np.arange(12), np.ones(12)), wanted=[4, 2])
    assert (y.tolist(), w.tolist()) == ([2, 4], [1, 1])
    assert x.shape == (2, 6, 8, 3)


@pytest.mark.parametrize(
    ("key", "features", "words"),
    [
        (None, {"image": X, "id": Y}, r"several entries \('image', 'id'\)"),
        ("photo", {"image": X, "id": Y}, r"key='photo' is not an entry .*\('image', 'id'\)"),
        ("image", X, r"key='image' is not an entry of the features \(not a dict\)"),
    ],
)
def test_the_key_must_name_an_entry_where_there_are_several(key, features, words):
    with pytest.raises(UserError, match=rf"^augmentation: .*{words}"):
        Augmentation([FLIP], key=key).evaluate(features)


def test_labels_for_each_pixel_are_refused_where_pixels_move():
    mask = (tf.TensorSpec([6, 8, 3], tf.float32), tf.TensorSpec([6, 8], tf.int32))
    with pytest.raises(
        UserError, match=r"^RandomFlip moves .* \[6, 8\] .* labels of shape \[6, 8\]"
    ):
        Augmentation([FLIP]).output_spec(mask)
    colour = Augmentation([{"name": "RandomInvert"}]).output_spec(mask)
    assert colour == mask
    features = {"image": mask[0], "depth": mask[1]}
    with pytest.raises(UserError, match=r"feature 'depth' of shape \[6, 8\]"):
        Augmentation([FLIP], key="image").output_spec(features)


def test_positions_that_are_wanted_must_be_there():
    with pytest.raises(ValueError, match="wanted"):
        trained([FLIP], X[:2], positions=[0, 1], wanted=[2])


def test_an_adapted_normalization_keeps_what_it_learned():
    layer = keras.layers.Normalization()
    layer.adapt(X)
    found = np.asarray(Augmentation([layer]).evaluate(X))
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(0, 1, 2)), 1, rtol=1e-4)


def test_layers_of_a_config_compute_in_float32_whatever_the_models_policy():
    jitter = {"name": "RandomColorJitter", "brightness_factor": 0.3, "contrast_factor": 0.3}
    expected = np.asarray(trained([jitter, ZOOM]))
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        found = np.asarray(trained([jitter, ZOOM]))
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_array_equal(found, expected)


# A change of one's own.


class Noise(Transform):
    def train(self, batch, draw, positions, wanted):
        noise = draw.rng().normal(size=[draw.batch_size, 1, 1, 1]).astype("float32")
        return batch._replace(features=batch.features + noise[positions])


def test_a_transform_of_ones_own_goes_between_layers_of_keras():
    whole = np.asarray(trained([FLIP, Noise(), ZOOM]))
    part = trained([FLIP, Noise(), ZOOM], X[[2, 5]], positions=[2, 5])
    np.testing.assert_array_equal(part, whole[[2, 5]])
    np.testing.assert_allclose(np.ptp(trained([Noise()]) - X, axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_array_equal(Augmentation([Noise()]).evaluate(X), X)


def test_the_same_transform_twice_draws_twice():
    once, twice = np.asarray(trained([Noise()])), np.asarray(trained([Noise(), Noise()]))
    assert np.abs(2 * (once - X) - (twice - X)).max() > 0.1


def test_there_is_one_compiled_function_for_all_steps_and_shards():
    augmentation = Augmentation([FLIP, ZOOM])
    for step in range(3):
        augmentation.train(X, **{**KEYS, "step": step})
        augmentation.train(X[:5], **{**KEYS, "step": step, "positions": np.arange(5)})
    (images,) = augmentation.transforms
    assert len(images._functions) == 1


# In a feed.

LAYERS = [FLIP, {"name": "RandomContrast", "factor": 0.5}, {"name": "MixUp"}, ZOOM]


def fed(steps, first=0, worker=0, workers=1, training=True):
    """The rows and labels of each step, as a feed gives them to a worker."""
    x = np.random.default_rng(0).uniform(0, 255, (50, 6, 6, 3)).astype("float32")
    source = tfbig.data.ArraySource((x, np.eye(50, dtype="float32"))).batch(16).augment(LAYERS)
    feed = SourceFeed(
        source, seed=4, multiple=1, steps_per_loop=1, training=training,
        order="random" if training else "own", worker=worker, workers=workers,
    )  # fmt: skip
    found = []
    for step in range(first, first + steps):
        stack = feed.pull(step, 1)
        count = int(np.asarray(stack[1])[0])
        found.append([np.asarray(leaf)[0, :count] for leaf in tf.nest.flatten(stack[0])])
    feed.close()
    return found


def test_three_workers_together_have_the_rows_of_one():
    whole = fed(5)  # four steps are a pass, whose last batch has two examples
    assert [len(x) for x, _ in whole] == [16, 16, 16, 2, 16]
    shards = [fed(5, worker=worker, workers=3) for worker in range(3)]
    for step, parts in enumerate(whole):
        for i, part in enumerate(parts):
            rows = np.concatenate([shard[step][i] for shard in shards]).reshape(len(part), -1)
            ours = part.reshape(len(part), -1)
            assert sorted(map(bytes, rows)) == sorted(map(bytes, ours))


def sums(first: int) -> list:
    return [np.asarray(x).view("uint32").sum().item() for x, _ in fed(2, first)]


@pytest.mark.slow
def test_a_resumed_run_in_another_process_goes_on_with_the_same_bits(tmp_path):
    resumed = call(sums, tmp_path, 2, timeout=120, TF_NUM_INTRAOP_THREADS="1")
    assert resumed == [np.asarray(x).view("uint32").sum().item() for x, _ in fed(4)[2:]]


def test_evaluation_reads_the_examples_as_they_are():
    x = np.random.default_rng(0).uniform(0, 255, (50, 6, 6, 3)).astype("float32")
    np.testing.assert_array_equal(fed(1, training=False)[0][0], x[:16])
