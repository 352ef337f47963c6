"""TensorFlow 1 code for tests, and what TensorFlow 1 itself makes of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def start(shape: list[int]):
    """An initializer of known values."""
    values = np.random.RandomState(3).uniform(-0.5, 0.5, shape).astype("float32")
    return v1.constant_initializer(values)


def dense(x: tf.Tensor, units: int, name: str, regularizer: Callable | None = None) -> tf.Tensor:
    """A dense layer of get_variable."""
    with v1.variable_scope(name):
        shape = [int(x.shape[-1]), units]
        kernel = v1.get_variable("kernel", shape, initializer=start(shape), regularizer=regularizer)
        bias = v1.get_variable("bias", [units], initializer=v1.zeros_initializer())
        return tf.matmul(x, kernel) + bias


class Session1:
    """A model_fn in a graph and a session of TensorFlow 1, without tfbig.

    Args:
        model_fn: takes (features, labels, mode) and returns an EstimatorSpec.
        features, labels: arrays that tell the shapes.
        mode: for all of its runs.
    """

    def __init__(self, model_fn: Callable, features: Any, labels: Any, mode: str = "train"):
        self.graph = tf.Graph()
        with self.graph.as_default():
            v1.train.create_global_step()
            hold = lambda a: v1.placeholder(a.dtype, [None, *a.shape[1:]])  # noqa: E731
            self._fed = tf.nest.map_structure(hold, (features, labels))
            self.spec = model_fn(*self._fed, mode)
            self.session = v1.Session(graph=self.graph)
            self.session.run(v1.global_variables_initializer())
            self.session.run(v1.local_variables_initializer())
            self.session.run(v1.tables_initializer())
            self.variables = {v.op.name: v for v in v1.global_variables()}

    def run(self, fetches: Any, features: Any, labels: Any, feed: dict | None = None) -> Any:
        """session.run on a batch."""
        fed = dict(
            zip(tf.nest.flatten(self._fed), tf.nest.flatten((features, labels)), strict=True)
        )
        return self.session.run(fetches, {**fed, **(feed or {})})

    def train(self, features: Any, labels: Any) -> float:
        """One step; returns the loss before it."""
        return self.run([self.spec.loss, self.spec.train_op], features, labels)[0]

    def values(self) -> dict[str, np.ndarray]:
        """All variables by name."""
        return self.session.run(self.variables)

    def load(self, values: dict[str, np.ndarray]) -> None:
        """Sets variables."""
        with self.graph.as_default():
            for name, value in values.items():
                self.variables[name].load(value, self.session)
