"""Variables by name: what makes the layers of a re-run model_fn find their weights again."""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError

_KEYWORDS = {
    "initial_value",
    "trainable",
    "validate_shape",
    "caching_device",
    "name",
    "dtype",
    "constraint",
    "synchronization",
    "aggregation",
    "shape",
}


class VariableStore:
    """Maps names to variables across traces, modes and replicas.

    A model_fn makes its layers anew in every trace. Inside `scope()`, whatever asks for a
    variable (Keras layers, optimizers, metrics, seed generators) is given the one that was made
    under the same name before; a new one is made at once and outside the trace.

    Example:

        store = VariableStore(strategy_scope)
        with store.scope():
            logits = keras.layers.Dense(10)(features)   # makes dense/kernel, dense/bias
        with store.scope():
            logits = keras.layers.Dense(10)(features)   # finds them

    Args:
        strategy_scope: returns the placement's scope, entered where variables are made.
    """

    def __init__(self, strategy_scope: Callable[[], contextlib.AbstractContextManager]):
        self.variables: dict[str, tf.Variable] = {}
        self.trainable: dict[str, bool] = {}
        self._owners: dict[str, keras.Variable | None] = {}
        self.closed = False  # once True, a new name is an error
        self._strategy_scope = strategy_scope
        self._local = threading.local()

    @contextlib.contextmanager
    def scope(self) -> Iterator[list[str]]:
        """One run of a model_fn, on one replica; yields the names in use, in their order."""
        self._local.seen = collections.Counter()
        self._local.used = []
        with _private_api.automatic_names(), tf.variable_creator_scope(self._create):
            yield self._local.used

    @contextlib.contextmanager
    def continued(self) -> Iterator[list[str]]:
        """More of the same run: names are counted on, not anew."""
        with tf.variable_creator_scope(self._create):
            yield self._local.used

    def _create(self, next_creator, **kwargs):
        del next_creator  # variables are made outside the trace
        path = _private_api.current_keras_path()
        name = kwargs.get("name") or "Variable"
        key = f"{path}/{name}" if path else name
        number = self._local.seen[key]
        self._local.seen[key] += 1
        if number:
            key = f"{key}__{number}"
        variable = self.variables.get(key)
        if variable is None:
            if self.closed:
                raise UserError(
                    f"model_fn made the variable {key!r} that it had not made in training; build "
                    "the same layers in the same order in every mode."
                )
            variable = self._make(key, kwargs)
        self._check(key, variable, kwargs)
        self._local.used.append(key)
        return variable

    def _make(self, key: str, kwargs: dict) -> tf.Variable:
        """Makes a variable in a thread of its own: no graph, no replica, no open scope."""
        kwargs = {k: v for k, v in kwargs.items() if k in _KEYWORDS}
        kwargs["name"] = key
        value = kwargs.get("initial_value")
        if isinstance(value, tf.Tensor) and not hasattr(value, "numpy"):
            value = tf.get_static_value(value)
            if value is None:
                raise UserError(
                    f"the initial value of the variable {key!r} is computed from the batch; pass "
                    "an initializer or a constant."
                )
            kwargs["initial_value"] = value
        made: dict = {}

        def make():
            try:
                with self._strategy_scope():
                    made["variable"] = tf.Variable(**kwargs)
            except BaseException as error:  # raised below, in the caller's thread
                made["error"] = error

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if "error" in made:
            raise made["error"]
        self.variables[key] = made["variable"]
        self.trainable[key] = kwargs.get("trainable") is not False
        return made["variable"]

    def _check(self, key: str, variable: tf.Variable, kwargs: dict) -> None:
        wanted, value = kwargs.get("shape"), kwargs.get("initial_value")
        owner = _private_api.keras_variable_of(value)
        self._owners[key] = owner
        if wanted is None and owner is not None:
            wanted = owner.shape
        elif wanted is None and not callable(value):
            wanted = np.shape(value)
        if wanted is not None and not variable.shape.is_compatible_with(wanted):
            raise UserError(
                f"model_fn made the variable {key!r} with shape {tuple(variable.shape)} before "
                f"and now asks for {tuple(wanted)}; give the layers names of their own."
            )

    def is_frozen(self, key: str) -> bool:
        """Whether a weight belongs to a layer that the last run has frozen."""
        owner = self._owners[key]
        return self.trainable[key] and owner is not None and not owner.trainable

    def name_of(self, variable) -> str | None:
        """The name of a variable (of Keras or TensorFlow) that this store made, or None."""
        inner = getattr(variable, "value", variable)
        for name, known in self.variables.items():
            if known is inner or known is variable:
                return name
        return None
