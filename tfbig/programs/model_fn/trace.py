"""One trace of a model_fn in a separate graph, parts of which run in other graphs."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.batch_position import BatchPosition, batch_position_scope, current_position
from tfbig.programs.model_fn.graph_split import SplitGraph, run_part
from tfbig.programs.model_fn.regularization import Regularization, find_regularization as find
from tfbig.programs.model_fn.spec import ModeKeys, keras_metrics
from tfbig.programs.model_fn.variable_store import STEP, VariableStore
from tfbig.programs.tracing import run_in_new_thread

CONVOLUTIONS = {
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool", "MaxPool3D", "Conv2DBackpropInput"),
    "Conv3DBackpropInputV2",
}
_NAMES = {ModeKeys.TRAIN: "TRAIN", ModeKeys.EVAL: "EVAL", ModeKeys.PREDICT: "PREDICT"}
_PLACE = [  # the position of a batch, which layers read
    tf.TensorSpec([], tf.int64, name="place_step"),
    tf.TensorSpec([], tf.int32, name="place_first"),
    tf.TensorSpec([], tf.int32, name="place_rows"),
]


class Gradient(NamedTuple):
    """A gradient that model_fn has computed.

    Attributes:
        of: the tensors that were differentiated.
        key: the name of the variable.
        value: tensor or tf.IndexedSlices.
    """

    of: tuple[tf.Tensor, ...]
    key: str
    value: Any

    @property
    def tensors(self) -> list[str]:
        """The names of the tensors that the gradient consists of."""
        if isinstance(self.value, tf.IndexedSlices):
            return [self.value.values.name, self.value.indices.name]
        return [self.value.name]


class CheckpointInitializer(NamedTuple):
    """An initial value of a variable, from tf.compat.v1.train.init_from_checkpoint."""

    key: str
    checkpoint: str
    tensor: str


class ModelFnTrace:
    """The computation of a model_fn, traced without a strategy, a session or a batch.

    Args:
        call: from (features, labels, …) as tensors to the EstimatorSpec.
        specs: of the flat tensors that `call` takes.
        store: has the variables.
        mode: a ModeKeys value.
        precision: the Keras dtype policy.
        find_regularization: whether to find the part of the loss that depends on variables only.

    Attributes:
        spec: the result of model_fn, with tensors of `graph`.
        graph: the traced graph as nodes and edges.
        names: of the variables that model_fn requested, in this order.
        gradients: all gradients with respect to variables.
        initials: the requests of init_from_checkpoint.
        tables: the lookup tables that model_fn created, filled.
        regularization: the part of the loss that depends on variables only, or None.
        synchronized: whether a layer requests statistics over all replicas.
        summaries: names of the tensors of tf.compat.v1.summary operations.
    """

    def __init__(
        self,
        call: Callable[[list[tf.Tensor]], Any],
        specs: Sequence[tf.TensorSpec],
        store: VariableStore,
        mode: str,
        precision: str,
        find_regularization: bool = False,
    ):
        self._store, self._mode = store, mode
        self.spec: Any = None
        self.gradients: list[Gradient] = []
        self.initials: list[CheckpointInitializer] = []
        self.tables: list = []
        self.regularization: Regularization | None = None
        self.summaries: list[str] = []
        self.synchronized = False
        self.names: list[str] = []
        self._controls: dict[str, list[str]] = {}
        specs = [tf.TensorSpec(s.shape, s.dtype, name=f"batch_{i}") for i, s in enumerate(specs)]
        self._function = run_in_new_thread(
            lambda: self._trace(call, specs, mode, precision, find_regularization)
        )
        function = self._function
        fed = len(specs) + len(_PLACE)
        self._batch = [t.name for t in function.inputs[: len(specs)]]
        self._place = [t.name for t in function.inputs[len(specs) : fed]]
        outside = function.captured_inputs
        self._captured = dict(zip((t.name for t in function.inputs[fed:]), outside, strict=True))
        keys = {id(store.copy_of(name).handle): name for name in store.variables}
        self.resources = {name: keys[id(t)] for name, t in self._captured.items() if id(t) in keys}
        self.names = [n for n in self.names if n in store.variables]
        self.graph = SplitGraph(function.graph, (_op(n) for n in self._batch), self._controls)
        self.graph.follow(self.keras_writes())
        self._check_variables(function.graph)

    def _trace(self, call, specs, mode, precision, find_regularization):
        keras.config.set_dtype_policy(precision)

        def body(*flat):
            graph = tf.compat.v1.get_default_graph()
            self._store.collect_in(graph)
            tf.compat.v1.train.get_or_create_global_step()
            batch, place = flat[: len(specs)], BatchPosition(*flat[len(specs) :])
            with batch_position_scope(*place), self._observed(graph):
                self.spec = call(list(batch))
            sums = find_regularization or self.spec.is_summed
            if sums and self.spec.train_op is not None:
                weights = {g.key: self._store.copy_of(g.key) for g in self.gradients}
                self.regularization = find(self.spec.loss, batch, weights)
            self._controls = {
                operation.name: [control.name for control in operation.control_inputs]
                for operation in graph.get_operations()
            }
            summaries = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.SUMMARIES)
            self.summaries = list(dict.fromkeys(tensor.name for tensor in summaries))

        with self._store.graph_scope(mode) as self.names:
            traced = tf.function(body, input_signature=[*specs, *_PLACE], autograph=False)
            return traced.get_concrete_function()

    @contextlib.contextmanager
    def _observed(self, graph: tf.Graph) -> Iterator[None]:
        def gradients(ys, xs, found):
            if tf.compat.v1.get_default_graph() is not graph:
                return  # a gradient inside a loop or a condition is part of another one
            for x, value in zip(xs, found, strict=True):
                key = self._store.name_of(x) if isinstance(x, tf.Variable) else None
                if key is not None and value is not None:
                    self.gradients.append(Gradient(tuple(ys), key, value))

        def initializer(variable, checkpoint, tensor, part):
            if part:
                raise UserError(
                    f"init_from_checkpoint was given a part of the variable {variable.name!r}; "
                    "leave the partitioner out."
                )
            self.initials.append(
                CheckpointInitializer(self._store.name_of(variable), checkpoint, tensor)
            )

        def synchronization():
            self.synchronized = True

        with (
            _private_api.observed_gradients(gradients),
            _private_api.observed_checkpoint_initializers(initializer),
            _private_api.tables_outside_graph(self.tables),
            _private_api.observed_synchronization(synchronization),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*TF1 summary ops")
            yield

    def keras_writes(self) -> set[str]:
        """The operations that change Keras's own state, such as the seed of a Dropout.

        Those of optimizers and metrics are not among them.
        """
        written = self.graph.written(self.graph.nodes, self.resources)
        store, others = self._store, self.metric_keys
        own = [k for k in written if store.is_of_keras(k) and not store.trainable[k]]
        writes = {name for key in own if key not in others for name in written[key]}
        tensors = {name for gradient in self.gradients for name in gradient.tensors}
        return writes - self.graph.following(tensors)

    def _check_variables(self, graph) -> None:
        """Refuses weights from outside model_fn, which would be neither trained nor saved."""
        known = {id(self._store.copy_of(name)) for name in self._store.variables}
        for variable in graph.variables:
            if variable.trainable and id(variable) not in known:
                raise UserError(
                    f"model_fn uses the weights {variable.name!r}, which were created outside it "
                    "and would be neither trained nor saved; create the layer inside model_fn, or "
                    "set its trainable to False."
                )

    @property
    def metric_keys(self) -> set[str]:
        """The names of the variables of the Keras metrics in the spec."""
        metrics = keras_metrics(self.spec)
        return {self._store.name_of(v) for m in metrics for v in m.variables}

    @property
    def tf_graph(self) -> tf.Graph:
        """The traced graph, to which the tensors of `spec` belong."""
        return self._function.graph

    @property
    def uses_only_keras(self) -> bool:
        """Whether all variables and metrics belong to Keras, so a step can call model_fn itself."""
        metrics = (self.spec.eval_metric_ops or {}).values()
        return all(isinstance(m, keras.metrics.Metric) for m in metrics) and all(
            self._store.is_of_keras(n) or n == STEP for n in self.names
        )

    def check_no_new_variables(self, known: set[str]) -> None:
        """Refuses variables that this mode created and that TRAIN mode does not have.

        Args:
            known: names of the variables of TRAIN mode.

        Raises:
            UserError: the message names the variables.
        """
        known = known | self.metric_keys | {STEP}
        new = [n for n in dict.fromkeys(self.names) if n not in known]
        new = [n for n in new if not self._store.is_local(n)]
        if new:
            raise UserError(
                f"model_fn created variables in {_NAMES[self._mode]} mode that TRAIN mode does not "
                f"have: {', '.join(sorted(new))}; build the same layers in every mode, and give a "
                "layer whose automatic name differs between modes a name."
            )

    def fetch(self, flat: list[tf.Tensor], names: list[str]) -> dict[str, tf.Tensor]:
        """Computes tensors on a batch in the current replica, by name.

        Variables that the computation changes are restored, except local variables of metrics.

        Args:
            flat: the tensors of the batch.
            names: of tensors of the graph.
        """
        needed = self.graph.needed(_op(name) for name in names)
        changed = self.graph.written(needed, self.resources)
        restored = [self._store.variables[n] for n in changed if not self._store.is_local(n)]
        before = [tf.convert_to_tensor(variable) for variable in restored]
        found = self.run(self.graph.part(needed), flat, names)
        found = [tf.identity(tensor) for tensor in found]
        for variable, value in zip(restored, before, strict=True):
            variable.assign(value)
        return dict(zip(names, found, strict=True))

    def twins(self, flat: list[tf.Tensor], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Computes tensors of the graph for a batch, ignoring control dependencies."""
        names = [tensor.name for tensor in tensors]
        part = self.graph.part(self.graph.needed(map(_op, names), control=False))
        return self.run(part, flat, names)

    def operation(self, name: str) -> tf.Operation:
        """Returns an operation of the traced graph by name."""
        return self._function.graph.get_operation_by_name(name)

    @property
    def op_types(self) -> set[str]:
        """The types of all operations in the graph."""
        return {node.op for node in self.graph.nodes.values()}

    def used(self, key: str) -> bool:
        """Whether the graph reads or writes a variable."""
        return key in self.resources.values()

    def run(self, part, flat: list[tf.Tensor], wanted: Sequence[str], given=None) -> list:
        """Imports a part of the graph into the graph that is being traced, in this replica.

        Args:
            part: the result of `graph.part`.
            flat: the tensors of the batch. [] if the part needs none.
            wanted: names of the tensors and operations to return.
            given: replacements of other tensors, by name.
        """
        place = current_position() or BatchPosition(*(tf.zeros([], s.dtype) for s in _PLACE))
        rows = tf.constant(0) if place.rows is None else place.rows
        values = [tf.convert_to_tensor(t) for t in (place.step, place.first, rows)]
        feeds = dict(zip(self._place, values, strict=True)) | (given or {})
        if flat:
            feeds |= dict(zip(self._batch, flat, strict=True))
        return self._put(part, feeds, wanted, self._store.handle_in_replica)

    def read_outside(self, names: Sequence[str]) -> Callable[[], list]:
        """Returns a function that computes tensors from the current values of the variables.

        Args:
            names: of tensors that do not depend on the batch.
        """
        part = self.graph.part(self.graph.needed({_op(n) for n in names}, control=False))

        @tf.function(autograph=False)
        def read():
            graph = tf.compat.v1.get_default_graph()
            handle_of = lambda key: graph.capture(self._store.copy_of(key).handle)  # noqa: E731
            return self._put(part, {}, names, handle_of)

        # One concrete function, because TensorFlow warns about repeated tracing.
        traced: list = []

        def call() -> list:
            traced[:] = traced or [read.get_concrete_function()]
            return traced[0]()

        return call

    def _put(self, part, feeds: dict, wanted: Sequence[str], handle_of: Callable) -> list:
        needs = {edge if ":" in edge else f"{edge}:0" for n in part.node for edge in n.input}
        needs.update(wanted)
        graph = tf.compat.v1.get_default_graph()
        for name, outside in self._captured.items():
            if name in needs:
                key = self.resources.get(name)
                feeds[name] = graph.capture(outside) if key is None else handle_of(key)
        return run_part(part, {k: v for k, v in feeds.items() if k in needs}, wanted)

    @property
    def of_batch(self) -> set[str]:
        """The names of the operations that depend on the batch."""
        return self.graph.computed_from(_op(n) for n in self._batch)


def _op(tensor: str) -> str:
    return tensor.rsplit(":", 1)[0]
