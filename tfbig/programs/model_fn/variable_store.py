"""Variables by name: the layers of a repeatedly called model_fn find their weights here."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.sharded_tables import number_of_servers, parameter_server_scope
from tfbig.programs.divided_weights import DividedWeights, is_divisible
from tfbig.programs.model_fn.divided_variables import DividedVariable, WholeValues
from tfbig.programs.tracing import run_in_new_thread

STEP = "global_step"  # every graph has it
_LOCAL = "@"  # prefix of variables that belong to one mode and are never saved, as of metrics
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

    A model_fn creates new layers in every trace. Inside `scope()`, an object that creates a
    variable (a Keras layer, an optimizer, a metric, a seed generator) receives the existing
    variable of that name. If there is none, it is created immediately, outside the trace.

    Example:

        store = VariableStore(strategy_scope)
        with store.scope():
            logits = keras.layers.Dense(10)(features)   # creates dense/kernel, dense/bias
        with store.scope():
            logits = keras.layers.Dense(10)(features)   # finds them

    Args:
        strategy_scope: returns the scope of the placement, in which variables are created.

    Attributes:
        variables: by name.
        trainable: whether each was created as trainable.
        closed: whether a new name is an error.
        weights: how replicas divide weights; None: they do not. Set it before the first trace.
    """

    weights: DividedWeights | None = None

    def __init__(self, strategy_scope: Callable[[], contextlib.AbstractContextManager]):
        self.variables: dict[str, tf.Variable] = {}
        self.trainable: dict[str, bool] = {}
        self._owners: dict[str, keras.Variable | None] = {}
        self._copies: dict[str, tf.Variable] = {}
        self._of_keras: set[str] = set()
        self.closed = False
        self._strategy_scope = strategy_scope
        with strategy_scope():
            self._servers = number_of_servers()
        self._local = threading.local()

    @contextlib.contextmanager
    def scope(self) -> Iterator[list[str]]:
        """Enter it for one call of a model_fn on one replica.

        Yields:
            The names of the variables in use, in the order of their requests.
        """
        self._begin(mode=None)
        self._local.base = tf.get_current_name_scope()
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self.collect_in(graph)
        with (
            own_collections(graph),
            _private_api.automatic_names(),
            tf.variable_creator_scope(self._create),
            parameter_server_scope(self._servers),
        ):
            if STEP in self.variables and graph is not None:
                tf.compat.v1.train.get_or_create_global_step()
            yield self._local.used

    @contextlib.contextmanager
    def graph_scope(self, mode: str) -> Iterator[list[str]]:
        """Enter it for one call of a model_fn in a separate graph, outside that graph.

        The model_fn sees one replica's copy of each variable. As in TensorFlow 1, variables are
        added to the collections of the graph that `collect_in` sets.
        """
        self._begin(mode)
        with (
            _private_api.automatic_names(),
            tf.variable_creator_scope(self._create),
            parameter_server_scope(self._servers),
        ):
            yield self._local.used

    def collect_in(self, graph: tf.Graph) -> None:
        """Sets the graph of the current `graph_scope`, whose collections get the variables."""
        self._local.graph = graph

    def _begin(self, mode: str | None) -> None:
        local = self._local
        local.names, local.used, local.mode, local.base, local.graph = set(), [], mode, "", None

    @contextlib.contextmanager
    def continued(self) -> Iterator[list[str]]:
        """Continues the last scope of this thread, with its automatic numbers of names."""
        with tf.variable_creator_scope(self._create):
            yield self._local.used

    def _create(self, next_creator, **kwargs):
        del next_creator  # variables are created outside the trace
        key = self._key(kwargs)
        if re.search(r"/part_\d+$", key):
            raise UserError(
                f"the variable {key.rpartition('/')[0]!r} has a partitioner; leave it out: "
                "strategy= and RunConfig determine the devices of parameters."
            )
        variable = self.variables.get(key)
        if variable is None:
            if self.closed and not key.startswith(_LOCAL) and key != STEP:
                raise UserError(
                    f"model_fn created the variable {key!r}, which it did not create in training; "
                    "build the same layers in the same order in every mode."
                )
            variable = self._make(key, kwargs)
        self._check(key, variable, kwargs)
        self._local.used.append(key)
        found = self._in_replica(variable) if self._local.mode is None else self.copy_of(key)
        if self._local.graph is not None:
            self._collect(found, key, kwargs.get("collections"))
        return found

    def _in_replica(self, variable: Any) -> Any:
        if self.weights is None or not self.weights.divides(variable):
            return variable
        return DividedVariable(variable, lambda: getattr(self._local, "values", None))

    @contextlib.contextmanager
    def reading(self, variables: list, values: list, training: bool) -> Iterator[None]:
        """Enter it for one forward pass, whose layers read weights that replicas divide.

        Args:
            variables, values: those that are trained, and their values or slices.
            training: whether there will be a backward pass.
        """
        if self.weights is None:
            yield
            return
        pairs = zip(variables, values, strict=True)
        slices = [(v, value) for v, value in pairs if self.weights.divides(v)]
        self._local.values = WholeValues(self.weights, slices, training)
        try:
            yield
        finally:
            self._local.values = None

    def handle_in_replica(self, key: str) -> tf.Tensor:
        """The resource from which a part of a graph reads a variable in this replica."""
        variable = self.variables[key]
        if self.weights is None or not self.weights.gathers or not self.weights.divides(variable):
            return tf.compat.v1.get_default_graph().capture(variable.handle)
        return _private_api.temporary_variable(tf.convert_to_tensor(variable))

    def _key(self, kwargs: dict) -> str:
        """The name of a variable, unique within the current scope."""
        name = (kwargs.get("name") or "Variable").rstrip("/")
        path, mark = _private_api.current_keras_path(), "__"
        if not path:
            mark = "_"  # as in TensorFlow 1
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

    def _collect(self, variable: Any, key: str, collections) -> None:
        keys = tf.compat.v1.GraphKeys
        collections = list(collections or [keys.GLOBAL_VARIABLES])
        if self.trainable[key] and not self.is_frozen(key):
            collections.append(keys.TRAINABLE_VARIABLES)
        for collection in dict.fromkeys(collections):
            self._local.graph.add_to_collection(collection, variable)

    def _make(self, key: str, kwargs: dict) -> tf.Variable:
        """Creates a variable in a new thread, which has no graph, replica or open scope."""
        # Parameter servers store a slot variable on the server of its rows.
        neighbor = kwargs.get("colocate_with") if self._servers else None
        kwargs = {k: v for k, v in kwargs.items() if k in _KEYWORDS}
        kwargs["name"] = key.removeprefix(_LOCAL)
        if not self.is_of_keras(key):  # assigned values are equal on all replicas
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

        sliced = self._is_sliced(key, kwargs)

        def create():
            if sliced:
                return self.weights.stored(kwargs["name"], value, kwargs.get("dtype"))
            with self._strategy_scope():
                if neighbor is None:
                    return tf.Variable(**kwargs)
                with tf.distribute.get_strategy().extended.colocate_vars_with(neighbor):
                    return tf.Variable(**kwargs)

        variable = run_in_new_thread(create)
        self._check_divided(key, variable)
        self.variables[key] = variable
        self.trainable[key] = kwargs.get("trainable") is not False
        return variable

    def _is_sliced(self, key: str, kwargs: dict) -> bool:
        if self.weights is None or not self.weights.gathers or not self.is_of_keras(key):
            return False
        return kwargs["trainable"] is not False and tf.as_dtype(kwargs["dtype"]).is_floating

    def _check_divided(self, key: str, variable: tf.Variable) -> None:
        if self.weights is not None and is_divisible(variable) and not self.is_of_keras(key):
            raise UserError(
                f"model_fn creates the weight {key!r} with tf.Variable or get_variable, and "
                "replicas divide weights of Keras layers only; use a layer of Keras, or write "
                'model_distribution="owner".'
            )

    def forget(self, key: str) -> None:
        """Removes a variable that is not used anywhere."""
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
                f"model_fn created the variable {key!r} with shape {tuple(variable.shape)} before "
                f"and now requests {tuple(wanted)}; give the layers distinct names."
            )
        if dtype != variable.dtype:
            raise UserError(
                f"model_fn created the variable {key!r} of {variable.dtype.name} before and now "
                f"requests {dtype.name}; give the layers distinct names."
            )

    def is_of_keras(self, key: str) -> bool:
        """Whether a variable belongs to a Keras object."""
        return key in self._of_keras

    def is_frozen(self, key: str) -> bool:
        """Whether a weight belongs to a layer that was frozen in the last scope."""
        owner = self._owners[key]
        return self.trainable[key] and owner is not None and not owner.trainable

    def name_of(self, variable) -> str | None:
        """The name of a Keras or TensorFlow variable of this store, or None."""
        inner = getattr(variable, "value", variable)
        for name, known in self.variables.items():
            same = (known, self._copies.get(name, known))
            if any(v is one for v in (inner, variable) for one in same):
                return name
        return None

    def copy_of(self, key: str) -> tf.Variable:
        """The copy of a variable on the first replica of this process."""
        if key not in self._copies:
            variable = self.variables[key]
            copy = getattr(variable, "without_value", None)  # that of a weight in slices
            self._copies[key] = _private_api.first_replica_copy(variable) if copy is None else copy
        return self._copies[key]

    def is_local(self, key: str) -> bool:
        """Whether a variable belongs to one mode and is never saved, such as a metric's."""
        return key.startswith(_LOCAL)


def shown_name(key: str) -> str:
    """The name of a variable for messages, without the mode of a local one."""
    return key.partition("/")[2] if key.startswith(_LOCAL) else key


@contextlib.contextmanager
def own_collections(graph: tf.Graph | None) -> Iterator[None]:
    """Empties the collections of a graph inside the block, and restores them afterwards.

    TensorFlow 1 stores variables, scopes and losses in collections, but here all replicas and
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
