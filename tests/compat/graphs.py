"""Runs TF1 code in a graph of its own."""

import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


class Ran(NamedTuple):
    """What a graph gave: outputs, its variables by name, and what is in collections."""

    outputs: list
    shape: tf.TensorShape
    variables: dict
    trainable: list
    regularization: list


def ran(build, *inputs, values=None, updates=False) -> Ran:
    """Builds a graph from placeholders for the inputs and runs it once.

    Args:
        build: called with the placeholders; returns a tensor or a list of them.
        inputs: arrays, of a batch size that the graph does not know.
        values: what the variables are set to first, by name; None: as they are initialized.
        updates: whether UPDATE_OPS are run after the outputs.
    """
    with tf.Graph().as_default(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TF1's layers tell that they are old
        v1.set_random_seed(1)
        placeholders = [v1.placeholder(x.dtype, [None, *x.shape[1:]]) for x in inputs]
        built = build(*placeholders)
        built = built if isinstance(built, list) else [built]
        variables = v1.global_variables()
        losses = v1.get_collection(v1.GraphKeys.REGULARIZATION_LOSSES)
        feed = dict(zip(placeholders, inputs, strict=True))
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            for variable in variables:
                if values is not None:
                    variable.load(values[variable.op.name], session)
            outputs, losses = session.run([built, losses], feed)
            if updates:
                session.run(v1.get_collection(v1.GraphKeys.UPDATE_OPS), feed)
            found = {v.op.name: session.run(v) for v in variables}
        trainable = [v.op.name for v in v1.trainable_variables()]
        return Ran(outputs, built[0].shape, found, trainable, losses)


def numbers(*shape, dtype="float32", seed=0):
    """Normal random numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)
