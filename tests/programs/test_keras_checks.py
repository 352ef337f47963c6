"""Errors describe a fault in a model or a batch in one line."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.programs.batches import N, classes, dense, keras_program, x
from tfbig.errors import UserError
from tfbig.programs.keras.checks import check_model, explain_numbers, flatten_with_names
from tfbig.programs.keras.keras_program import KerasProgram


def own(method):
    """A compiled model whose class has a method of its own."""
    kind = type("Own", (keras.Sequential,), {method: lambda self, *a, **k: {}})
    model = kind([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def accumulating(wrap):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(wrap(optimizer), "mse")
    return model


MODELS = {
    "not compiled": (
        lambda: keras.Sequential([keras.Input((4,))], name="plain"),
        "the model 'plain' is not compiled; call model.compile(optimizer=\"adam\", loss=…) before "
        "it is returned or passed.",
    ),
    "train_step": (
        lambda: own("train_step"),
        "Own has its own train_step, which tfbig's loop would not call; override compute_loss "
        "instead, or write an estimator-style model_fn.",
    ),
    "test_step": (
        lambda: own("test_step"),
        "Own has its own test_step, which tfbig's loop would not call; override compute_loss or "
        "compute_metrics instead.",
    ),
    "run_eagerly": (
        lambda: dense(loss="mse", run_eagerly=True),
        "the model is compiled with run_eagerly=True, but tfbig's loop is traced; leave it out of "
        "compile().",
    ),
    **{
        f"accumulation {name}": (
            lambda wrap=wrap: accumulating(wrap),
            "optimizer gradient_accumulation_steps=4: Keras's own accumulation fails under "
            "tf.distribute; leave it None and write RunConfig(accumulation_steps=4).",
        )
        for name, wrap in (
            ("plain", lambda optimizer: optimizer),
            ("with loss scaling", keras.optimizers.LossScaleOptimizer),
        )
    },
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_the_loop_could_not_train_is_refused(case):
    make, message = MODELS[case]
    with pytest.raises(UserError) as raised:
        KerasProgram(make())
    assert str(raised.value) == message


@pytest.mark.parametrize("method", ["compute_loss", "compute_metrics", "call"])
def test_what_the_loop_does_call_may_be_overridden(method):
    check_model(own(method))


# Labels and features.

SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ONE_HOT = keras.losses.CategoricalCrossentropy(from_logits=True)
WIDE = dict(units=3)
TOKENS = dict(units=3, shape=(5, 4))

FITTING = {
    "classes": (SPARSE, WIDE, classes()),
    "classes in a column": (SPARSE, WIDE, classes(1)),
    "a class for each token": (SPARSE, TOKENS, classes(5)),
    "one-hot": (ONE_HOT, WIDE, x(3)),
    "numbers": ("mse", {}, x(1)),
    "numbers without a column": ("mse", {}, x()),
    "a loss of one's own": (lambda y, p: keras.ops.sum((y - p[:, :1]) ** 2, -1), WIDE, x(1)),
    "a tensor of another rank": ("cosine_similarity", WIDE, x(3)),
}


@pytest.mark.parametrize("case", FITTING)
def test_labels_that_fit_are_taken(case):
    loss, arguments, labels = FITTING[case]
    features = x(*arguments.get("shape", (4,)))
    assert keras_program(dense(loss=loss, **arguments), features, labels).trainable


LABELS = {
    "one-hot for class numbers": (
        SPARSE, WIDE, x(3),
        "labels have the shape (batch, 3), but sparse_categorical_crossentropy on an output of "
        "shape (batch, 3) expects (batch), class numbers from 0 to 3 - 1; for one-hot labels "
        "compile with categorical_crossentropy.",
    ),
    "one class for all tokens": (
        SPARSE, TOKENS, classes(),
        "labels have the shape (batch), but sparse_categorical_crossentropy on an output of shape "
        "(batch, 5, 3) expects (batch, 5), class numbers from 0 to 3 - 1.",
    ),
    "class numbers for one-hot": (
        "categorical_crossentropy", WIDE, classes(),
        "labels have the shape (batch), but categorical_crossentropy on an output of shape "
        "(batch, 3) expects (batch, 3).",
    ),
    "numbers that would be broadcast": (
        "mae", WIDE, x(1),
        "labels have the shape (batch, 1), but mean_absolute_error on an output of shape "
        "(batch, 3) expects (batch, 3).",
    ),
    "two labels": (
        "mse", {}, (x(1), x(1)),
        "input_fn gives 2 labels, but the model has 1 output(s); give one label tensor for each "
        "output with a loss.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_cannot_be_meant_are_refused(case):
    loss, arguments, labels, message = LABELS[case]
    features = x(*arguments.get("shape", (4,)))
    with pytest.raises(UserError) as raised:
        keras_program(dense(loss=loss, **arguments), features, labels)
    assert str(raised.value) == message


def test_a_compiled_loss_needs_labels():
    with pytest.raises(UserError, match="^input_fn gives no labels, but the model is compiled wit"):
        keras_program(dense(loss="mse"), x(4))


def test_features_of_another_shape_are_refused():
    with pytest.raises(UserError, match=r"^input_fn gives features of shape \(batch, 3\), but "):
        keras_program(dense(loss="mse"), x(3), x(1))


# Batches that make a loss infinite or NaN.


def test_the_first_class_out_of_range_is_named():
    program = keras_program(dense(loss=SPARSE, **WIDE), x(4), classes())
    for wrong in (3, -1):
        labels = np.where(np.arange(N) >= 2, wrong, classes())
        assert program.explain_batch(x(4), labels) == (
            f"labels has class {wrong} in example 2 of the batch, but the model has 3 classes: "
            "0 to 2"
        )
    assert program.explain_batch(x(4), classes()) is None


def test_an_ignored_class_is_none_out_of_range():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    program = keras_program(dense(loss=loss, **WIDE), x(4), classes())
    labels = np.where(np.arange(N) == 2, -1, classes())
    assert program.explain_batch(x(4), labels) is None
    labels[4] = 7
    assert "class 7 in example 4" in program.explain_batch(x(4), labels)


def test_a_number_that_is_none_comes_before_a_class():
    program = keras_program(dense(loss=SPARSE, **WIDE), x(4), classes())
    features = x(4)
    features[5, 1] = np.inf
    assert program.explain_batch(features, classes() + 9) == (
        "features has an infinity in example 5 of the batch"
    )
    program = keras_program(dense(loss="mse"), x(4), x(1))
    labels = x(1)
    labels[1] = np.nan
    assert program.explain_batch(x(4), labels) == "labels has NaN in example 1 of the batch"


def test_numbers_are_looked_for_in_structures_and_not_in_integers_or_text():
    fine = {"a": np.array([1, 2]), "b": (np.array(["x", "y"]), np.zeros([2, 3], "float32"))}
    assert explain_numbers("features", fine) is None
    assert explain_numbers("features", None) is None
    fine["b"][1][1, 2] = np.nan
    assert explain_numbers("features", fine) == (
        "features['b/1'] has NaN in example 1 of the batch"
    )


def test_leaves_are_named_by_their_path():
    named = flatten_with_names({"a": 1, "b": {"c": 2, "d": (3, 4)}})
    assert named == [("a", 1), ("b/c", 2), ("b/d/0", 3), ("b/d/1", 4)]
    assert flatten_with_names(5) == [("", 5)]
