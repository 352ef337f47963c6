"""Variables by name: what makes the layers of a re-run model_fn find their weights again."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.rows import for_servers, number_of_servers
from tfbig.programs.apart import run_apart

STEP = "global_step"  # every graph has it
_LOCAL = "@"  # begins the names of what belongs to one mode and is never saved: metrics' state
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
        self._copies: dict[str, tf.Variable] = {}
        self._of_keras: set[str] = set()
        self.closed = False  # once True, a new name is an error
        self._strategy_scope = strategy_scope
        with strategy_scope():
            self._servers = number_of_servers()
        self._local = threading.local()

    @contextlib.contextmanager
    def scope(self) -> Iterator[list[str]]:
        """One run of a model_fn, on one replica; yields the names in use, in their order."""
        self._begin(mode=None)
        self._local.base = tf.get_current_name_scope()
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.collect_in(graph)
        with (
            own_collections(graph),
            _private_api.automatic_names(),
            tf.variable_creator_scope(self._create),
            for_servers(self._servers),
        ):
            if STEP in self.variables and graph is not None:
                tf.compat.v1.train.get_or_create_global_step()
            yield self._local.used

    @contextlib.contextmanager
    def graph_scope(self, mode: str) -> Iterator[list[str]]:
        """One run of a model_fn in a graph of its own: it sees one replica's copy of a variable.

        Entered outside the graph. Variables are put into the collections of the graph that is
        set by `collect_in`, as TensorFlow 1 did.
        """
        self._begin(mode)
        with (
            _private_api.automatic_names(),
            tf.variable_creator_scope(self._create),
            for_servers(self._servers),
        ):
            yield self._local.used

    def collect_in(self, graph: tf.Graph) -> None:
        """Sets the graph of the present `graph_scope`."""
        self._local.graph = graph

    def _begin(self, mode: str | None) -> None:
        local = self._local
        local.names, local.used, local.mode, local.base, local.graph = set(), [], mode, "", None

    @contextlib.contextmanager
    def continued(self) -> Iterator[list[str]]:
        """More of the same run: names are counted on, not anew."""
        with tf.variable_creator_scope(self._create):
            yield self._local.used

    def _create(self, next_creator, **kwargs):
        del next_creator  # variables are made outside the trace
        key = self._key(kwargs)
        if re.search(r"/part_\d+$", key):
            raise UserError(
                f"the variable {key.rpartition('/')[0]!r} has a partitioner; leave it out: where "
                "parameters live is the placement's, see strategy= and RunConfig."
            )
        variable = self.variables.get(key)
        if variable is None:
            if self.closed and not key.startswith(_LOCAL) and key != STEP:
                raise UserError(
                    f"model_fn made the variable {key!r} that it had not made in training; build "
                    "the same layers in the same order in every mode."
                )
            variable = self._make(key, kwargs)
        self._check(key, variable, kwargs)
        self._local.used.append(key)
        if self._local.graph is not None:
            self._collect(key, kwargs.get("collections"))
        return variable if self._local.mode is None else self.copy_of(key)

    def _key(self, kwargs: dict) -> str:
        """The name of a variable, which no other one of this run has."""
        name = (kwargs.get("name") or "Variable").rstrip("/")
        path, mark = _private_api.current_keras_path(), "__"
        if not path:
            mark = "_"  # as TensorFlow 1 does it
            path = tf.get_current_name_scope().removeprefix(self._local.base).strip("/")
            path = re.sub(r"(^|/)replica_\d+(?=/|$)", "", path).strip("/")
        key = f"{path}/{name}" if path else name
        if tf.compat.v1.GraphKeys.LOCAL_VARIABLES in (kwargs.get("collections") or ()):
            key = f"{_LOCAL}{self._local.mode}/{key}"
        number, unique = 0, key
        while unique in self._local.names:
            number += 1
            unique = f"{key}{mark}{number}"
        self._local.names.add(unique)
        if mark == "__":
            self._of_keras.add(unique)
        return unique

    def _collect(self, key: str, collections) -> None:
        keys = tf.compat.v1.GraphKeys
        collections = list(collections or [keys.GLOBAL_VARIABLES])
        if self.trainable[key] and not self.is_frozen(key):
            collections.append(keys.TRAINABLE_VARIABLES)
        for collection in dict.fromkeys(collections):
            variable = self.variables[key] if self._local.mode is None else self.copy_of(key)
            self._local.graph.add_to_collection(collection, variable)

    def _make(self, key: str, kwargs: dict) -> tf.Variable:
        """Makes a variable in a thread of its own: no graph, no replica, no open scope."""
        beside = kwargs.get("colocate_with") if self._servers else None  # a slot beside its rows
        kwargs = {k: v for k, v in kwargs.items() if k in _KEYWORDS}
        kwargs["name"] = key.removeprefix(_LOCAL)
        if not self.is_of_keras(key):  # what is assigned is equal on all replicas
            kwargs.pop("synchronization", None), kwargs.pop("aggregation", None)
        value = kwargs.get("initial_value")
        if isinstance(value, tf.Tensor) and not hasattr(value, "numpy"):
            value = tf.get_static_value(value)
            if value is None:
                raise UserError(
                    f"the initial value of the variable {key!r} is computed from the batch; pass "
                    "an initializer or a constant."
                )
            kwargs["initial_value"] = value

        def make():
            with self._strategy_scope():
                if beside is None:
                    return tf.Variable(**kwargs)
                with tf.distribute.get_strategy().extended.colocate_vars_with(beside):
                    return tf.Variable(**kwargs)

        variable = self.variables[key] = run_apart(make)
        self.trainable[key] = kwargs.get("trainable") is not False
        return variable

    def forget(self, key: str) -> None:
        """Removes a variable that nothing has used."""
        for known in (self.variables, self.trainable, self._owners, self._copies):
            known.pop(key, None)

    def _check(self, key: str, variable: tf.Variable, kwargs: dict) -> None:
        wanted, value = kwargs.get("shape"), kwargs.get("initial_value")
        owner = _private_api.keras_variable_of(value)
        self._owners[key] = owner
        dtype = tf.as_dtype(kwargs.get("dtype") or variable.dtype)
        if wanted is None and owner is not None:
            wanted = owner.shape
        elif wanted is None and not callable(value):
            wanted = np.shape(value)
        if wanted is not None and not variable.shape.is_compatible_with(wanted):
            raise UserError(
                f"model_fn made the variable {key!r} with shape {tuple(variable.shape)} before "
                f"and now asks for {tuple(wanted)}; give the layers names of their own."
            )
        if dtype != variable.dtype:
            raise UserError(
                f"model_fn made the variable {key!r} of {variable.dtype.name} before and now asks "
                f"for {dtype.name}; give the layers names of their own."
            )

    def is_of_keras(self, key: str) -> bool:
        """Whether a variable belongs to a Keras object."""
        return key in self._of_keras

    def is_frozen(self, key: str) -> bool:
        """Whether a weight belongs to a layer that the last run has frozen."""
        owner = self._owners[key]
        return self.trainable[key] and owner is not None and not owner.trainable

    def name_of(self, variable) -> str | None:
        """The name of a variable (of Keras or TensorFlow) that this store made, or None."""
        inner = getattr(variable, "value", variable)
        for name, known in self.variables.items():
            same = (known, self._copies.get(name, known))
            if any(v is one for v in (inner, variable) for one in same):
                return name
        return None

    def copy_of(self, key: str) -> tf.Variable:
        """One replica's copy of a variable, the first one of this process."""
        if key not in self._copies:
            self._copies[key] = _private_api.alone(self.variables[key])
        return self._copies[key]

    def is_local(self, key: str) -> bool:
        """Whether a variable belongs to one mode and is never saved."""
        return key.startswith(_LOCAL)


@contextlib.contextmanager
def own_collections(graph: tf.Graph | None) -> Iterator[None]:
    """Hides what a graph's collections hold inside the block, and what it adds afterwards.

    TensorFlow 1 keeps its variables by name, its scopes and its losses in them, and replicas and
    micro-batches are traced in one graph.
    """
    if graph is None:
        yield
        return
    before = {key: list(graph.get_collection_ref(key)) for key in graph.collections}
    for key in before:
        graph.clear_collection(key)
    try:
        yield
    finally:
        for key in graph.collections:
            graph.clear_collection(key)
        for key, values in before.items():
            graph.get_collection_ref(key).extend(values)
