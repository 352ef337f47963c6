"""Builds and runs the programs of model_fns."""

import keras
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import build, forward, loss_of, x
from tfbig.programs import program as kinds
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram


def regression(features, labels, mode):
    output = layers.Dense(1, name="out")(features)
    mean = keras.metrics.Mean(name="mean")
    mean.update_state(output)
    return tfbig.EstimatorSpec(
        mode,
        loss=keras.losses.mean_squared_error(labels, output),
        optimizer=keras.optimizers.SGD(0.1, momentum=0.5),
        eval_metric_ops={"mean": mean},
    )


def new_program(model_fn=regression, *, params=None, config=None, precision="float32"):
    return ModelFnProgram(model_fn, params, config, lambda: tf.device("CPU:0"), precision)


def built(model_fn=regression, element=None, *, evaluation=False, **arguments) -> ModelFnProgram:
    program = new_program(model_fn, **arguments)
    build(program, *(element or (x(4), x(1))))
    if evaluation:
        build(program, *(element or (x(4), x(1))), training=False)
    return program


def run(program: ModelFnProgram, given, *, training: bool) -> float:
    """Runs the forward pass in a trace of its own, as the loop does; returns the loss."""
    program.select_mode(training)

    @tf.function(autograph=False)
    def trace():
        found = forward(program, given, training)
        for variable, value in zip(program.metric_variables, found.metrics, strict=True):
            variable.assign(value)
        return [term._replace(kind="") for term in found.terms], [t.kind for t in found.terms]

    terms, kinds_of_terms = trace()
    return loss_of([t._replace(kind=k) for t, k in zip(terms, kinds_of_terms, strict=True)])


def train_step(program: ModelFnProgram, given) -> None:
    program.select_mode(True)

    @tf.function(autograph=False)
    def trace():
        with program.tracing():
            with tf.GradientTape() as tape:
                (term,) = program.forward(program.read(), given, True).terms
                loss = term.total if term.kind == kinds.SCALAR else term.total / given.count
            program.apply(tape.gradient(loss, program.trainable))

    trace()
