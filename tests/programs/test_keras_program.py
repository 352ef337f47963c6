"""The loss terms of compiled models.

These tests guard build_compiled, compiled_losses, compiled_metrics, keras_mask, loss_values,
reported_metrics, same_rank and substituted_losses of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
from keras import layers

from tests.programs.batches import (
    CLOSE,
    WEIGHTS,
    N,
    batch,
    classes,
    dense,
    forward,
    keras_program,
    loss_of,
    update_metrics,
    x,
)
from tfbig.errors import UserError
from tfbig.programs import program as kinds


def masked(loss, **arguments) -> keras.Model:
    """Sequences whose steps of zeros are masked."""
    model = keras.Sequential(
        [keras.Input((5, 2)), layers.Masking(), layers.SimpleRNN(3, return_sequences=True)]
    )
    model.compile("sgd", loss, **arguments)
    return model


def sequences() -> np.ndarray:
    features = x(5, 2)
    for row, length in enumerate([5, 1, 3, 0, 2, 4]):
        features[row, length:] = 0
    return features


def loss(name: str, **arguments) -> keras.losses.Loss:
    return getattr(keras.losses, name)(**arguments)


def scalar(labels, output):
    return keras.ops.mean((labels - output) ** 2)


def each(labels, output):
    return keras.ops.mean((labels - output) ** 2, axis=-1)


WEIGHTED = "mean_with_sample_weight"
SPARSE = dict(from_logits=True)
LOSSES = {
    "a mean": (dense, "mse", x(4), x(1), None, kinds.EXAMPLES),
    "a mean with weights": (dense, "mse", x(4), x(1), WEIGHTS, kinds.EXAMPLES),
    "weights of shape [n, 1]": (dense, "mse", x(4), x(1), WEIGHTS[:, None], kinds.EXAMPLES),
    "a mean over tokens": (
        lambda **k: dense(units=3, shape=(5, 4), **k),
        loss("SparseCategoricalCrossentropy", **SPARSE),
        x(5, 4),
        classes(5),
        None,
        kinds.EXAMPLES,
    ),
    "a weight for each token": (
        lambda **k: dense(units=3, shape=(5, 4), **k),
        loss("SparseCategoricalCrossentropy", **SPARSE),
        x(5, 4),
        classes(5),
        np.abs(x(5)),
        kinds.EXAMPLES,
    ),
    "a function of each example": (dense, each, x(4), x(1), WEIGHTS, kinds.EXAMPLES),
    "a function's scalar": (dense, scalar, x(4), x(1), None, kinds.SCALAR),
    "a function's scalar with weights": (dense, scalar, x(4), x(1), WEIGHTS, kinds.SCALAR),
    "a sum": (
        dense,
        loss("MeanSquaredError", reduction="sum"),
        x(4),
        x(1),
        WEIGHTS,
        kinds.UNDIVIDED,
    ),
    "the mean by weights": (
        dense, loss("MeanSquaredError", reduction=WEIGHTED), x(4), x(1), WEIGHTS, kinds.EXPLICIT
    ),
    "the mean by weights, without any": (
        dense, loss("MeanSquaredError", reduction=WEIGHTED), x(4), x(1), None, kinds.EXAMPLES
    ),
    "a mask": (masked, "mse", sequences(), x(5, 3), None, kinds.EXPLICIT),
    "a mask and weights": (masked, "mse", sequences(), x(5, 3), WEIGHTS[:, None], kinds.EXPLICIT),
    "a mask and the mean by weights": (
        masked,
        loss("MeanSquaredError", reduction=WEIGHTED),
        sequences(),
        x(5, 3),
        np.abs(x(5)),
        kinds.EXPLICIT,
    ),
    "an ignored class": (
        lambda **k: dense(units=3, shape=(5, 4), **k),
        loss("SparseCategoricalCrossentropy", ignore_class=0, **SPARSE),
        x(5, 4),
        classes(5),
        None,
        kinds.EXPLICIT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOSSES)
def test_the_terms_of_a_loss_give_keras_s_value(case):
    make, compiled, features, labels, weight, kind = LOSSES[case]
    model = make(loss=compiled)
    program = keras_program(model, *(a for a in (features, labels, weight) if a is not None))
    terms = forward(program, batch(features, labels, weight)).terms
    assert [term.kind for term in terms] == [kind]
    expected = model.compute_loss(features, labels, model(features), weight)
    np.testing.assert_allclose(loss_of(terms), expected, **CLOSE)


PADDED = [c for c, (*_, kind) in LOSSES.items() if "function" not in c]


@pytest.mark.parametrize("case", PADDED)
def test_padding_adds_nothing_to_a_loss_or_its_denominator(case):
    make, compiled, features, labels, weight, _ = LOSSES[case]
    model = make(loss=compiled)
    program = keras_program(model, *(a for a in (features, labels, weight) if a is not None))
    assert program.exact_with_padding
    (plain,) = forward(program, batch(features, labels, weight)).terms
    (padded,) = forward(program, batch(features, labels, weight, rows=9)).terms
    np.testing.assert_allclose(padded.total, plain.total, **CLOSE)
    assert padded.per_row == plain.per_row
    assert padded.nominal == plain.nominal
    if plain.denominator is None:
        assert padded.denominator is None
    else:
        np.testing.assert_allclose(padded.denominator, plain.denominator, **CLOSE)


def test_the_denominator_of_a_mask_is_what_it_lets_through():
    program = keras_program(masked("mse"), sequences(), x(5, 3))
    (term,) = forward(program, batch(sequences(), x(5, 3))).terms
    assert float(term.denominator) == 5 + 1 + 3 + 0 + 2 + 4
    assert term.nominal == 5.0


def test_a_loss_with_its_own_call_is_taken_as_it_is():
    class Own(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return 3.0 * keras.ops.mean(y_true)

    program = keras_program(dense(loss=Own()), x(4), x(1))
    (term,) = forward(program, batch(x(4), x(1))).terms
    assert term.kind == kinds.SCALAR
    np.testing.assert_allclose(term.total, 3 * x(1).mean(), **CLOSE)


def test_regularisers_and_added_losses_count_once():
    class Adds(layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.sum(inputs**2))
            return inputs

    model = keras.Sequential(
        [keras.Input((4,)), Adds(), layers.Dense(1, kernel_regularizer=keras.regularizers.L2(0.5))]
    )
    model.compile("sgd", "mse")
    program = keras_program(model, x(4), x(1))
    terms = forward(program, batch(x(4), x(1))).terms
    assert [t.kind for t in terms] == [kinds.EXAMPLES, kinds.ONCE, kinds.ONCE]
    penalty = 0.5 * np.sum(model.layers[-1].kernel.numpy() ** 2)
    np.testing.assert_allclose(
        sorted(float(t.total) for t in terms[1:]), sorted([np.sum(x(4) ** 2), penalty]), **CLOSE
    )
    expected = model.compute_loss(x(4), x(1), model(x(4)))
    np.testing.assert_allclose(loss_of(terms), expected, **CLOSE)


def test_a_model_of_added_losses_alone_needs_no_labels():
    class Adds(layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.mean(inputs**2))
            return inputs

    model = keras.Sequential([keras.Input((4,)), layers.Dense(2), Adds()])
    model.compile("sgd")
    program = keras_program(model, x(4))
    terms = forward(program, batch(x(4))).terms
    assert [t.kind for t in terms] == [kinds.ONCE]
    np.testing.assert_allclose(loss_of(terms), np.mean(model(x(4)).numpy() ** 2), **CLOSE)


def test_a_model_without_any_loss_is_an_error():
    program = keras_program(dense(loss=None), x(4), x(1))
    with pytest.raises(UserError, match=r"nothing to minimize: compile\(loss=…\) was not given"):
        forward(program, batch(x(4), x(1)))


def test_a_model_s_own_compute_loss_is_called_with_all_of_a_batch():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, inputs):
            return self.dense(inputs)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            assert training
            return keras.ops.sum(sample_weight * (y - y_pred)[:, 0]) + keras.ops.mean(x)

    model = Own()
    model.compile("sgd")
    program = keras_program(model, x(4), x(1), WEIGHTS)
    (term,) = forward(program, batch(x(4), x(1), WEIGHTS)).terms
    expected = np.sum(WEIGHTS * (x(1) - model(x(4)).numpy())[:, 0]) + np.mean(x(4))
    assert term.kind == kinds.SCALAR
    np.testing.assert_allclose(term.total, expected, **CLOSE)


# Several inputs and outputs.


def heads(order=("class", "size"), *, as_dict=False) -> keras.Model:
    inputs = {name: keras.Input((2,), name=name) for name in ("left", "right")}
    both = layers.Concatenate()([inputs["left"], inputs["right"]])
    outputs = {
        "class": layers.Dense(3, name="class")(both),
        "size": layers.Dense(1, name="size")(both),
    }
    model = keras.Model(inputs, outputs if as_dict else [outputs[name] for name in order])
    model.compile(
        "sgd",
        loss={"class": loss("SparseCategoricalCrossentropy", **SPARSE), "size": "mse"},
        loss_weights={"class": 2.0, "size": 0.25},
        metrics={"class": ["accuracy"], "size": ["mae"]},
    )
    return model


FEATURES = {"left": x(2), "right": x(2, seed=5)}
LABELS = {"class": classes(), "size": x(1)}


@pytest.mark.parametrize(
    "model",
    [heads(as_dict=True), heads(("class", "size")), heads(("size", "class"))],
    ids=["a dict", "a list", "a list in another order"],
)
def test_labels_of_several_outputs_go_by_name_whatever_the_outputs_are(model):
    program = keras_program(model, FEATURES, LABELS)
    given = batch(FEATURES, LABELS)
    terms = forward(program, given).terms
    plain = model.compute_loss(FEATURES, LABELS, model(FEATURES))
    np.testing.assert_allclose(loss_of(terms), plain, **CLOSE)
    outputs = dict(zip(model.output_names, keras.tree.flatten(model(FEATURES)), strict=True))
    parts = {
        "class": keras.losses.SparseCategoricalCrossentropy(**SPARSE)(
            LABELS["class"], outputs["class"]
        ),
        "size": keras.losses.MeanSquaredError()(LABELS["size"], outputs["size"]),
    }
    np.testing.assert_allclose(plain, 2.0 * parts["class"] + 0.25 * parts["size"], **CLOSE)
    results = update_metrics(program, given)
    assert set(results) == {"class_accuracy", "class_loss", "size_loss", "size_mae"}
    np.testing.assert_allclose(results["class_loss"], parts["class"], **CLOSE)  # not weighted
    np.testing.assert_allclose(results["size_loss"], parts["size"], **CLOSE)
    difference = np.abs(LABELS["size"] - outputs["size"].numpy())
    np.testing.assert_allclose(results["size_mae"], np.mean(difference), **CLOSE)


def test_a_wrong_class_is_found_by_the_name_of_its_label():
    model = heads(("size", "class"))
    program = keras_program(model, FEATURES, LABELS)
    assert program.explain_batch(FEATURES, LABELS) is None
    wrong = np.where(np.arange(N) == 4, 3, LABELS["class"])
    assert program.explain_batch(FEATURES, {**LABELS, "class": wrong}) == (
        "labels['class'] has class 3 in example 4 of the batch, but the model has 3 classes: 0 to 2"
    )
