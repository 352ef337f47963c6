"""Trains model_fns of TensorFlow 1 code for a few steps."""

import numpy as np
import tensorflow as tf

import tfbig
from tests.programs.batches import N, batch, build, classes, x
from tests.programs.tf1 import Session1, dense, v1
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.training.step import gradients

TRAIN = tfbig.ModeKeys.TRAIN


def trained_by(train, logits_of=None):
    """A classifier whose train_op is `train(loss)`."""

    def model_fn(features, labels, mode):
        logits = logits_of(features, mode) if logits_of else dense(features, 3, "out")
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=train(loss))

    return model_fn


def new(model_fn, element=None, **keywords) -> ModelFnProgram:
    arguments = {"params": None, "config": None, "precision": "float32", **keywords}
    program = ModelFnProgram(
        model_fn, arguments["params"], arguments["config"], lambda: tf.device("CPU:0"),
        arguments["precision"],
    )  # fmt: skip
    build(program, *(element or (x(4), classes())))
    return program


def step(program: ModelFnProgram, features, labels, parts: int = 1) -> float:
    """One update from a batch worked through in parts, as the loop does it; returns the loss."""
    program.select_mode(True)
    size = N // parts

    @tf.function(autograph=False)
    def trace():
        sums, denominators, totals, moving = None, 0.0, 0.0, None
        start_of = program.read()
        with program.tracing():
            for p in range(parts):
                cut = lambda a: a[p * size : (p + 1) * size]  # noqa: B023, E731
                given = batch(*tf.nest.map_structure(cut, (features, labels)))
                with tf.GradientTape() as tape:
                    found = program.forward(start_of, given, True)
                    (group,) = gradients.group_terms(found.terms, given.count, N, "mean")
                taken = [
                    tf.convert_to_tensor(g) for g in tape.gradient(group.total, program.trainable)
                ]
                share = [v / parts if v.dtype.is_floating else v // parts for v in found.state]
                sums = taken if sums is None else [a + b for a, b in zip(sums, taken, strict=True)]
                moving = (
                    share if moving is None else [a + b for a, b in zip(moving, share, strict=True)]
                )
                denominators, totals = denominators + group.denominator, totals + group.total
            program.apply([g / denominators for g in sums])
            for variable, value in zip(program.state, moving, strict=True):
                variable.assign(value)
        return totals / denominators

    return float(trace())


def assert_same(program: ModelFnProgram, session: Session1, names=None, **tolerance) -> None:
    found = {n.partition("/")[2]: v.numpy() for n, v in program.named_variables().items()}
    expected = session.values()
    assert set(found) == set(expected)
    for name in names or expected:
        np.testing.assert_allclose(
            found[name], expected[name], **{"rtol": 1e-5, "atol": 1e-6, **tolerance}, err_msg=name
        )
