"""What fine_tune refuses before the first step, each in a sentence that says what to write."""

import re

import keras
import numpy as np
import pytest

import tfbig
from tfbig.errors import UserError

X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = (np.arange(40) % 3).astype("int32")
CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def one_input() -> keras.Model:
    body, old = keras.layers.Dense(8, "relu", name="body"), keras.layers.Dense(3, name="old")
    model = keras.Sequential([keras.Input((6,)), body, old], name="one")
    model.compile("adam", CROSSENTROPY, metrics=["accuracy"])
    return model


def two_inputs() -> keras.Model:
    inputs = {"a": keras.Input((6,), name="a"), "b": keras.Input((2,), name="b")}
    both = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = keras.Model(inputs, keras.layers.Dense(3, name="old")(both), name="both")
    model.compile("adam", CROSSENTROPY)
    return model


def two_outputs() -> keras.Model:
    features = keras.Input((6,))
    body = keras.layers.Dense(8, name="body")(features)
    outputs = [keras.layers.Dense(n, name=name)(body) for n, name in ((2, "a"), (3, "b"))]
    return keras.Model(features, outputs, name="forked")


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Tells nothing of its inputs."""

    def __init__(self, **keywords):
        super().__init__(**keywords)
        self.dense = keras.layers.Dense(3)

    def call(self, features):
        return self.dense(features)


def subclassed() -> keras.Model:
    model = Subclassed(name="sub")
    model(X[:2])
    model.compile("adam", CROSSENTROPY)
    return model


def message(model, features, labels, **keywords) -> str:
    """What fine_tune says of these; no step is trained before it does."""
    steps = []
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_: steps.append(1))
    source = tfbig.data.ArraySource(features if labels is None else (features, labels)).batch(10)
    with pytest.raises(UserError) as caught:
        keywords = {"max_steps": 3, "callbacks": [seen], **keywords}
        tfbig.fine_tune(model, lambda: source, **keywords)
    assert not steps
    text = str(caught.value)
    assert "\n" not in text
    assert "\x1b" not in text
    return text


@pytest.mark.parametrize(
    ("head", "labels", "says"),
    [
        (
            2,
            Y,
            "labels has class 2 in example .* of the batch, but the model has 2 classes: 0 to 1",
        ),
        (3, Y - 1, "labels has class -1 in example .*, but the model has 3 classes: 0 to 2"),
        (3, np.eye(3)[Y], "labels have the shape .batch, 3., but .* class numbers from 0 to 3 - 1"),
        (3, Y + 0.5, r'labels has [012].5 in example .* whole; .*Recipe\(head="regression"\)'),
        (3, Y.astype("U1"), r"labels are strings; map them to numbers, say by np.searchsorted"),
        (3, None, r"input_fn gives no labels, .* return \(features, labels\)"),
        (
            "regression",
            np.eye(3)[Y],
            r"labels have the shape \(batch, 3\), .* expects \(batch, 1\)",
        ),
        ("regression", Y.astype("U1"), "labels are strings; map them to numbers"),
    ],
)
def test_a_head_that_disagrees_with_the_labels(head, labels, says):
    text = message(one_input(), X, labels, recipe=tfbig.Recipe(head=head))
    assert re.search(says, text), text


@pytest.mark.parametrize(
    ("model", "features", "says"),
    [
        (
            one_input,
            X[:, :4],
            ["features of shape (batch, 4), but the model", "expects (batch, 6)"],
        ),
        (one_input, X.reshape(40, 2, 3), ["features of shape (batch, 2, 3), but the model"]),
        (one_input, {"x": X}, ["lack 'input_layer", "they have 'x'", "or give the tensor itself"]),
        (one_input, (X, X), ["0 (batch, 6) and 1 (batch, 6); it takes (batch, 6)."]),
        (one_input, X.astype("U4"), ["features of dtype string, but", "takes float32; turn them"]),
        (one_input, X.astype("complex64"), ["features of dtype complex64, but the model"]),
        (
            two_inputs,
            X,
            ["input_fn, (batch, 6); it takes a (batch, 6) and b (batch, 2). Let input_fn"],
        ),
        (two_inputs, {"a": X}, ["lack 'b'", "they have 'a', and the model's inputs are 'a', 'b'."]),
        (two_inputs, {"a": X, "b": X}, ["a (batch, 6) and b (batch, 6); it takes a (batch, 6)"]),
        (
            subclassed,
            X[:, :4],
            ["model 'subclassed", "cannot be called", "(batch, 4); Keras says: Input 0"],
        ),
    ],
)
def test_features_that_the_model_does_not_take(model, features, says):
    text = message(model(), features, Y)
    assert all(part in text for part in says), text


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (dict(freeze="conv*"), "Recipe.freeze='conv*' matches no layer; there are: body, old."),
        (
            dict(freeze="body", unfreeze={2: "conv"}),
            "Recipe.unfreeze[2]='conv' matches no layer; there are: body.",
        ),
        (
            dict(lora_rank=2, lora_layers="conv*"),
            "Recipe.lora_layers='conv*' matches no layer; there are: body, old.",
        ),
        (dict(loss="msee"), "Recipe.loss='msee': Keras has none of this name; write one of keras."),
        (dict(metrics=["acuracy"]), "Recipe.metrics='acuracy': Keras has none of this name"),
        (dict(optimizer="adamm"), "optimizer.name='adamm': expected one of adadelta, "),
    ],
)
def test_names_that_match_nothing(recipe, says):
    assert says in message(one_input(), X, Y, recipe=tfbig.Recipe(**recipe))


@pytest.mark.parametrize(
    ("model_fn", "says"),
    [
        (
            lambda loaded: None,
            "model_fn returned None; return a compiled keras.Model that is built",
        ),
        (lambda loaded: 5, "model_fn returned a int; return a compiled keras.Model"),
        (
            lambda loaded: keras.Sequential(loaded.layers[:1]),
            'returned a model that is not compiled; call model.compile("adam", loss=…) before',
        ),
        (lambda: None, "model_fn asks for no argument; write model_fn(loaded_model) or"),
        (
            lambda features, labels, mode: None,
            "model_fn asks for features, labels, mode; write model_fn(loaded_model) or",
        ),
        (5, "model_fn=5): expected a function model_fn(loaded_model)"),
    ],
)
def test_a_model_fn_that_makes_no_compiled_model_of_the_loaded_one(model_fn, says):
    assert says in message(one_input(), X, Y, model_fn=model_fn)


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        (
            dict(recipe=tfbig.Recipe(head=3), model_fn=lambda loaded: loaded),
            "model_fn and recipe were both given; give one of them.",
        ),
        (dict(max_step=3), "no argument 'max_step' (did you mean 'max_steps'?); besides model_fn,"),
        (dict(frozen="*"), "no argument 'frozen'; besides model_fn, recipe, base_model_fn,"),
        (dict(epochs=2), "max_steps=3 and epochs=2 were both given"),
        (dict(recipe="backbone"), "fine_tune(recipe='backbone'): expected a tfbig.Recipe"),
    ],
)
def test_arguments_that_do_not_go_together_or_are_unknown(keywords, says):
    # A path that does not exist: these are said before anything is loaded.
    assert says in message("no_such.keras", X, Y, **keywords)


def test_a_model_with_several_outputs():
    text = message(two_outputs(), X, Y, recipe=tfbig.Recipe(head=3))
    assert "Recipe.head=3 needs a Sequential or functional model with one output" in text
    assert "'forked'" in text
    assert "Build the new model in model_fn." in text
    text = message(two_outputs(), X, Y, recipe=tfbig.Recipe(freeze="backbone"))
    assert "is not compiled; pass Recipe(loss=…), or a model_fn" in text
