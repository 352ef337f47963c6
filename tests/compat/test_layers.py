"""tfbig.compat.v1.layers against the code of TF1's layers, which TensorFlow keeps unexported."""

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.keras.legacy_tf_layers import convolutional, core, pooling

from tests.compat.graphs import numbers, ran, v1
from tfbig.compat.v1 import layers
from tfbig.errors import UserError

OLD = {
    name: getattr(module, name)
    for module in (core, convolutional, pooling)
    for name in layers.__all__
    if hasattr(module, name)
}
L2 = tf.keras.regularizers.L2
CASES = {
    "dense": [
        ((4, 6), dict(units=5)),
        ((4, 3, 6), dict(units=5, activation=tf.nn.relu, name="head")),
        ((4, 6), dict(units=5, use_bias=False, kernel_regularizer=L2(0.1))),
        (
            (4, 6),
            dict(
                units=2, bias_regularizer=L2(0.3), activity_regularizer=L2(0.2), trainable=False,
                bias_initializer=tf.compat.v1.ones_initializer(),
            ),
        ),
    ],
    "conv1d": [
        ((2, 9, 3), dict(filters=4, kernel_size=3)),
        ((2, 9, 3), dict(filters=4, kernel_size=[3], strides=2, padding="SAME")),
        ((2, 9, 3), dict(filters=4, kernel_size=2, dilation_rate=2, activation=tf.nn.tanh)),
    ],
    "conv2d": [
        ((2, 9, 8, 3), dict(filters=4, kernel_size=3, activity_regularizer=L2(0.2))),
        ((2, 9, 8, 3), dict(filters=4, kernel_size=(3, 2), strides=(2, 3), padding="same")),
        ((2, 9, 8, 3), dict(filters=4, kernel_size=[5, 3], dilation_rate=(1, 2), use_bias=False)),
    ],
    "conv2d_transpose": [
        ((2, 5, 4, 3), dict(filters=4, kernel_size=3)),
        ((2, 5, 4, 3), dict(filters=4, kernel_size=(2, 3), strides=(3, 2), activation=tf.nn.relu)),
        ((2, 5, 4, 3), dict(filters=4, kernel_size=3, strides=2, padding="same", use_bias=False)),
    ],
    "separable_conv2d": [
        ((2, 9, 8, 3), dict(filters=4, kernel_size=3)),
        (
            (2, 9, 8, 3),
            dict(
                filters=4, kernel_size=3, strides=2, padding="same", depth_multiplier=2,
                depthwise_regularizer=L2(0.1), pointwise_regularizer=L2(0.2),
            ),
        ),
        ((2, 9, 8, 3), dict(filters=4, kernel_size=(2, 3), dilation_rate=2, name="s")),
    ],
    "max_pooling1d": [((2, 9, 3), dict(pool_size=2, strides=2))],
    "average_pooling1d": [((2, 9, 3), dict(pool_size=3, strides=[2], padding="same"))],
    "max_pooling2d": [
        ((2, 9, 8, 3), dict(pool_size=[2, 2], strides=2)),
        ((2, 9, 8, 3), dict(pool_size=(3, 2), strides=(2, 1), padding="same", name="p")),
    ],
    "average_pooling2d": [((2, 9, 8, 3), dict(pool_size=3, strides=2, padding="same"))],
    "flatten": [
        ((3, 4, 5), {}), ((3, 4, 5, 2), dict(data_format="channels_first")), ((3,), {}),
    ],
}  # fmt: skip
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("name", "shape", "keywords"), FLAT)
def test_a_layer_has_the_variables_and_numbers_of_tf1(name, shape, keywords):
    x = numbers(*shape)
    old = ran(functools.partial(OLD[name], **keywords), x)
    new = ran(functools.partial(getattr(layers, name), **keywords), x, values=old.variables)
    assert list(new.variables) == list(old.variables)
    assert new.trainable == old.trainable
    np.testing.assert_array_equal(new.outputs[0], old.outputs[0])
    np.testing.assert_allclose(sorted(new.regularization), sorted(old.regularization), rtol=1e-6)
    assert new.shape.as_list() == old.shape.as_list()


def test_every_function_but_those_without_a_counterpart_is_compared():
    assert set(layers.__all__) - set(CASES) == {"batch_normalization", "dropout"}


@pytest.mark.parametrize("name", sorted(OLD))
def test_the_arguments_and_their_defaults_are_those_of_tf1(name):
    def defaults(function):
        return [
            (n, type(d) if n.endswith("initializer") else d)
            for n, d in _parameters(function).items()
        ]

    assert defaults(getattr(layers, name)) == defaults(OLD[name])


def _parameters(function):
    return {n: p.default for n, p in inspect.signature(function).parameters.items()}


def names_of(build, *shape):
    return list(ran(build, numbers(*shape)).variables)


@pytest.mark.parametrize("dense", [layers.dense, core.dense], ids=["ours", "tf1"])
def test_names_are_counted_in_each_scope(dense):
    def build(x):
        with v1.variable_scope("a"):
            x = dense(dense(x, 2, use_bias=False), 2, use_bias=False)
        with v1.variable_scope("b"):
            x = dense(x, 2, use_bias=False)
            x = dense(x, 2, use_bias=False, name="dense_1")
            x = dense(x, 2, use_bias=False)
        return dense(x, 2, use_bias=False)

    assert names_of(build, 3, 2) == [
        "a/dense/kernel", "a/dense_1/kernel", "b/dense/kernel", "b/dense_1/kernel",
        "b/dense_2/kernel", "dense/kernel",
    ]  # fmt: skip


@pytest.mark.parametrize("dense", [layers.dense, core.dense], ids=["ours", "tf1"])
def test_reuse_finds_the_same_weights_and_regularizes_once(dense):
    def build(x):
        one = dense(x, 2, name="d", kernel_regularizer=L2(0.1))
        two = dense(x, 2, name="d", reuse=True, kernel_regularizer=L2(0.1))
        with v1.variable_scope("", reuse=v1.AUTO_REUSE):
            three = dense(x, 2, name="d", kernel_regularizer=L2(0.1))
        with v1.variable_scope("net"):
            four = dense(x, 2, kernel_regularizer=L2(0.1))
        with v1.variable_scope("net", reuse=True):
            five = dense(x, 2, kernel_regularizer=L2(0.1))
            six = dense(x, 2, reuse=True)
        return [one, two, three, four, five, six]

    found = ran(build, numbers(4, 3))
    assert list(found.variables) == ["d/kernel", "d/bias", "net/dense/kernel", "net/dense/bias"]
    assert len(found.regularization) == 2
    one, two, three, four, five, six = found.outputs
    assert (one == two).all()
    assert (one == three).all()
    assert (four == five).all()
    assert (four == six).all()
    assert not (one == four).any()


def test_a_name_that_is_taken_is_tf1s_error():
    def build(x):
        return layers.dense(layers.dense(x, 2, name="d"), 2, name="d")

    with pytest.raises(ValueError, match="Variable d/kernel already exists"):
        ran(build, numbers(4, 2))


@pytest.mark.parametrize("dense", [layers.dense, core.dense], ids=["ours", "tf1"])
def test_initializer_regularizer_and_getter_of_the_scope_hold(dense):
    def doubled(getter, *args, **keywords):
        return getter(*args, **keywords) * 2

    def build(x):
        ones = v1.ones_initializer()
        with v1.variable_scope("s", initializer=ones, regularizer=L2(0.5), custom_getter=doubled):
            return dense(x, 1, kernel_regularizer=L2(0.25), use_bias=False)

    found = ran(build, np.ones([1, 3], "float32"))
    assert found.outputs[0].tolist() == [[6.0]]
    # TF1 keeps the two losses apart; the scope's is of the variable, the layer's of its double.
    assert sum(found.regularization) in (0.5 * 3 + 0.25 * 12, 0.75 * 3)


def test_weights_have_the_dtype_of_the_inputs():
    found = ran(lambda x: layers.dense(x, 2), numbers(3, 2, dtype="float64"))
    assert {v.dtype.name for v in found.variables.values()} == {"float64"}


def test_a_constraint_is_kept_by_tf1s_optimizers():
    with tf.Graph().as_default(), v1.Session() as session:
        y = layers.dense(tf.ones([1, 2]), 1, kernel_constraint=lambda w: tf.clip_by_value(w, 0, 1))
        step = v1.train.GradientDescentOptimizer(10.0).minimize(tf.reduce_sum(y))
        session.run(v1.global_variables_initializer())
        session.run(step)
        assert session.run("dense/kernel/Read/ReadVariableOp:0").tolist() == [[0.0], [0.0]]


def test_a_sparse_tensor_is_what_its_dense_one_is():
    def build(x):
        dense = layers.dense(x, 4, name="d")
        return [dense, layers.dense(tf.sparse.from_dense(x), 4, name="d", reuse=True)]

    one, two = ran(build, np.round(numbers(5, 3))).outputs
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_in_a_tf_function_they_find_what_a_creator_has_made():
    x = numbers(5, 4)
    made = {"dense/kernel": tf.Variable(numbers(4, 2)), "dense/bias": tf.Variable(numbers(2))}
    asked = []

    def create(next_creator, **keywords):
        asked.append(keywords["name"])
        return made[keywords["name"]]

    @tf.function
    def run(x):
        with tf.variable_creator_scope(create):
            return layers.dense(layers.dropout(x), 2)

    expected = x @ made["dense/kernel"].numpy() + made["dense/bias"].numpy()
    np.testing.assert_allclose(run(tf.constant(x)), expected, rtol=1e-5)
    assert asked == ["dense/kernel", "dense/bias"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda x: layers.dense(x, 0), "layers.dense: units=0: expected an integer of 1 or more."),
        (lambda x: layers.dense(tf.zeros([3]), 2), "layers.dense: expected inputs of rank 2 or "),
        (lambda x: layers.dense(tf.cast(x, tf.int32), 2), "dense/kernel would have dtype int32"),
        (lambda x: layers.dense(v1.placeholder("float32", [3, None]), 2), "dimension -1 of the in"),
        (lambda x: layers.conv2d(x, 2, 3), "layers.conv2d: expected inputs of rank 4, received "),
        (lambda x: layers.conv1d(x[:, None], 2, (3, 3)), r"=\(3, 3\): expected a number"),
        (lambda x: layers.conv1d(x[:, None], 2, 3, padding="causal"), "padding='causal': expected"),
        (
            lambda x: layers.max_pooling1d(x[:, None], 2, 2, data_format="NHWC"),
            "data_format='NHWC': expected 'channels_last' or 'channels_first'",
        ),
        (lambda x: layers.dropout(x, 1.5), "rate=1.5: expected a number from 0 to 1"),
        (lambda x: layers.dropout(x, training=None), "training=None: expected True, False or"),
        (lambda x: layers.batch_normalization(x, renorm=True), r"\(renorm=True\) is not supported"),
        (lambda x: layers.batch_normalization(x, axis=[1, 2]), r"axis=\[1, 2\] for inputs of"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_an_error_that_says_so(build, message):
    with pytest.raises(UserError, match=message):
        ran(build, numbers(3, 4))


def test_called_eagerly_they_say_where_they_work():
    with pytest.raises(UserError, match="layers.dense was called eagerly.*call it in a model_fn"):
        layers.dense(tf.ones([2, 2]), 3)


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("Dense", r"write the function tfbig.compat.v1.layers.dense\(inputs, …\), or keras.layers"),
        ("conv3d", r"write keras.layers.Conv3D\(…\)\(inputs\)"),
    ],
)
def test_a_name_that_does_not_exist_says_what_to_write(name, instead):
    with pytest.raises(UserError, match=f"layers.{name} does not exist; {instead}"):
        getattr(layers, name)
    assert not hasattr(layers, "desne")
