"""A layer whose get_config omits an argument is not rebuilt with the default of the argument.

These tests guard init_arguments of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfbig
from tests.programs.batches import x
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt


class Scale(layers.Layer):
    """Its config has `units`, and not `factor`."""

    def __init__(self, factor=1.0, units=4, **keywords):
        super().__init__(**keywords)
        self.factor, self.units = factor, units

    def call(self, inputs):
        return inputs * self.factor

    def compute_output_shape(self, shape):
        return shape

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Popping(Scale):
    def __init__(self, **keywords):
        super().__init__(keywords.pop("factor", 1.0), **keywords)


class Hidden(layers.Layer):
    """Keeps its argument nowhere but in a function, and has one that is no plain value."""

    def __init__(self, factor=1.0, inner=None, **keywords):
        super().__init__(**keywords)
        self.compute = lambda inputs: inputs * factor
        self.inner = inner

    def call(self, inputs):
        return self.compute(inputs)

    def get_config(self):
        return super().get_config()


class Block(layers.Layer):
    """Its argument goes into a layer of Keras's; another one is no plain value."""

    def __init__(self, slope=0.1, activation=ops.tanh, **keywords):
        super().__init__(**keywords)
        self.activation, self.leaky = activation, layers.LeakyReLU(slope)

    def call(self, inputs):
        return self.activation(self.leaky(inputs))

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


class Scaled(layers.Dense):
    """Keras's config of a Dense layer has no `factor`."""

    def __init__(self, units, factor=1.0, **keywords):
        super().__init__(units, **keywords)
        self.factor = factor

    def call(self, inputs):
        return super().call(inputs) * self.factor


class Holding(layers.Layer):
    """Makes a layer from its own arguments, which its config tells."""

    def __init__(self, factor=1.0, **keywords):
        super().__init__(**keywords)
        self.inner = Scale(factor)

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "factor": self.inner.factor}


class Given(layers.Layer):
    """Its config has the config of the layer that it was given."""

    def __init__(self, inner, **keywords):
        super().__init__(**keywords)
        self.inner = inner if isinstance(inner, layers.Layer) else Scale.from_config(inner)

    def call(self, inputs):
        return self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "inner": self.inner.get_config()}


class Renaming(layers.Layer):
    """Tells its argument by another name, which its from_config knows."""

    def __init__(self, factor=1.0, **keywords):
        super().__init__(**keywords)
        self.by = factor

    def call(self, inputs):
        return inputs * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}

    @classmethod
    def from_config(cls, config):
        return cls(config.pop("by"), **config)


class Deriving(layers.Layer):
    """Tells the widths, which it has found out itself where it was not given any."""

    def __init__(self, width=None, seed=None, **keywords):
        super().__init__(**keywords)
        self.width, self.calls = width, 0

    def build(self, shape):
        self.width = self.width or shape[-1]

    def call(self, inputs):
        self.calls += 1
        return inputs * float(self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Box(keras.constraints.Constraint):
    """Keras makes up an empty config for constraints."""

    def __init__(self, largest=1.0):
        self.largest = largest

    def __call__(self, w):
        return ops.clip(w, -self.largest, self.largest)


class ToldBox(Box):
    def get_config(self):
        return {"largest": self.largest}


class Ridge(keras.regularizers.Regularizer):
    def __init__(self, strength=0.1, power=2):
        self._strength, self.power = strength, power

    def __call__(self, w):
        return self._strength * ops.sum(w**self.power)

    def get_config(self):
        return {"power": self.power}


class Filled(keras.initializers.Initializer):
    def __init__(self, value=0.5):
        self.at = value

    def __call__(self, shape, dtype=None):
        return ops.full(shape, self.at, dtype or "float32")


for cls in (Scale, Box, ToldBox, Ridge, Filled):
    keras.saving.register_keras_serializable("told_arguments")(cls)


def changed(layer):
    layer.factor = 3.0
    return layer


FORGETTING = {
    "an argument": (lambda: Scale(3.0), "Scale needs a get_config that includes factor"),
    "one that was set later": (lambda: changed(Scale()), "Scale needs .* factor"),
    "one of **keywords": (lambda: Popping(factor=3.0), "Popping needs .* factor"),
    "one that is nowhere kept": (lambda: Hidden(3.0), "Hidden needs .* factor"),
    "one that went into a layer": (lambda: Block(0.5), "Block needs .* slope"),
    "one besides those of Keras": (lambda: Scaled(4, 3.0), "Scaled needs .* factor"),
    "in a layer of Keras's": (lambda: layers.TimeDistributed(Scale(3.0)), "Scale needs .* factor"),
    "in a layer": (lambda: Given(Scale(3.0)), "Scale needs .* factor"),
    "a constraint's": (lambda: dense(kernel_constraint=Box(3.0)), "Box needs .* largest"),
    "a regularizer's": (lambda: dense(kernel_regularizer=Ridge(0.5)), "Ridge needs .* strength"),
    "an initializer's": (lambda: dense(kernel_initializer=Filled(2.0)), "Filled needs .* value"),
    "in a model": (
        lambda: keras.Sequential([keras.Input((3, 4)), Scale(3.0)]),
        "Scale needs .* factor",
    ),
}  # fmt: skip
TELLING = {
    "a default": lambda: Scale(units=3),
    "a default, given": lambda: Scale(1.0),
    "a default that went into a layer": lambda: Block(activation=ops.sin),
    "a default that is nowhere kept": lambda: Hidden(),
    "defaults of a layer of Keras's": lambda: Scaled(4, kernel_regularizer="l2", input_shape=(3,)),
    "made by an outer layer": lambda: Holding(3.0),
    "by another name": lambda: Renaming(3.0),
    "found out later": lambda: Deriving(),
    "a default inside": lambda: layers.TimeDistributed(Scale(1.0)),
    "a constraint's": lambda: dense(kernel_constraint=ToldBox(3.0)),
    "a default of a constraint's": lambda: dense(kernel_constraint=Box()),
    "attention": lambda: attention(),
    "an RNN's cell": lambda: layers.RNN(layers.LSTMCell(3, dropout=0.1), return_sequences=True),
}


def dense(**arguments) -> keras.layers.Layer:
    return layers.Dense(4, **arguments)


def attention() -> keras.Model:
    inputs = keras.Input((3, 4))
    inner = layers.MultiHeadAttention(2, 3, kernel_constraint=ToldBox(0.5))(inputs, inputs)
    return keras.Model(inputs, inner)


def model_of(layer) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3, 4)), layer, layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@pytest.mark.parametrize("what", FORGETTING)
def test_a_model_with_a_config_that_forgets_an_argument_is_not_rebuilt(what):
    make, message = FORGETTING[what]
    with pytest.raises(CANNOT_BE_REBUILT, match=message):
        rebuilt(model_of(make()))


@pytest.mark.parametrize("what", TELLING)
def test_a_model_whose_configs_tell_what_was_given_is_rebuilt_and_computes_the_same(what):
    model = model_of(TELLING[what]())
    copy = rebuilt(model)
    found, expected = (each.evaluate(x(3, 4), x(3, 2), verbose=0) for each in (copy, model))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_callers_model_that_forgets_an_argument_is_trained_with_it_as_fit_does():
    def data():
        labels = np.ones((6, 3, 2), np.float32)
        return tfbig.data.ArraySource((x(3, 4), labels)).batch(6)

    expected = model_of(Scale(3.0))
    expected.fit(x(3, 4), np.ones((6, 3, 2)), batch_size=6, verbose=0)
    config = tfbig.RunConfig(jit_compile=False)
    result = tfbig.train_distributed(
        model_of(Scale(3.0)), data, max_steps=1, strategy="one_device", config=config
    )
    assert result.model.layers[0].factor == 3.0
    for one, other in zip(expected.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-6)
