"""Losses that change variables, or draw random numbers, when they are called."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import tfbig
from tests.programs.batches import batch, dense, forward, keras_program, x
from tfbig.errors import UserError

made: list = []


class Annealed(keras.losses.Loss):
    """Its second part counts for more from call to call."""

    def __init__(self, variable: type):
        super().__init__()
        self.beta = variable(0.0, trainable=False)
        made.append(self)

    def call(self, labels, outputs):
        self.beta.assign_add(0.1)
        squares = ops.mean(ops.square(labels - outputs), axis=-1)
        return squares + self.beta * ops.mean(ops.abs(outputs), axis=-1)


def annealed(variable: type) -> keras.Model:
    keras.utils.set_random_seed(1)
    return dense(loss=Annealed(variable), units=2)


def data() -> tf.data.Dataset:
    random = np.random.default_rng(0)
    arrays = random.normal(size=(12, 4)), random.normal(size=(12, 2))
    return tf.data.Dataset.from_tensor_slices(tuple(map(np.float32, arrays))).batch(3)


def trained(build, model_dir=None, parts=1, **keywords) -> keras.Model:
    config = tfbig.RunConfig(tf_random_seed=1, jit_compile=False, accumulation_steps=parts)
    return tfbig.train_distributed(
        build, data, strategy="one_device", model_dir=model_dir, config=config, **keywords
    ).model


def state_of(model: keras.Model) -> list[np.ndarray]:
    return [*model.get_weights(), ops.convert_to_numpy(made[-1].beta)]


@pytest.mark.slow
@pytest.mark.parametrize("variable", [tf.Variable, keras.Variable])
def test_a_variable_that_a_loss_assigns_goes_on_as_in_fit_and_is_resumed(variable, tmp_path):
    expected = annealed(variable)
    expected.fit(data(), validation_data=data(), epochs=1, shuffle=False, verbose=0)
    expected = state_of(expected)
    got = state_of(trained(lambda: annealed(variable), epochs=1, eval_input_fn=data))
    for new, old in zip(got, expected, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-6)
    assert float(got[-1]) == pytest.approx(0.8)  # four steps, and four of the evaluation

    whole = state_of(trained(lambda: annealed(variable), max_steps=4))
    trained(lambda: annealed(variable), max_steps=2, model_dir=str(tmp_path))
    resumed = trained(lambda: annealed(variable), max_steps=4, model_dir=str(tmp_path))
    for new, old in zip(state_of(resumed), whole, strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("variable", [tf.Variable, keras.Variable])
def test_a_variable_that_a_loss_assigns_is_refused_in_parts_by_its_name(variable):
    with pytest.raises(UserError, match=r"carries loss/0/beta over .* in 3 parts"):
        trained(lambda: annealed(variable), parts=3, max_steps=1)


def test_a_loss_that_changes_something_is_never_run_to_try_it():
    program = keras_program(annealed(tf.Variable), x(4), x(2))
    assert float(made[-1].beta) == 0.0
    (term,) = forward(program, batch(x(4), x(2))).terms
    assert float(made[-1].beta) == pytest.approx(0.1)
    assert term.caveat == ""


def test_an_object_that_a_loss_function_belongs_to_may_have_the_variable():
    class Counts:
        def __init__(self):
            self.calls = [tf.Variable(0.0), tf.Variable(0.0)]

        def loss(self, labels, outputs):
            self.calls[1].assign_add(1.0)
            return ops.mean(ops.square(labels - outputs), axis=-1) * self.calls[1]

    program = keras_program(dense(loss=Counts().loss, units=2), x(4), x(2))
    assert list(program.sequential_state.values()) == ["loss/0/calls/1"]


def test_a_variable_that_no_loss_holds_is_refused():
    count = tf.Variable(0.0)

    def loss(labels, outputs):
        count.assign_add(1.0)
        return ops.mean(ops.square(labels - outputs), axis=-1) * count

    with pytest.raises(UserError, match=r"an attribute of the layer, or of the keras.losses.Loss"):
        keras_program(dense(loss=loss, units=2), x(4), x(2))


def noisy(labels, outputs):
    noise = keras.random.normal(ops.shape(outputs))
    return ops.mean(ops.square(labels - outputs + noise), axis=-1)


def noisy_of_tensorflow(labels, outputs):
    return ops.mean(ops.square(labels - outputs + tf.random.normal(tf.shape(outputs))), axis=-1)


@pytest.mark.parametrize("loss", [noisy, noisy_of_tensorflow])
def test_random_numbers_in_a_loss_differ_from_step_to_step(loss):
    program = keras_program(dense(loss=loss, units=2), x(4), x(2))
    first = forward(program, batch(x(4), x(2)))
    for variable, value in zip(program.state, first.state, strict=True):
        variable.assign(value)
    second = forward(program, batch(x(4), x(2)))
    assert float(first.terms[0].total) != float(second.terms[0].total)
    assert not program.sequential_state
    assert not first.terms[0].caveat
