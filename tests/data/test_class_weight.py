"""with_class_weight: class weights become sample weights, in Sources and Datasets alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig.data import ArraySource, with_class_weight
from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.errors import UserError

WEIGHTS = {0: 0.5, 2: 3.0}
LABELS = np.array([0, 1, 2, 3, 2])
EXPECTED = [0.5, 1.0, 3.0, 1.0, 3.0]  # classes left out weigh 1, also those past the largest
FEATURES = np.zeros([5, 2], np.float32)


def weights_of(kind, *arrays):
    """The sample weights of data made of these arrays, in a Source or a Dataset."""
    if kind == "source":
        return with_class_weight(ArraySource(arrays).batch(5), WEIGHTS).read(np.arange(5))[2]
    dataset = tf.data.Dataset.from_tensor_slices(arrays).batch(5)
    return next(iter(with_class_weight(dataset, WEIGHTS)))[2].numpy()


both = pytest.mark.parametrize("kind", ["source", "dataset"])


@both
@pytest.mark.parametrize(
    "labels", [LABELS, LABELS[:, None], np.eye(4, dtype=np.float32)[LABELS], LABELS.astype("u1")]
)
def test_labels_may_be_numbers_a_column_or_one_hot(kind, labels):
    weights = weights_of(kind, FEATURES, labels)
    assert weights.dtype == np.float32
    assert weights.tolist() == EXPECTED


@both
@pytest.mark.parametrize("shape", [[5], [5, 1], [5, 3]])
def test_a_sample_weight_that_is_there_is_multiplied_whatever_its_shape(kind, shape):
    given = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    weights = weights_of(kind, FEATURES, LABELS, given)
    column = np.reshape(EXPECTED, [5] + [1] * (len(shape) - 1))
    np.testing.assert_array_equal(weights, given * column)


@both
def test_a_negative_label_weighs_1(kind):
    assert weights_of(kind, FEATURES, np.array([-1, 0, 2, -1, 1])).tolist() == [1, 0.5, 3, 1, 1]


def test_training_with_it_is_training_with_kerass_class_weight():
    rng = np.random.RandomState(0)
    x, y = rng.rand(40, 3).astype("f4"), rng.randint(0, 4, 40)
    weighted = with_class_weight(tf.data.Dataset.from_tensor_slices((x, y)).batch(8), WEIGHTS)
    trained = []
    for data, options in ((weighted, {}), ((x, y), dict(class_weight={1: 1, 3: 1} | WEIGHTS))):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.1), loss)
        if isinstance(data, tuple):
            options |= dict(y=data[1], batch_size=8, shuffle=False)
            data = data[0]
        model.fit(data, epochs=2, verbose=0, **options)
        trained.append(model.get_weights())
    for ours, kerass in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, kerass, atol=1e-6)


@pytest.mark.parametrize("weights", [{}, None, {-1: 2.0}, {"0": 1.0}, {"cat": 1.0}, {0.5: 1.0}])
def test_keys_that_are_no_class_numbers_are_refused(weights):
    source = ArraySource((FEATURES, LABELS)).batch(5)
    with pytest.raises(UserError, match=r"^class_weight=.*class numbers \(0, 1, …\) to weights\.$"):
        with_class_weight(source, weights)


@both
def test_data_without_labels_are_refused(kind):
    with pytest.raises(UserError, match=r"^with_class_weight: expected data of \(features, label"):
        weights_of(kind, {"x": FEATURES}) if kind == "dataset" else with_class_weight(
            ArraySource({"x": FEATURES}), WEIGHTS
        )


# Labels of several places or outputs.

STEPS = np.array([[0, 1, 2], [3, 2, -1], [2, 0, 0], [1, 1, 1], [0, 0, 2]])
OF_STEPS = [[0.5, 1, 3], [1, 3, 1], [3, 0.5, 0.5], [1, 1, 1], [0.5, 0.5, 3]]
PIXELS = np.stack([STEPS, STEPS], 1)  # [5, 2, 3]
OF_PIXELS = np.stack([OF_STEPS, OF_STEPS], 1).tolist()


def made(kind, labels, *given, weights=WEIGHTS, one_hot=None):
    """The sample weights of such labels, as nested lists."""
    arrays = (FEATURES, labels, *given)
    if kind == "source":
        data = with_class_weight(ArraySource(arrays).batch(5), weights, one_hot=one_hot)
        found = data.read(np.arange(5))[2]
    else:
        data = tf.data.Dataset.from_tensor_slices(arrays).batch(5)
        data = with_class_weight(data, weights, one_hot=one_hot)
        found = next(iter(data))[2]
    assert all(leaf.dtype == np.float32 for leaf in tf.nest.flatten(found))
    return tf.nest.map_structure(lambda leaf: np.asarray(leaf).tolist(), found)


@both
def test_every_time_step_or_pixel_has_the_weight_of_its_class(kind):
    one_hot = np.eye(4, dtype="f4")
    assert made(kind, STEPS, one_hot=False) == OF_STEPS
    assert made(kind, STEPS[..., None]) == OF_STEPS
    assert made(kind, STEPS.astype("f4")[..., None]) == OF_STEPS
    assert made(kind, STEPS.astype("f4"), one_hot=False) == OF_STEPS
    assert made(kind, PIXELS, one_hot=False) == OF_PIXELS
    assert made(kind, PIXELS[..., None]) == OF_PIXELS
    known = np.maximum(STEPS, 0)
    of_known = [[0.5 if label == 0 else w for label, w in zip(*row, strict=True)]
                for row in zip(known, OF_STEPS, strict=True)]  # fmt: skip
    assert made(kind, one_hot[known]) == of_known
    assert made(kind, one_hot[known].astype("i4"), one_hot=True) == of_known
    assert made(kind, one_hot[LABELS].astype("i4"), one_hot=True) == EXPECTED
    padded = one_hot[known] * (STEPS >= 0)[..., None]  # a row of zeros is no class
    assert made(kind, padded) == OF_STEPS
    assert made(kind, STEPS, weights={0: 0.5, 2: 3.0, 5: 9.0}) == OF_STEPS  # 3 places, 6 classes


@both
def test_each_output_has_weights_of_its_own(kind):
    labels = {"c": LABELS, "d": STEPS, "r": np.zeros([5, 2, 3], "f4")}
    found = made(kind, labels, weights={"c": WEIGHTS, "d": {1: 7.0}}, one_hot={"d": False})
    steps = np.where(STEPS == 1, 7.0, 1.0).tolist()
    assert found == {"c": EXPECTED, "d": steps, "r": np.ones([5, 1]).tolist()}
    places = made(kind, (LABELS, STEPS), weights=[WEIGHTS, None])
    assert places == (EXPECTED, [1, 1, 1, 1, 1])
    given = np.arange(5)  # one for all outputs, or one for each
    found = made(kind, (LABELS, STEPS), given, weights=[None, WEIGHTS], one_hot=False)
    assert found == (given.tolist(), (given[:, None] * OF_STEPS).tolist())
    named = {"c": LABELS, "d": STEPS}
    found = made(kind, named, {"c": given, "d": STEPS}, weights={"c": WEIGHTS}, one_hot=False)
    assert found == {"c": (given * EXPECTED).tolist(), "d": STEPS.tolist()}


REFUSED = {
    "class numbers or one-hot": (STEPS, {}, r"int64 of shape \[n, 3\], may be .*one_hot=False.*"),
    "one weight for each class of a dict": ({"c": LABELS}, {}, r"class_weight={'c': {0: 1.0, 1: "),
    "and of a tuple": ((LABELS, STEPS), {}, r"\(2 arrays\).*class_weight=\[{0: 1.0, 1: 5.0}, None"),
    "another output": ({"c": LABELS}, dict(weights={"x": WEIGHTS}), "the labels are a dict"),
    "no classes of an output": ({"c": LABELS}, dict(weights={"c": {}}), "the labels are a dict"),
    "an array of outputs": (LABELS, dict(weights={"c": WEIGHTS}), "from class numbers"),
    "weights that are none": (LABELS, dict(weights={0: "heavy"}), "from class numbers"),
    "nested labels": ({"c": {"d": LABELS}}, dict(weights={"c": WEIGHTS}), "'c' are nested"),
    "strings": (LABELS.astype("S"), {}, "the labels are string; map them to class numbers"),
    "no dimension of classes": (LABELS, dict(one_hot=True), r"one_hot=True, but .*shape \[n\],"),
    "an odd one_hot": (STEPS, dict(one_hot="no"), "one_hot='no': expected True"),
    "several": (STEPS.astype("f4"), {}, "read as one-hot, but a row sums to neither 1 nor 0"),
    "fractions": (LABELS + 0.5, {}, "not class numbers"),
    "NaN": (LABELS * np.nan, {}, "not class numbers"),
}


@both
@pytest.mark.parametrize("case", REFUSED)
def test_labels_without_a_class_each_are_refused(kind, case):
    labels, options, message = REFUSED[case]
    expected = UserError if kind == "source" else (UserError, tf.errors.InvalidArgumentError)
    with pytest.raises(expected, match=message):
        made(kind, labels, **options)


def test_training_tells_which_labels_are_wrong_and_can_keep_its_position():
    labels = LABELS * np.array([1, 1, 1, 1, np.nan])
    data = with_class_weight(
        tf.data.Dataset.from_tensor_slices((FEATURES, labels)).batch(2), WEIGHTS
    )
    feed = DatasetFeed(data, multiple=1, steps_per_loop=2)
    assert feed.keepable
    feed.pull(0, 2)
    with pytest.raises(
        UserError, match=r"^with_class_weight: the labels are not class numbers .*\.$"
    ):
        feed.pull(2, 1)
