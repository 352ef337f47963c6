"""One trace of a model_fn in a graph of its own, and what can be put to work of it."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.place import Place, here, placed
from tfbig.programs.apart import run_apart
from tfbig.programs.model_fn.graph_split import SplitGraph, run_part
from tfbig.programs.model_fn.variable_store import VariableStore

_PLACE = [  # what a layer is told of its inputs' place
    tf.TensorSpec([], tf.int64, name="place_step"),
    tf.TensorSpec([], tf.int32, name="place_first"),
    tf.TensorSpec([], tf.int32, name="place_rows"),
]


class Gradient(NamedTuple):
    """A gradient that model_fn has taken.

    Attributes:
        of: what was differentiated.
        key: of the variable.
        value: tensor or tf.IndexedSlices.
    """

    of: tuple[tf.Tensor, ...]
    key: str
    value: Any

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors that hold it."""
        if isinstance(self.value, tf.IndexedSlices):
            return [self.value.values.name, self.value.indices.name]
        return [self.value.name]


class Once(NamedTuple):
    """A part of the loss that is no sum over examples.

    Attributes:
        loss: scalar.
        gradients: by variable.
    """

    loss: tf.Tensor
    gradients: dict[str, tf.Tensor]


class Initial(NamedTuple):
    """A value that tf.compat.v1.train.init_from_checkpoint gives a variable."""

    key: str
    checkpoint: str
    tensor: str


class ModelFnTrace:
    """What a model_fn computes, traced without strategy, session or batch.

    Args:
        call: from (features, labels, …) as tensors to the EstimatorSpec.
        specs: of the flat tensors that `call` takes.
        store: of the variables.
        mode: a ModeKeys value.
        precision: the Keras dtype policy.
        apart: find the part of a training loss that is counted once for an update.

    Attributes:
        spec: what model_fn returned; its tensors are those of `graph`.
        graph: as nodes and edges.
        names: of the variables that were asked for, in their order.
        gradients: all that were taken with respect to variables.
        initials: what init_from_checkpoint was asked for.
        tables: lookup tables that were made, filled.
        once: what of the loss is no sum over examples, if it was to be found and there is any.
        synchronized: a layer asks for statistics over all replicas.
        summaries: names of the tensors of tf.compat.v1.summary operations.
    """

    def __init__(
        self,
        call: Callable[[list[tf.Tensor]], Any],
        specs: Sequence[tf.TensorSpec],
        store: VariableStore,
        mode: str,
        precision: str,
        apart: bool = False,
    ):
        self._store = store
        self.spec: Any = None
        self.gradients: list[Gradient] = []
        self.initials: list[Initial] = []
        self.tables: list = []
        self.once: Once | None = None
        self.summaries: list[str] = []
        self.synchronized = False
        self.names: list[str] = []
        specs = [tf.TensorSpec(s.shape, s.dtype, name=f"batch_{i}") for i, s in enumerate(specs)]
        self._function = run_apart(lambda: self._trace(call, specs, mode, precision, apart))
        function = self._function
        fed = len(specs) + len(_PLACE)
        self._batch = [t.name for t in function.inputs[: len(specs)]]
        self._place = [t.name for t in function.inputs[len(specs) : fed]]
        outside = function.captured_inputs
        self._captured = dict(zip((t.name for t in function.inputs[fed:]), outside, strict=True))
        keys = {id(store.copy_of(name).handle): name for name in store.variables}
        self.resources = {name: keys[id(t)] for name, t in self._captured.items() if id(t) in keys}
        self.names = [n for n in self.names if n in store.variables]
        self.graph = SplitGraph(function.graph, (_op(n) for n in self._batch))
        self._check_variables(function.graph)

    def _trace(self, call, specs, mode, precision, apart):
        keras.config.set_dtype_policy(precision)

        def body(*flat):
            graph = tf.compat.v1.get_default_graph()
            self._store.collect_in(graph)
            tf.compat.v1.train.get_or_create_global_step()
            batch, place = flat[: len(specs)], Place(*flat[len(specs) :])
            with placed(*place), self._observed(graph):
                self.spec = call(list(batch))
            if apart and self.spec.train_op is not None:
                self.once = self._counted_once(self.spec.loss, batch)
            summaries = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.SUMMARIES)
            self.summaries = list(dict.fromkeys(tensor.name for tensor in summaries))

        with self._store.graph_scope(mode) as self.names:
            traced = tf.function(body, input_signature=[*specs, *_PLACE], autograph=False)
            return traced.get_concrete_function()

    @contextlib.contextmanager
    def _observed(self, graph: tf.Graph) -> Iterator[None]:
        def gradients(ys, xs, found):
            if tf.compat.v1.get_default_graph() is not graph:
                return  # inside of a loop or a condition: part of a gradient
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
            self.initials.append(Initial(self._store.name_of(variable), checkpoint, tensor))

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

    def _counted_once(self, loss: tf.Tensor, batch: tuple) -> Once | None:
        """The summands of a loss that are computed from variables alone: regularization."""
        of_batch = _Dependence(batch)
        once, todo = [], [loss]
        while todo:
            operation = todo.pop().op
            if operation.type in ("Identity", "Reshape"):
                todo.append(operation.inputs[0])
            elif operation.type in ("Add", "AddV2", "AddN"):
                for summand in operation.inputs:
                    (todo if of_batch(summand) else once).append(summand)
        if not once:
            return None
        total = tf.add_n([tf.reshape(tensor, []) for tensor in once])
        keys = list(dict.fromkeys(gradient.key for gradient in self.gradients))
        found = tf.gradients(total, [self._store.copy_of(key) for key in keys])
        pairs = zip(keys, found, strict=True)
        return Once(total, {k: tf.convert_to_tensor(g) for k, g in pairs if g is not None})

    def _check_variables(self, graph) -> None:
        """Refuses weights that were made outside of model_fn, which nothing would train or save."""
        known = {id(self._store.copy_of(name)) for name in self._store.variables}
        for variable in graph.variables:
            if variable.trainable and id(variable) not in known:
                raise UserError(
                    f"model_fn uses the weights {variable.name!r}, which were made outside of it "
                    "and would be neither trained nor saved; make the layer inside model_fn, or "
                    "set its trainable to False."
                )

    @property
    def metric_keys(self) -> set[str]:
        """Names of the variables of the Keras metrics in the spec."""
        metrics = (self.spec.eval_metric_ops or {}).values()
        kept = [m for m in metrics if isinstance(m, keras.metrics.Metric)]
        return {self._store.name_of(v) for m in kept for v in m.variables}

    @property
    def tf_graph(self) -> tf.Graph:
        return self._function.graph

    def twins(self, flat: list[tf.Tensor], tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """What tensors of the graph are for a batch, without anything that is only waited for."""
        names = [tensor.name for tensor in tensors]
        part = self.graph.part(self.graph.needed(map(_op, names), waits=False))
        return self.run(part, flat, names)

    def operation(self, name: str) -> tf.Operation:
        """One of the graph's operations."""
        return self._function.graph.get_operation_by_name(name)

    @property
    def op_types(self) -> set[str]:
        return {node.op for node in self.graph.nodes.values()}

    def used(self, key: str) -> bool:
        """Whether the graph reads or writes a variable."""
        return key in self.resources.values()

    def run(self, part, flat: list[tf.Tensor], wanted: Sequence[str], given=None) -> list:
        """Puts a part of the graph into the one that is being traced, in the present replica.

        Args:
            part: of `graph.part`.
            flat: the batch's tensors; [] if the part needs none.
            wanted: names of the tensors and operations to return.
            given: more tensors by name.
        """
        place = here() or Place(*(tf.zeros([], s.dtype) for s in _PLACE))
        rows = tf.constant(0) if place.rows is None else place.rows
        told = [tf.convert_to_tensor(t) for t in (place.step, place.first, rows)]
        feeds = dict(zip(self._place, told, strict=True)) | (given or {})
        if flat:
            feeds |= dict(zip(self._batch, flat, strict=True))
        return self._put(part, feeds, wanted, self._store.variables.get)

    def read_outside(self, names: Sequence[str]) -> Callable[[], list]:
        """A function that computes tensors that need no batch from the variables as they are."""
        part = self.graph.part(self.graph.needed({_op(n) for n in names}, waits=False))

        @tf.function(autograph=False)
        def read():
            return self._put(part, {}, names, self._store.copy_of)

        made: list = []  # a concrete function: TensorFlow would warn of one trace after the other

        def call() -> list:
            made[:] = made or [read.get_concrete_function()]
            return made[0]()

        return call

    def _put(self, part, feeds: dict, wanted: Sequence[str], variable_of: Callable) -> list:
        needs = {edge if ":" in edge else f"{edge}:0" for n in part.node for edge in n.input}
        needs.update(wanted)
        graph = tf.compat.v1.get_default_graph()
        for name, outside in self._captured.items():
            if name in needs:
                key = self.resources.get(name)
                feeds[name] = graph.capture(outside if key is None else variable_of(key).handle)
        return run_part(part, {k: v for k, v in feeds.items() if k in needs}, wanted)

    @property
    def of_batch(self) -> set[str]:
        """The operations that are computed from the batch."""
        return self.graph.computed_from(_op(n) for n in self._batch)


class _Dependence:
    """Whether tensors are computed from some others."""

    def __init__(self, sources: tuple):
        self._known = {tensor.name: True for tensor in sources}

    def __call__(self, tensor: tf.Tensor) -> bool:
        todo = [tensor]
        while todo:
            at = todo[-1]
            inputs = at.op.inputs
            left = [t for t in inputs if t.name not in self._known]
            if at.name in self._known or not left:
                self._known.setdefault(at.name, any(self._known[t.name] for t in inputs))
                todo.pop()
            else:
                todo += left
        return self._known[tensor.name]


def _op(tensor: str) -> str:
    return tensor.rsplit(":", 1)[0]
