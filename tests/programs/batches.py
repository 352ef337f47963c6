"""Batches for programs that are tested without a loop."""

import types

import keras
import numpy as np
import tensorflow as tf

from tfbig.placement.placement import Placement
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.program import BatchPart, Forward, Program, Term
from tfbig.training.model import build_program
from tfbig.training.step import gradients

N = 6


def x(*shape: int, seed: int = 0) -> np.ndarray:
    """Six examples."""
    return np.random.RandomState(seed).uniform(-1, 1, (N, *shape)).astype("float32")


def classes(*shape: int, count: int = 3) -> np.ndarray:
    return np.random.RandomState(1).randint(0, count, (N, *shape)).astype("int32")


CLOSE = dict(rtol=2e-6, atol=1e-6)
WEIGHTS = np.float32([0.0, 0.5, 1.0, 1.5, 2.0, 4.0])


def dense(*, loss, units=1, shape=(4,), **arguments) -> keras.Model:
    model = keras.Sequential([keras.Input(shape), keras.layers.Dense(units)])
    model.compile("sgd", loss, **arguments)
    return model


def classifier() -> keras.Model:
    """With metrics of each kind."""
    return dense(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        units=3,
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
        weighted_metrics=[
            keras.metrics.SparseCategoricalCrossentropy(name="xent", from_logits=True)
        ],
    )


def build(program: Program, *element, training: bool = True) -> None:
    """Builds a program for batches like (features[, labels[, sample_weight]])."""
    spec = tf.nest.map_structure(
        lambda a: tf.TensorSpec([None, *np.shape(a)[1:]], np.asarray(a).dtype), element
    )
    feed = types.SimpleNamespace(element_spec=spec, rows=len(tf.nest.flatten(element)[0]))
    build_program(program, Placement(), feed, training=training)
    program.select_mode(training)


def keras_program(model: keras.Model, *element) -> KerasProgram:
    program = KerasProgram(model)
    build(program, *element)
    return program


def batch(features, labels=None, sample_weight=None, *, rows: int | None = None) -> BatchPart:
    """A batch; with `rows`, padded with its first example, which then weighs 0."""
    element, weight = (features, labels, sample_weight), None
    count = len(tf.nest.flatten(features)[0])
    if rows is not None:
        order = [*range(count), *[0] * (rows - count)]
        element = tf.nest.map_structure(lambda a: None if a is None else a[order], element)
        weight = tf.constant(np.arange(rows) < count, tf.float32)
    as_tensors = tf.nest.map_structure(
        lambda a: None if a is None else tf.convert_to_tensor(a), element
    )
    return BatchPart(*as_tensors, weight, tf.constant(float(count)))


def forward(program: Program, batch: BatchPart, training: bool = True) -> Forward:
    with program.tracing():
        return program.forward(program.read(), batch, training)


def update_metrics(program: Program, batch: BatchPart) -> dict[str, float]:
    """The metrics' results after a batch."""
    for variable, value in zip(
        program.metric_variables, forward(program, batch, training=False).metrics, strict=True
    ):
        variable.assign(value)
    return program.metric_results()


def loss_of(terms: list[Term], count: int = N) -> float:
    """The loss of a global batch that is one part."""
    groups = gradients.group_terms(terms, tf.constant(float(count)), count, "mean")
    totals, denominators = [g.total for g in groups], [g.denominator for g in groups]
    return float(gradients.global_loss(totals, denominators, gradients.shape_of(groups)))
