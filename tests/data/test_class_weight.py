"""with_class_weight: class weights become sample weights, in Sources and Datasets alike."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig.data import ArraySource, with_class_weight
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
