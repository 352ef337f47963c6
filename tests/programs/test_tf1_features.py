"""Feature columns and lookup layers in model_fns of TensorFlow 1 code."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import batch, classes, forward, x
from tests.programs.test_tf1_training import OPTIMIZERS, minimize
from tests.programs.tf1 import Session1, dense, v1
from tests.programs.tf1_training_runs import new, step

# Feature columns and tables.


def columns_model_fn(features, labels, mode):
    f, f1 = tf.feature_column, v1.feature_column
    words = f.categorical_column_with_vocabulary_list("word", ["a", "b"], num_oov_buckets=1)
    ids = f.categorical_column_with_identity("id", 5)
    hashed = f.categorical_column_with_hash_bucket("word", 4)
    number = f.numeric_column("x")
    ranges = f.bucketized_column(number, [-0.5, 0.5])
    crossed = f.crossed_column(["word", ranges], 6)
    fixed = v1.constant_initializer(0.1)
    net = f1.input_layer(
        features,
        [
            number,
            ranges,
            f.indicator_column(words),
            f.embedding_column(ids, 2, initializer=fixed),
            f.embedding_column(hashed, 2, initializer=fixed),
            f.indicator_column(crossed),
        ],
    )
    logits = dense(net, 3, "out") + f1.linear_model(features, [number, words, crossed], units=3)
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    linear = [v for v in v1.trainable_variables() if v.name.startswith("linear_model")]
    deep = [v for v in v1.trainable_variables() if not v.name.startswith("linear_model")]
    train_op = tf.group(
        v1.train.FtrlOptimizer(0.1).minimize(loss, var_list=linear),
        v1.train.AdagradOptimizer(0.1).minimize(loss, v1.train.get_global_step(), var_list=deep),
    )
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


@pytest.mark.slow
def test_feature_columns_train_as_in_tensorflow_1():
    features = {
        "word": np.array(["a", "b", "c", "a", "d", "b"]),
        "id": np.array([0, 1, 1, 2, 3, 3]),
        "x": x(1),
    }
    program = new(columns_model_fn, (features, classes()))
    session = Session1(columns_model_fn, features, classes())
    assert len(program.tables) == 2
    for _ in range(3):
        step(program, features, classes(), parts=2)
        session.train(features, classes())
    found = {n.partition("/")[2]: v.numpy() for n, v in program.named_variables().items()}
    expected = session.values()
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("by_keras", [False, True])
def test_lookup_layers_and_layers_adapted_outside_work(by_keras):
    normalize = layers.Normalization()
    normalize.adapt(x(4))

    def model_fn(features, labels, mode):
        words = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(features["word"])
        text = layers.TextVectorization(vocabulary=["a"], output_sequence_length=1)
        words = tf.concat([words, tf.cast(text(features["word"]), words.dtype)], 1)
        net = tf.concat([normalize(features["x"]), tf.cast(words, tf.float32)], 1)
        if by_keras:
            loss = keras.losses.sparse_categorical_crossentropy(
                labels, layers.Dense(3)(net), from_logits=True
            )
            return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(0.1))
        loss = v1.losses.sparse_softmax_cross_entropy(labels, dense(net, 3, "out"))
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=minimize(OPTIMIZERS["adam"])(loss))

    features = {"word": np.array(["a", "b", "c", "a", "d", "b"]), "x": x(4)}
    program = new(model_fn, (features, classes()))
    assert len(program.trainable) == 2
    assert float(forward_loss(program, features)) == float(forward_loss(program, features)) > 0


def forward_loss(program, features):
    program.select_mode(True)

    @tf.function(autograph=False)
    def trace():
        (term,) = forward(program, batch(features, classes())).terms
        return term.total

    return trace()
