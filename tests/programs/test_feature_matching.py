"""A dict of features is matched with a model's inputs by name, and unused entries are dropped."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tfbig.errors import UserError
from tfbig.programs.feature_matching import match_features

B, C = np.full((8, 1), 3.0, "float32"), np.full((8, 1), 1.0, "float32")
SURPLUS = {"a_id": np.full((8, 1), 100.0, "float32"), "z": np.array(["u1"] * 8)}
CONFIG = tfbig.RunConfig(jit_compile=False)


def inputs(**of_b) -> dict[str, keras.KerasTensor]:
    return {"b": keras.Input((1,), name="b", **of_b), "c": keras.Input((1,), name="c")}


def difference(b, c) -> keras.KerasTensor:
    return layers.Dense(1, use_bias=False, kernel_initializer="ones")(b - c)


def functional(structure=lambda given: given, name=None) -> keras.Model:
    given = inputs()
    model = keras.Model(structure(given), difference(**given), name=name)
    model.compile("sgd", "mse")
    return model


def sequential() -> keras.Model:
    model = keras.Sequential([functional(), layers.Rescaling(1.0)])
    model.compile("sgd", "mse")
    return model


class Functional(keras.Model):
    """A functional model whose class has a train_step of its own, as Keras has it."""

    def train_step(self, data):
        return super().train_step(data)


def own_step() -> keras.Model:
    given = inputs()
    model = Functional(given, difference(**given))
    model.compile("sgd", "mse")
    return model


class Subclassed(keras.Model):
    """Calls a functional model with the features as they are."""

    def __init__(self):
        super().__init__()
        self.inner = functional()

    def call(self, features):
        return self.inner(features)


def subclassed() -> keras.Model:
    model = Subclassed()
    model.compile("sgd", "mse")
    return model


def model_fn(features, labels, mode):
    loss = tf.reduce_mean(tf.square(functional()(features) - labels))
    train_op = tf.compat.v1.train.GradientDescentOptimizer(0.1).minimize(loss)
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


def data(**features):
    return lambda: tf.data.Dataset.from_tensor_slices((features, B - C)).batch(4)


def train(build, input_fn, **arguments):
    return tfbig.train_distributed(
        build, input_fn, max_steps=2, strategy="one_device", config=CONFIG, **arguments
    )


def lines_with(caplog, text: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if text in r.getMessage()]


@pytest.mark.parametrize("build", [functional, sequential])
def test_surplus_entries_change_nothing_and_are_named_once(build, caplog):
    given = data(b=B, c=C, **SURPLUS)
    with caplog.at_level(logging.WARNING, "tfbig"):
        result = train(build, given, eval_input_fn=given)
    assert (result.loss, result.metrics["loss"]) == (0.0, 0.0)
    (line,) = lines_with(caplog, "not used")
    assert line.startswith("features of input_fn have 'a_id', 'z', which no input of the model ")
    assert tfbig.evaluate(result.model, given, strategy="one_device")["loss"] == 0.0
    predicted = list(tfbig.predict(result.model, given, strategy="one_device"))
    np.testing.assert_array_equal(predicted, np.full((8, 1), 2.0))


@pytest.mark.parametrize(
    "structure",
    [
        lambda given: given,
        lambda given: [given["c"], given["b"]],
        lambda given: {"first": given["c"], "rest": {"b": given["b"]}},
        lambda given: given["c"],
    ],
    ids=["dict", "list", "nested", "single"],
)
def test_each_structure_of_inputs_is_paired_by_name(structure):
    given = structure(inputs())
    model = keras.Model(given, layers.Concatenate()([*keras.tree.flatten(given)] * 2))
    features = {"a": 0, "b": 1, "c": 2, "first": 2, "rest": {"a": 7, "b": 1}}
    wanted = keras.tree.map_structure(lambda tensor: {"b": 1, "c": 2}[tensor.name], given)
    assert match_features(model, features) == wanted
    assert match_features(model, "no dict") == "no dict"


def optional() -> keras.Model:
    given = inputs(optional=True)
    model = keras.Model(given, layers.Rescaling(1.0)(given["c"]))
    model.compile("sgd", "mse")
    return model


def test_optional_inputs_may_be_missing_and_others_may_not():
    assert match_features(optional(), {"c": 2}) == {"b": None, "c": 2}
    assert train(optional, data(c=B - C)).loss == 0.0
    said = (
        "features of input_fn lack 'c', which the model 'named' takes; they have 'b', 'cc', and "
        "the model's inputs are 'b', 'c'. To fix this, give an entry of that name, or name the "
        "keras.Input after what is given."
    )
    build = lambda: functional(name="named")  # noqa: E731
    with pytest.raises(UserError) as error:
        train(build, data(b=B, cc=C))
    assert str(error.value) == said
    with pytest.raises(UserError) as error:
        train(build, data(b=B, c=C), eval_input_fn=data(b=B, cc=C))
    assert str(error.value) == said.replace("input_fn", "eval_input_fn")
    with pytest.raises(UserError) as error:
        tfbig.predict(build(), data(b=B, cc=C), strategy="one_device")
    assert str(error.value) == said


def test_a_model_with_a_call_of_its_own_takes_the_dict_as_it_is():
    features = {"a": 0, "b": 1}
    assert match_features(Subclassed(), features) is features


@pytest.mark.parametrize("build", [own_step, subclassed, model_fn])
def test_a_call_in_the_users_own_code_that_keras_pairs_by_place_is_refused(build):
    assert train(build, data(b=B, c=C)).loss == 0.0
    with pytest.raises(UserError) as error:
        train(build, data(b=B, c=C, a_id=C))
    assert str(error.value) == (
        "a model that takes a dict of 'b', 'c' is called with a dict of 'a_id', 'b', 'c', which "
        "Keras pairs by place, so that inputs get each other's values. Call it with the entries "
        "that it takes: model({name: features[name] for name in ('b', 'c')})."
    )


def test_an_export_takes_what_the_model_takes(tmp_path):
    model = functional()
    path = tfbig.export(model, tmp_path / "plain", example={"b": B, "c": C, **SURPLUS})
    served = tf.saved_model.load(path).signatures["serving_default"]
    assert sorted(served.structured_input_signature[1]) == ["b", "c"]
    raw = {"b": B[:, 0], "c": C[:, 0], "a_id": C[:, 0]}
    cleaning = tfbig.data.cleaning.Cleaning([tfbig.data.cleaning.FillMissing(["b"], "mean")])
    cleaning.fit(tfbig.data.ArraySource((raw, B)))
    path = tfbig.export(model, tmp_path / "cleaned", preprocessing=cleaning)
    loaded = tf.saved_model.load(path)
    outputs = loaded.serve(tf.nest.map_structure(tf.constant, raw))
    np.testing.assert_array_equal(outputs, np.full((8, 1), 2.0))
