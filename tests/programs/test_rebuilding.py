"""A model is rebuilt with all options that the user has chosen, or not at all.

These tests guard compile_arguments, is_plain_functional, learning_rate, metric_function,
treated_as_uncompiled and weight_decay_exclusions of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras.optimizers import SGD, Adam, AdamW, LossScaleOptimizer, schedules

from tests.programs.batches import x
from tests.programs.rebuilt_models import MODELS, NamesArguments, around, called, compiled
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt


def assert_same(copy: keras.Model, model: keras.Model) -> None:
    """Another model of the same class, with other variables of the same values."""
    assert copy is not model
    assert [type(layer) for layer in [copy, *copy.layers]] == [
        type(layer) for layer in [model, *model.layers]
    ]
    assert [v.path.split("/")[-1] for v in copy.weights] == [
        v.path.split("/")[-1] for v in model.weights
    ]
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(copy(x(4)), model(x(4)))


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_rebuilt_with_its_weights_and_class(name):
    model = MODELS[name]()
    for weight in model.weights:
        weight.assign(np.random.RandomState(3).uniform(0.1, 1, weight.shape))
    copy = rebuilt(model)
    assert_same(copy, model)
    assert [w.trainable for w in copy.weights] == [w.trainable for w in model.weights]
    assert copy.compiled
    assert model.compiled


def test_a_model_that_was_never_built_is_rebuilt_unbuilt():
    model = keras.Sequential([layers.Dense(2)])
    model.compile("sgd", "mse")
    copy = rebuilt(model)
    assert copy is not model
    assert not copy.built
    assert copy(x(4)).shape == (6, 2)
    assert not model.built


def own_loss(labels, outputs):
    return keras.ops.mean((labels - outputs) ** 4, axis=-1)


def own_metric(labels, outputs):
    return keras.ops.max(keras.ops.abs(labels - outputs), axis=-1)


class Largest(keras.metrics.Metric):
    """Not registered, with an argument."""

    def __init__(self, start=0.0, name="largest", **keywords):
        super().__init__(name=name, **keywords)
        self.start, self.value = start, self.add_variable((), "zeros", name="value")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(y_pred)))

    def result(self):
        return self.value + self.start

    def get_config(self):
        return {**super().get_config(), "start": self.start}


def test_a_rebuilt_model_has_the_losses_and_metrics_it_was_compiled_with():
    wrapper = keras.metrics.MeanMetricWrapper(own_metric, name="wrapped")
    model = compiled(
        loss=own_loss, metrics=["mae", own_metric, wrapper, Largest(5.0)], loss_weights=0.5
    )
    data = (x(4), x(2, seed=2))
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    copy = rebuilt(model)
    assert copy.metrics[1].variables == []  # nothing is counted in it yet
    found = copy.evaluate(*data, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-6)
    assert set(found) == {"loss", "mae", "own_metric", "wrapped", "largest"}
    ours, theirs = ([m for m in each.metrics[1].metrics] for each in (copy, model))
    assert not {id(m) for m in ours} & {id(m) for m in theirs}


def test_a_rebuilt_model_keeps_losses_of_several_outputs():
    inputs = keras.Input((4,))
    outputs = {"a": layers.Dense(2, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile(
        "sgd",
        loss={"a": own_loss, "b": keras.losses.Huber(0.3)},
        loss_weights={"a": 0.1, "b": 3.0},
        weighted_metrics={"b": ["mae"]},
    )
    data = (x(4), {"a": x(2), "b": x(1)})
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    assert rebuilt(model).evaluate(*data, verbose=0, return_dict=True) == pytest.approx(expected)


OPTIMIZERS = {
    "by name": lambda: "rmsprop",
    "arguments": lambda: Adam(0.02, beta_1=0.7, epsilon=1e-3, amsgrad=True),
    "a schedule": lambda: SGD(schedules.ExponentialDecay(0.3, 1, 0.5), momentum=0.9),
    "an unregistered schedule": lambda: SGD(Halved(0.2)),
    "clipnorm": lambda: SGD(1.0, clipnorm=0.01),
    "global_clipnorm": lambda: SGD(1.0, global_clipnorm=0.01),
    "clipvalue": lambda: SGD(1.0, clipvalue=0.01),
    "averages": lambda: SGD(0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "no decay of biases": lambda: without_decay(AdamW(0.01, weight_decay=0.5), "bias", "other"),
    "loss scaling": lambda: LossScaleOptimizer(SGD(0.1, clipnorm=0.02), initial_scale=8.0),
}


class Halved(schedules.LearningRateSchedule):
    def __init__(self, start):
        self.start = start

    def __call__(self, step):
        return self.start / (1 + keras.ops.cast(step, "float32"))

    def get_config(self):
        return {"start": self.start}


def without_decay(optimizer, *names):
    optimizer.exclude_from_weight_decay(var_names=list(names))
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_rebuilt_model_s_optimizer_starts_anew_and_takes_the_same_steps(name):
    model = compiled(optimizer=OPTIMIZERS[name]())
    model.layers[0].bias.assign([1.0, -1.0])
    copy = rebuilt(model)
    assert copy.optimizer is not model.optimizer
    assert type(copy.optimizer) is type(model.optimizer)
    for each in (model, copy):
        each.fit(x(4), x(2, seed=2), batch_size=2, epochs=1, shuffle=False, verbose=0)
    for ours, theirs in zip(copy.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    later = rebuilt(model)
    assert int(later.optimizer.iterations.numpy()) == 0
    assert int(model.optimizer.iterations.numpy()) == 3


# Models that cannot be rebuilt.


class Opaque(keras.Model):
    """Its argument is no part of a config."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)


class Threshold(keras.metrics.Mean):
    def __init__(self, at, name="threshold"):
        super().__init__(name=name)
        self.at = at


class Defaults(keras.Model):
    """Keras itself would make up a config with rate=0.1, whatever it was."""

    def __init__(self, rate=0.1, **keywords):
        super().__init__(**keywords)
        self.dropout, self.out = layers.Dropout(rate), layers.Dense(2)

    def call(self, inputs):
        return self.out(self.dropout(inputs))


class FasterSGD(SGD):
    def __init__(self, times=2, **keywords):
        super().__init__(**keywords)
        self.times = times


class Silent(keras.metrics.Metric):
    """Would come back with another value of `at`."""

    def __init__(self, at=0.5, name="silent", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.at = at

    def update_state(self, *arguments, **keywords):
        pass

    def result(self):
        return self.at


class Changing(keras.Model):
    """Every copy has other layers than the first."""

    made = 0

    def __init__(self, **keywords):
        super().__init__(**keywords)
        Changing.made += 1
        out = layers.Dense(2)
        self.out = out if Changing.made == 1 else keras.Sequential([out])

    def call(self, inputs):
        return self.out(inputs)


def changing() -> keras.Model:
    Changing.made = 0
    return called(Changing())


class FunctionalWithArguments(keras.Model):
    def __init__(self, width):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(width)(inputs))


class ToldInPart(NamesArguments):
    """The config of its base has `units`, and not `rate`."""

    def __init__(self, units=2, rate=0.1, **keywords):
        super().__init__(units, **keywords)
        self.rate = rate


class NoConfig(schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1


def excluding():
    model = compiled(optimizer=AdamW(0.01, weight_decay=0.5))
    model.optimizer.exclude_from_weight_decay(var_list=[model.layers[0].bias])
    return model


NOT_REBUILT = {
    "no config": (lambda: called(Opaque(layers.Dense(2))), "get_config that includes inner"),
    "a metric's argument": (lambda: compiled(metrics=[Threshold(0.3)]), "Threshold"),
    "a metric's default": (
        lambda: compiled(metrics=[Silent(0.3)]),
        "Silent needs a get_config that",
    ),
    "a model's default": (lambda: called(Defaults(0.5)), "get_config that includes rate"),
    "an inner model's default": (lambda: around(Defaults(0.5)), "get_config that includes rate"),
    "an optimizer's default": (lambda: compiled(optimizer=FasterSGD(3)), "that includes times"),
    "other layers each time": (changing, "that differ from its own"),
    "a functional class": (
        lambda: called(FunctionalWithArguments(2)),
        "get_config that includes width",
    ),
    "an argument besides those told": (
        lambda: called(ToldInPart(2, 0.5)),
        "ToldInPart needs a get_config that includes rate",
    ),
    "a schedule": (lambda: compiled(optimizer=SGD(NoConfig())), "'NoConfig' must override `get_co"),
    "a Lambda": (lambda: compiled(layers.Lambda(lambda t: t), layers.Dense(2)), "Lambda"),
    "variables without decay": (excluding, "was given variables; give it var_names"),
}


@pytest.mark.parametrize("name", NOT_REBUILT)
def test_a_model_whose_config_does_not_tell_all_of_it_is_not_rebuilt(name):
    make, reason = NOT_REBUILT[name]
    model = make()
    with pytest.raises(CANNOT_BE_REBUILT) as raised:
        rebuilt(model)
    assert reason in " ".join(str(raised.value).split())
    assert model.compiled
