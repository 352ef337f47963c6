"""Losses that do not have one value per example.

These tests guard has_custom_call and unreduced_loss of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfbig
from tests.programs.batches import (
    CLOSE,
    WEIGHTS,
    N,
    batch,
    classes,
    dense,
    forward,
    keras_program,
    x,
)
from tfbig.errors import UserError
from tfbig.programs import program as kinds
from tfbig.training.step import gradients


def cross_entropy(labels, logits):
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def flattened(labels, logits):
    """[n * T], one value for each token."""
    return cross_entropy(ops.reshape(labels, [-1]), ops.reshape(logits, [-1, 3]))


def picked(labels, logits):
    """[k], one for each token whose label is not 0."""
    labels, logits = tf.reshape(labels, [-1]), tf.reshape(logits, [-1, 3])
    return cross_entropy(labels[labels > 0], logits[labels > 0])


def transposed(labels, logits):
    """[T, n]."""
    return ops.transpose(cross_entropy(labels, logits))


def of_features(labels, outputs):
    """[3], the mean over the examples for each place."""
    return ops.mean(ops.square(labels - outputs), axis=0)


def of_pairs(labels, outputs):
    """[n, n], one for each pair of examples."""
    return ops.square(outputs - ops.transpose(labels))


def scalar(labels, outputs):
    return ops.mean(ops.square(labels - outputs))


class Vector(keras.losses.Loss):
    """Has its own `__call__`, so that Keras sums what it gives."""

    def __call__(self, labels, outputs, sample_weight=None):
        return ops.mean(ops.square(labels - outputs), axis=-1)


class Summed(keras.losses.Loss):
    """[3], the sum over the examples for each place, which are summed too."""

    def __init__(self):
        super().__init__(reduction="sum")

    def call(self, labels, outputs):
        return ops.sum(ops.square(labels - outputs), axis=0)


class OwnVector(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.mean(ops.square(y - y_pred), axis=-1)


class Adds(layers.Layer):
    """Adds a loss for each of the two features, the mean over the examples."""

    def call(self, inputs):
        self.add_loss(ops.mean(ops.square(inputs), axis=0))
        return inputs


def tagger(loss, **arguments) -> keras.Model:
    return dense(loss=loss, units=3, shape=(5, 4), **arguments)


def own() -> keras.Model:
    inputs = keras.Input((4,))
    model = OwnVector(inputs, layers.Dense(3)(inputs))
    model.compile("sgd")
    return model


def adding() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), Adds(), layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


def terms_of_parts(program, features, labels, weight, sizes) -> list[list]:
    parts, start = [], 0
    for size in sizes:
        taken = slice(start, start + size)
        given = batch(features[taken], labels[taken], None if weight is None else weight[taken])
        parts.append(forward(program, given._replace(is_whole=len(sizes) == 1)).terms)
        start += size
    return parts


def loss_of_parts(parts: list[list], sizes) -> float:
    """As the step puts it together."""
    groups = [
        gradients.group_terms(terms, tf.constant(float(size)), N, "mean")
        for terms, size in zip(parts, sizes, strict=True)
    ]
    totals = [sum(g.total for g in same) for same in zip(*groups, strict=True)]
    counts = [sum(g.denominator for g in same) for same in zip(*groups, strict=True)]
    return float(gradients.global_loss(totals, counts, gradients.shape_of(groups[0])))


CASES = {
    "tokens in one dimension": (lambda: tagger(flattened), x(5, 4), classes(5), kinds.EXPLICIT),
    "tokens that are picked": (lambda: tagger(picked), x(5, 4), classes(5), kinds.EXPLICIT),
    "steps before examples": (lambda: tagger(transposed), x(5, 4), classes(5), kinds.EXPLICIT),
    "a mean over the examples": (
        lambda: dense(loss=of_features, units=3), x(4), x(3, seed=1), kinds.SCALAR
    ),
    "a sum over the examples": (
        lambda: dense(loss=Summed(), units=3), x(4), x(3, seed=1), kinds.UNDIVIDED
    ),
    "a loss that calls itself": (
        lambda: dense(loss=Vector(), units=3), x(4), x(3, seed=1), kinds.UNDIVIDED
    ),
    "a model's own vector": (own, x(4), x(3, seed=1), kinds.UNDIVIDED),
}  # fmt: skip


# Parts of two examples have as many as `Adds` has features.
@pytest.mark.parametrize("sizes", [(6,), (2, 2, 2), (4, 2)])
@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_a_loss_of_any_shape_add_up_to_keras_s_value(case, sizes):
    make, features, labels, kind = CASES[case]
    model = make()
    program = keras_program(model, features, labels)
    parts = terms_of_parts(program, features, labels, None, sizes)
    assert {term.kind for terms in parts for term in terms} == {kind}
    expected = np.sum(model.compute_loss(features, labels, model(features)))
    np.testing.assert_allclose(loss_of_parts(parts, sizes), expected, **CLOSE)
    caveat = "the loss of_features gives (3,) values, not one for each example"
    expected = caveat if case == "a mean over the examples" else ""
    assert {term.caveat for terms in parts for term in terms} == {expected}


@pytest.mark.parametrize("sizes", [(6,), (2, 2, 2), (4, 2)])
def test_an_added_loss_of_as_many_values_as_a_part_has_examples_is_no_value_of_each(sizes):
    model = adding()
    program = keras_program(model, x(4), x(3, seed=1))
    parts = terms_of_parts(program, x(4), x(3, seed=1), None, sizes)
    assert {terms[1].kind for terms in parts} == {kinds.ONCE}
    expected = np.mean((model(x(4)) - x(3, seed=1)) ** 2)
    expected += np.sum(np.mean(model.layers[0](x(4)) ** 2, axis=0))
    np.testing.assert_allclose(loss_of_parts(parts, sizes), expected, **CLOSE)


def test_a_loss_of_pairs_is_keras_s_on_one_device_and_warned_of_in_parts():
    model = dense(loss=of_pairs)
    program = keras_program(model, x(4), x(1))
    ((term,),) = parts = terms_of_parts(program, x(4), x(1), None, (6,))
    np.testing.assert_allclose(
        loss_of_parts(parts, (6,)), model.compute_loss(x(4), x(1), model(x(4))), **CLOSE
    )
    assert term.caveat == "the loss of_pairs gives (6, 6) values, not one for each example"


@pytest.mark.parametrize("reduction", ["sum", "sum_over_batch_size"])
def test_a_loss_that_compares_examples_is_found_out_whatever_its_shape_is(reduction):
    class Centred(keras.losses.Loss):
        def call(self, labels, outputs):
            return ops.reshape(ops.square(outputs - ops.mean(outputs, axis=0)), [-1])

    program = keras_program(dense(loss=Centred(reduction=reduction), units=3), x(4), classes(3))
    (term,) = forward(program, batch(x(4), classes(3))).terms
    assert term.caveat == "the loss Centred compares the examples of a batch with each other"


def test_weights_of_examples_go_with_the_last_dimension_where_keras_has_them():
    weights = WEIGHTS
    model = tagger(transposed)
    program = keras_program(model, x(5, 4), classes(5), weights)
    (term,) = forward(program, batch(x(5, 4), classes(5), weights)).terms
    expected = model.compute_loss(x(5, 4), classes(5), model(x(5, 4)), weights)
    np.testing.assert_allclose(term.total / term.denominator, expected, **CLOSE)


@pytest.mark.parametrize("loss", [scalar, of_features])
def test_weights_of_a_loss_without_a_value_for_each_example_are_refused_in_parts(loss):
    program = keras_program(dense(loss=loss, units=3), x(4), x(3, seed=1), WEIGHTS)
    given = batch(x(4)[:3], x(3, seed=1)[:3], WEIGHTS[:3])._replace(is_whole=False)
    with pytest.raises(UserError) as raised:
        forward(program, given)
    assert str(raised.value) == (
        f"the loss {loss.__name__} does not give one value for each example, and Keras multiplies "
        "its result by the sample weights; the sum over several parts of a batch then differs from "
        "the result for the whole batch. Let it return a value for each example (no mean over axis "
        '0), or train with strategy="one_device" and accumulation_steps=1.'
    )


def test_a_loss_for_batches_of_one_size_is_keras_s_on_one_device_and_refused_in_parts():
    def fixed(labels, outputs):
        return ops.mean(ops.reshape(ops.square(labels - outputs), [N, 3]), axis=-1)

    model = dense(loss=fixed, units=3)
    program = keras_program(model, x(4), x(3))
    parts = terms_of_parts(program, x(4), x(3), None, (6,))
    expected = model.compute_loss(x(4), x(3), model(x(4)))
    np.testing.assert_allclose(loss_of_parts(parts, (6,)), expected, **CLOSE)
    with pytest.raises(UserError, match="the loss fixed cannot be called with batches of another"):
        forward(program, batch(x(4), x(3))._replace(is_whole=False))


def compare_with_fit(build, arrays, atol=1e-6, **keywords) -> None:
    """Trains on two batches, of which the last is smaller."""

    def input_fn():
        return tf.data.Dataset.from_tensor_slices(arrays).batch(4)

    def made():
        keras.utils.set_random_seed(1)
        return build()

    expected = made()
    expected.fit(input_fn(), epochs=1, shuffle=False, verbose=0)
    result = tfbig.train_distributed(made, input_fn, max_steps=2, **keywords)
    for new, old in zip(result.model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(new, old, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_of_tokens_trains_as_fit_does(parts):
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(7, 5, 4)), random.integers(0, 3, (7, 5))
    compare_with_fit(
        lambda: tagger(picked),
        (np.float32(features), labels),
        strategy="one_device",
        config=tfbig.RunConfig(jit_compile=False, accumulation_steps=parts),
    )


def test_a_model_whose_outputs_have_one_dimension_trains_as_fit_does():
    def build():
        model = keras.Sequential([keras.Input((4,)), layers.Dense(1), layers.Reshape(())])
        model.compile("sgd", "mse")
        return model

    compare_with_fit(build, (x(4), x()), strategy="one_device")


def synchronized() -> keras.Model:
    class AddsRows(layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.mean(ops.square(inputs), axis=-1))
            return inputs

    norm = layers.BatchNormalization(synchronized=True)
    model = keras.Sequential([keras.Input((4,)), norm, AddsRows(), layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def train_synchronized() -> None:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    compare_with_fit(synchronized, (x(4), x(2)), 1e-5, strategy="mirrored", devices=2)


@pytest.mark.slow
def test_added_losses_are_told_apart_beside_layers_that_work_across_replicas(in_process):
    in_process(train_synchronized)
