"""A new head takes the features that entered the old classifier, however this ends.

Each model has one layer named "features". What enters the head is compared with what this gives,
pooled by NumPy where it has places.
"""

import keras
import numpy as np
import pytest
from keras import layers

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.head import with_head
from tfbig.finetuning.layers import weighted_layers


def as_it_is(features: np.ndarray) -> np.ndarray:
    return features


def mean(features: np.ndarray) -> np.ndarray:
    return features.mean(axis=tuple(range(1, features.ndim - 1)))


def maximum(features: np.ndarray) -> np.ndarray:
    return features.max(axis=(1, 2))


def conv(filters, size=3, activation="relu", name=None):
    return layers.Conv2D(filters, size, activation=activation, padding="same", name=name)


def chain(*steps, shape=(4, 4, 3), name=None) -> keras.Model:
    return keras.Sequential([keras.Input(shape), *steps], name=name)


def graph(build, shape=(4, 4, 3)) -> keras.Model:
    entered = keras.Input(shape)
    return keras.Model(entered, build(entered))


def gap(**keywords):
    return layers.GlobalAveragePooling2D(**keywords)


def flat():
    return layers.Flatten(name="features")


def mobilenet(activation="softmax", first=()) -> keras.Model:
    """The end of MobileNetV3."""
    return chain(
        *first,
        conv(5),
        gap(keepdims=True),
        conv(7, 1, name="features"),
        layers.Dropout(0.2),
        conv(3, 1, None, name="logits"),
        layers.Flatten(),
        layers.Activation(activation),
        name="mobile",
    )


def squeezenet(*end, activation="relu") -> keras.Model:
    end = end or (gap(), layers.Activation("softmax"))
    return chain(conv(5, name="features"), layers.Dropout(0.5), conv(3, 1, activation), *end)


def headless(pool=False) -> keras.Model:
    """The end of a ResNet without its top."""
    steps = [conv(5, activation=None), layers.BatchNormalization()]
    steps.append(layers.ReLU(name="relu" if pool else "features"))
    return chain(*steps, *([gap(name="features")] if pool else []), name="headless")


def by_hand(entered):
    e = keras.ops.exp(layers.Dense(3)(flat()(entered)))
    return e / keras.ops.sum(e, axis=-1, keepdims=True)


def first_time(entered):
    times = layers.LSTM(4, return_sequences=True, name="features")(entered)
    return layers.Softmax()(layers.Dense(3)(times)[:, 0])


def language_model(entered):
    tokens = layers.ReversibleEmbedding(9, 4)
    hidden = layers.Dense(4, "relu", name="features")(tokens(entered))
    return tokens(hidden, reverse=True)


def gated(entered):
    x = conv(4)(entered)
    gate = layers.Dense(4, "sigmoid")(gap(keepdims=True)(x))
    return layers.Multiply(name="features")([x, gate])


# By name: the model, and how its features are pooled.
UNDERSTOOD = {
    "dense": (lambda: chain(flat(), layers.Dense(3, "softmax")), as_it_is),
    "dense_then_activation": (
        lambda: chain(flat(), layers.Dense(3), layers.Activation("sigmoid")),
        as_it_is,
    ),
    "dense_then_normalization": (
        lambda: chain(flat(), layers.Dense(3), layers.BatchNormalization(), layers.Softmax()),
        as_it_is,
    ),
    "dense_then_ops": (
        lambda: graph(lambda x: keras.ops.softmax(layers.Dense(3)(flat()(x)))),
        as_it_is,
    ),
    "dense_then_lambda": (
        lambda: chain(flat(), layers.Dense(3), layers.Lambda(lambda x: keras.ops.softmax(x))),
        as_it_is,
    ),
    "dense_then_several_ops": (lambda: graph(by_hand), as_it_is),
    "dropout_before": (
        lambda: chain(conv(4), gap(name="features"), layers.Dropout(0.3), layers.Dense(3)),
        as_it_is,
    ),
    "mobilenet": (mobilenet, mean),
    "mobilenet_of_logits": (lambda: mobilenet("linear"), mean),
    "squeezenet": (squeezenet, mean),
    "squeezenet_by_the_maximum": (
        lambda: squeezenet(layers.GlobalMaxPooling2D(), layers.Softmax()),
        maximum,
    ),
    "logits_pooled": (lambda: squeezenet(gap(), activation=None), mean),
    "nested": (
        lambda: graph(lambda x: mobilenet()(layers.Rescaling(2.0)(x), training=False)),
        mean,
    ),
    "nested_as_the_last": (lambda: chain(flat(), chain(layers.Dense(3), shape=(48,))), as_it_is),
    "nested_twice": (
        lambda: graph(lambda x: layers.Softmax()(chain(squeezenet(gap()), shape=(4, 4, 3))(x))),
        mean,
    ),
    "headless": (headless, mean),
    "headless_pooled": (lambda: headless(pool=True), as_it_is),
    "headless_nested": (lambda: chain(headless(), layers.GlobalMaxPooling2D()), maximum),
    "headless_vgg": (lambda: chain(conv(4), layers.MaxPooling2D(name="features")), mean),
    "headless_gated": (lambda: graph(gated), mean),
    "hidden_layer": (
        lambda: chain(conv(4), gap(), layers.Dense(6, "tanh", name="features")),
        as_it_is,
    ),
    "every_time": (
        lambda: chain(
            layers.LSTM(4, return_sequences=True, name="features"), layers.Dense(3), shape=(5, 2)
        ),
        mean,
    ),
    "first_time": (lambda: graph(first_time, (5, 2)), lambda x: x[:, 0]),
    "tied_weights": (lambda: graph(language_model, (5,)), mean),
}


def layer_of(model: keras.Model, name: str) -> keras.layers.Layer:
    return next(each for each in _private_api.flatten_layers(model) if each.name == name)


def seen(model: keras.Model, layer: keras.layers.Layer, inputs) -> np.ndarray:
    """What a layer gives in a call of the model."""
    found, call = [], type(layer).call

    def noting(*args, **keywords):
        found.append(call(layer, *args, **keywords))
        return found[-1]

    layer.call = noting
    try:
        model(inputs)
    finally:
        del layer.call
    return found[-1].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", UNDERSTOOD)
def test_the_head_takes_what_entered_the_classifier(name, tmp_path):
    make, pooled = UNDERSTOOD[name]
    keras.utils.set_random_seed(1)
    base = make()
    inputs = np.random.default_rng(0).normal(size=(3, *base.input_shape[1:])).astype("float32")
    if name == "tied_weights":
        inputs = np.abs(inputs)
    before = base(inputs).numpy()
    features = pooled(seen(base, layer_of(base, "features"), inputs))
    # Automatic names count from the start, as in another process.
    keras.utils.clear_session(free_memory=False)
    model = with_head(base, 2)
    head = model.get_layer("head")
    expected = features @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(inputs).numpy(), expected, atol=1e-5)
    assert model.output_shape == (None, 2)
    assert weighted_layers(model)[-1] is head  # what freeze="backbone" trains
    np.testing.assert_array_equal(base(inputs).numpy(), before)  # it stays as it was
    if name in ("nested", "squeezenet"):
        model.save(tmp_path / "tuned.keras")
        again = keras.models.load_model(tmp_path / "tuned.keras")
        np.testing.assert_allclose(again(inputs).numpy(), expected, atol=1e-5)


def test_padding_is_left_out_of_the_average_over_times():
    base = chain(layers.Embedding(9, 4, mask_zero=True), layers.Dense(3), shape=(5,))
    tokens = np.array([[3, 5, 0, 0, 0], [1, 2, 3, 4, 5]])
    model = with_head(base, 2)
    table, head = base.layers[0].embeddings.numpy(), model.get_layer("head")
    features = np.stack([table[[3, 5]].mean(axis=0), table[1:6].mean(axis=0)])
    expected = features @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(model(tokens).numpy(), expected, atol=1e-6)


class Closed(keras.Model):
    """Its classifier is inside of its call."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.dense = layers.Dense(3, "softmax")

    def call(self, features):
        return self.dense(keras.ops.mean(features, axis=(1, 2)))


class OwnCall(keras.Model):
    """Functional, but computes something else than its graph."""

    def call(self, features):
        return 2 * super().call(features)


def twice(entered):
    dense = layers.Dense(48, name="dense")
    return layers.Softmax()(dense(dense(layers.Flatten()(entered))))


def averaged(entered):
    dense, x = layers.Dense(3), layers.Flatten()(entered)
    return layers.Softmax()(layers.Average()([dense(layers.Dropout(0.1)(x)) for _ in range(2)]))


def own_call():
    entered = keras.Input((4, 4, 3))
    return OwnCall(entered, layers.Dense(3)(layers.Flatten()(entered)), name="own")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: graph(Closed(name="inner")),
            "it ends in 'inner', a Closed with its own call method",
        ),
        (own_call, "needs a Sequential or functional model with one output and weights; the"),
        (lambda: graph(twice), "in probabilities, and 'dense' is called several times"),
        (lambda: graph(averaged), "probabilities, and no layer with weights is the only way to"),
        (
            lambda: chain(layers.LSTM(4), layers.Softmax(), shape=(5, 2)),
            "it ends in probabilities, and a LSTM computes them",
        ),
        (
            lambda: chain(conv(4), conv(1, 1, None), layers.Flatten(), layers.Softmax()),
            "at each position become an output of the shape ('batch', 16), so the positions are",
        ),
        (lambda: squeezenet(gap()), "'conv2d' may be features, or numbers for classes after an"),
        (
            lambda: chain(conv(4, 1, None, name="map")),
            "the output of its last convolution 'map' may be features, or numbers for classes at "
            "each position. Build the new model in model_fn, as keras.Model(loaded.input, "
            "keras.layers.Dense(2)(features)).",
        ),
    ],
)
def test_what_cannot_be_told_from_the_features_is_refused(make, says):
    keras.utils.clear_session(free_memory=False)
    with pytest.raises(UserError) as caught:
        with_head(make(), 2)
    assert says in str(caught.value), str(caught.value)
