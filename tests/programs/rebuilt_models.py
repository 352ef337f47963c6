"""Models of all kinds that can be rebuilt."""

import keras
from keras import layers

from tests.programs.batches import x


def compiled(*inner, optimizer="sgd", loss="mse", **arguments) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), *(inner or [layers.Dense(2)])])
    model.compile(optimizer, loss, **arguments)
    return model


class Scale(layers.Layer):
    """Not registered with Keras."""

    def __init__(self, by=1.0, **keywords):
        super().__init__(**keywords)
        self.by = by

    def build(self, shape):
        self.bias = self.add_weight(shape=shape[1:], name="bias")

    def call(self, inputs):
        return self.by * inputs + self.bias

    def get_config(self):
        return {**super().get_config(), "by": self.by}


class Subclassed(keras.Model):
    """With a config of its own."""

    def __init__(self, units=2, **keywords):
        super().__init__(**keywords)
        self.units, self.hidden, self.out = units, Scale(0.5), layers.Dense(units)

    def call(self, inputs):
        return self.out(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class WithoutArguments(Subclassed):
    def __init__(self, **keywords):
        super().__init__(3, **keywords)

    def get_config(self):
        return keras.Model.get_config(self)


class ToldByBase(keras.Model):
    """Its config is complete, though its __init__ names nothing, as that of KerasHub's Task."""

    def __init__(self, *arguments, compile=True, **keywords):
        super().__init__(*arguments, **keywords)

    def get_config(self):
        return {"units": self.units, "name": self.name}


class NamesArguments(ToldByBase):
    def __init__(self, units, **keywords):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(units)(inputs), **keywords)
        self.units = units


class OwnFunctional(keras.Model):
    def __init__(self, units=2, **keywords):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(units)(inputs), **keywords)
        self.units = units

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.sum(y_pred)

    def get_config(self):
        return {"units": self.units, "name": self.name}


class OwnSequential(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.sum(y_pred)


def nested() -> keras.Model:
    """A nested model of unregistered layers, shared layers, and one that is not trained."""
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), Scale(3.0), layers.Dense(4)], name="inner")
    inner.layers[1].trainable = False
    shared = layers.Dense(4)
    hidden = keras.ops.tanh(shared(inner(inputs)) - shared(inputs))
    model = keras.Model(inputs, layers.Dense(2)(hidden))
    model.compile("sgd", "mse")
    return model


def around(inner: keras.Model) -> keras.Model:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inner(inputs)))
    model.compile("sgd", "mse")
    return model


def called(model: keras.Model) -> keras.Model:
    model.compile("sgd", "mse")
    model(x(4))
    return model


MODELS = {
    "Sequential": compiled,
    "with an unregistered layer": lambda: compiled(Scale(2.0), layers.Dense(2)),
    "nested and shared": nested,
    "subclassed": lambda: called(Subclassed(3)),
    "subclassed without arguments": lambda: called(WithoutArguments()),
    "subclassed in a functional model": lambda: around(Subclassed(3)),
    "a Sequential's subclass in a model": lambda: around(
        OwnSequential([keras.Input((4,)), layers.Dense(3)])
    ),
    "a functional model's subclass": lambda: called(OwnFunctional(3)),
    "a config of a base class": lambda: called(NamesArguments(3)),
    "a config of a base class in a model": lambda: around(NamesArguments(3)),
    "a Sequential's subclass": lambda: called(
        OwnSequential([keras.Input((4,)), layers.Dense(2)])
    ),
    "with batch normalisation": lambda: compiled(layers.BatchNormalization(), layers.Dense(1)),
}  # fmt: skip
