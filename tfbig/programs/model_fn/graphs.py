"""Runs a traced model_fn on a batch: one class for each mode."""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.metric_aggregation import BATCH_MEANS, PARTS, UNKNOWN_KIND, is_sum
from tfbig.programs.model_fn.call import divided_term
from tfbig.programs.model_fn.keras_parts import keras_result
from tfbig.programs.model_fn.trace import Gradient, ModelFnTrace
from tfbig.programs.model_fn.variable_store import VariableStore
from tfbig.programs.program import Term

# The names of the learning rate among the inputs of optimizer operations.
_RATES = ("lr", "alpha")
_ADDITIONS = ("AssignAddVariableOp", "AssignSubVariableOp", "ResourceScatterAdd")


class TrainingGraph:
    """A trace in TRAIN mode, split at the gradients.

    Args:
        trace: its spec has a train_op.
        store: has the variables.

    Attributes:
        trained: names of the variables whose gradients the update reads.
        state: names of the variables that `compute` changes, such as moving statistics.
        sums: those of `state` to which something of the batch is added, and integers.
        unsure: others whose new values do not depend on the old ones.
        updated: names of the variables that `update` changes, and of the global step.
        update_types: the number of operations of each type in the update.

    Raises:
        UserError: the graph cannot be split at the gradients.
    """

    def __init__(self, trace: ModelFnTrace, store: VariableStore):
        self._trace, graph = trace, trace.graph
        train_op = _operation(trace.spec.train_op)
        if train_op.name not in graph.nodes or graph.nodes[train_op.name].op != train_op.type:
            raise UserError(
                "EstimatorSpec(train_op=…) was not created in this call of model_fn; create the "
                "optimizer and its train_op inside model_fn."
            )
        tensors = {name for gradient in trace.gradients for name in gradient.tensors}
        split = graph.split(train_op.name, tensors)
        self._gradients = _by_variable(trace.gradients, split.cuts)
        after = graph.left_to_update(tensors, split)
        self.trained = [n for n in dict.fromkeys(trace.names) if n in self._gradients]
        self._loss, self._denominator = trace.spec.loss.name, trace.spec.loss_denominator
        self._regularization = trace.regularization
        self._dense = [n for k in self.trained for n in self._gradients[k].tensors]
        if self._regularization is not None:
            self._dense += [
                t.name
                for t in (self._regularization.loss, *self._regularization.gradients.values())
            ]
        writes = {
            name
            for key, names in graph.written(set(graph.nodes) - after, trace.resources).items()
            if store.is_of_keras(key) and not store.trainable[key] and not _is_metric(trace, key)
            for name in names
        }
        self._compute = sorted({*split.compute, *writes})
        self._numbers = _tensor_names(self._loss, self._denominator)
        roots = {*map(_op, self._numbers), *map(_op, self._dense), *self._compute}
        computed = graph.needed(roots, without=after)
        updating = set(split.update)
        self._compute_part, self._update_part = graph.part(computed), graph.part(updating)
        changed = graph.written(computed, trace.resources)
        self.state = [n for n in dict.fromkeys(trace.names) if n in changed]
        # Without gradients nothing else trains a weight: counting models, k-means, statistics.
        weights = [n for n in self.state if store.trainable[n]]
        if weights and self.trained:
            raise UserError(
                f"model_fn assigns to the weight {weights[0]!r} while it computes a batch; assign "
                "after the update (in train_op), or create it with trainable=False."
            )
        own = [n for n in self.state if not store.is_of_keras(n)]
        self.sums = [
            n for n in own if store.variables[n].dtype.is_integer or self._is_sum(n, changed[n])
        ]
        others = [n for n in own if n not in self.sums]
        self.unsure = [n for n in others if self._is_unsure(n, changed[n])]
        also = graph.written(updating, trace.resources)
        twice = [n for n in self.state if n in also]
        if twice:
            raise UserError(
                f"the variable {twice[0]!r} is assigned both from the batch and by the update; "
                "use one variable for each."
            )
        self.updated = [
            n
            for n in dict.fromkeys(trace.names)
            if not store.trainable[n] and (n in also or n == "global_step")
        ]
        self.update_types = collections.Counter(graph.nodes[n].op for n in updating)
        self._rate = self._learning_rate(updating)

    def _is_sum(self, key: str, writes: list[str]) -> bool:
        """Whether something of a batch is added to a variable: a sum or a count over examples."""
        graph, reads = self._trace.graph, self._reads_of(key)
        of_itself = graph.computed_from(reads)
        for name in writes:
            operation = graph.nodes[name].op
            delta = [_op(t) for t in graph.tensors_read({name}) if _op(t) not in self._places]
            if operation.startswith(_ADDITIONS) and not any(t in of_itself for t in delta):
                return True
            if operation == "AssignVariableOp" and graph.adds(delta, reads, of_itself):
                return True
        return False

    def _is_unsure(self, key: str, writes: list[str]) -> bool:
        """Whether the new value of a variable is not computed from the old one, as a mean's is."""
        graph = self._trace.graph
        of_itself = graph.computed_from(self._reads_of(key))
        new = [
            [_op(t) for t in graph.tensors_read({name}) if _op(t) not in self._places]
            for name in writes
        ]
        return not self.trained or not all(any(t in of_itself for t in each) for each in new)

    @property
    def _places(self) -> set[str]:
        return {_op(tensor) for tensor in self._trace.resources}

    def _reads_of(self, key: str) -> set[str]:
        """The operations that read a variable."""
        graph, resources = self._trace.graph, self._trace.resources
        own = {tensor for tensor, name in resources.items() if name == key}
        return {
            name
            for name, node in graph.nodes.items()
            if node.op == "ReadVariableOp" and own & graph.tensors_read({name})
        }

    def compute(self, flat: list[tf.Tensor], variables: list) -> list[Term]:
        """Computes the loss terms of a micro-batch, with the gradients that model_fn computes.

        Args:
            flat: the tensors of the batch.
            variables: those named in `trained`.
        """
        wanted = [*self._numbers, *self._dense, *self._compute]
        found = dict(zip(wanted, self._trace.run(self._compute_part, flat, wanted), strict=True))
        values = [tf.convert_to_tensor(v) for v in variables]
        loss = tf.cast(tf.reshape(found[self._loss], []), tf.float32)
        gradients: list = [
            _densified(self._gradients[key], found, value)
            for key, value in zip(self.trained, values, strict=True)
        ]
        divided = _value_of(self._denominator, found)
        if divided is not None and not isinstance(divided, int):
            times = lambda g: None if g is None else g * tf.cast(divided, g.dtype)  # noqa: E731
            term = divided_term(loss, divided)
            total = _with_gradients(term.total, [times(g) for g in gradients], values)
            return [term._replace(total=total)]
        kind = program.SCALAR if divided is None else program.UNDIVIDED
        if self._regularization is None:
            return [Term(kind, _with_gradients(loss, gradients, values))]
        penalty = tf.cast(found[self._regularization.loss.name], tf.float32)
        of_penalty = [self._regularization.gradients.get(key) for key in self.trained]
        of_penalty = [g if g is None else found[g.name] for g in of_penalty]
        rest = [g if p is None else g - p for g, p in zip(gradients, of_penalty, strict=True)]
        return [
            Term(kind, _with_gradients(loss - penalty, rest, values)),
            Term(program.ONCE, _with_gradients(penalty, of_penalty, values)),
        ]

    def update(self, gradients: list[tf.Tensor | None]) -> None:
        """Runs train_op with the gradients of the whole global batch."""
        given = {}
        for key, value in zip(self.trained, gradients, strict=True):
            used = self._gradients[key]
            for gradient in [g for g in self._trace.gradients if g.key == key]:
                given |= _replacements(gradient, value, used)
        self._trace.run(self._update_part, [], [], given)

    def learning_rate(self) -> float | None:
        """Returns the current learning rate of the first optimizer, or None if it is unknown."""
        return None if self._rate is None else float(self._rate()[0].numpy())

    def _learning_rate(self, updating: set[str]) -> Callable | None:
        graph = self._trace.graph
        for name in graph.nodes:
            if name not in updating:
                continue
            operation = self._trace.operation(name)
            for i, argument in enumerate(operation.op_def.input_arg):
                if argument.name in _RATES and operation.type.startswith("ResourceApply"):
                    return self._trace.read_outside([operation.inputs[i].name])
        return None


class EvaluationGraph:
    """A trace in EVAL mode.

    Attributes:
        metrics: names of the variables of the metrics.
        kinds: how the contributions of each of these variables combine. They add up if it belongs
            to a metric of Keras or if it is changed by additions only, as in tf.compat.v1.metrics.
    """

    def __init__(self, trace: ModelFnTrace, store: VariableStore):
        self._trace, graph = trace, trace.graph
        self._loss, self._denominator = trace.spec.loss.name, trace.spec.loss_denominator
        self._keras: dict[str, keras.metrics.Metric] = {}
        self._values: dict[str, Any] = {}
        updates, of_batch = [], trace.of_batch
        for name, metric in (trace.spec.eval_metric_ops or {}).items():
            if isinstance(metric, keras.metrics.Metric):
                self._keras[name] = metric
                continue
            value, update = metric
            self._values[name] = tf.nest.map_structure(tf.convert_to_tensor, value)
            for tensor in tf.nest.flatten(value):
                if _op(tensor.name) in of_batch:
                    raise UserError(
                        f"the value of eval_metric_ops[{name!r}] is computed from one batch "
                        f"({tensor.name}); return the (value, update_op) of a tf.compat.v1.metrics "
                        "function, or a Keras metric."
                    )
            updates += [_operation(u).name for u in tf.nest.flatten(update)]
        of_keras = {store.name_of(v) for m in self._keras.values() for v in m.variables}
        written = graph.written(graph.nodes, trace.resources)
        updates += [n for key in of_keras if key in written for n in written[key]]
        self._updates = sorted({*updates, *trace.keras_writes()})
        self._numbers = _tensor_names(self._loss, self._denominator)
        computed = graph.needed({*map(_op, self._numbers), *self._updates})
        self._part = graph.part(computed)
        changed = graph.written(computed, trace.resources)
        self.metrics = [
            n
            for n in dict.fromkeys(trace.names)
            if n in changed and (store.is_local(n) or n in of_keras)
        ]
        for name, metric in self._keras.items():
            if not any(store.name_of(v) in written for v in metric.variables):
                raise UserError(
                    f'Please call update_state(...) on the "{name}" metric before it is returned '
                    "in eval_metric_ops."
                )
        sums = {store.name_of(v) for m in self._keras.values() if is_sum(m) for v in m.variables}
        added = [
            n
            for n in self.metrics
            if n not in of_keras
            and all(graph.nodes[op].op.startswith(_ADDITIONS) for op in changed[n])
        ]
        of_numbers = self._of_numbers({n: changed[n] for n in added})
        self.kinds = [
            BATCH_MEANS if n in of_numbers else PARTS if n in sums or n in added else UNKNOWN_KIND
            for n in self.metrics
        ]
        names = [t.name for t in tf.nest.flatten(self._values)]
        self._read = trace.read_outside(names) if names else list

    def _of_numbers(self, writes: dict[str, list[str]]) -> set[str]:
        """The variables of means that are given one number for a batch, such as its loss."""
        totals = set()
        for key, names in writes.items():
            for name in names:
                delta = self._trace.operation(name).inputs[1]
                if delta.op.type == "Sum" and delta.op.inputs[0].shape.rank == 0:
                    totals.add(key)
        scopes = {key.rpartition("/")[0] for key in totals}
        return {key for key in writes if key.rpartition("/")[0] in scopes}

    def compute(self, flat: list[tf.Tensor]) -> tuple[tf.Tensor, Any]:
        """Computes the loss of a micro-batch, and updates the variables of the metrics.

        Returns:
            The loss, and the spec's loss_denominator.
        """
        wanted = [*self._numbers, *self._updates]
        found = dict(zip(wanted, self._trace.run(self._part, flat, wanted), strict=True))
        return found[self._loss], _value_of(self._denominator, found)

    def results(self) -> dict[str, Any]:
        """Computes the values of the metrics from the current values of their variables."""
        values = tf.nest.pack_sequence_as(self._values, self._read())
        results: dict[str, Any] = {}
        for name in self._trace.spec.eval_metric_ops or {}:
            if name in self._keras:
                results |= keras_result(name, self._keras[name])
            else:
                results[name] = values[name]
        return results


class PredictionGraph:
    """A trace in PREDICT mode."""

    def __init__(self, trace: ModelFnTrace):
        self._trace = trace
        spec = trace.spec
        self._tensors = tf.nest.flatten(spec.predictions)
        for output in (spec.export_outputs or {}).values():
            output.map_tensors(lambda tensor: self._tensors.append(tensor) or tensor)
        self._names = list(dict.fromkeys(t.name for t in self._tensors))
        self._writes = sorted(trace.keras_writes())
        needed = trace.graph.needed([*map(_op, self._names), *self._writes])
        self._part = trace.graph.part(needed)

    def spec(self, flat: list[tf.Tensor]) -> Any:
        """Computes the EstimatorSpec of a batch in the graph that is being traced."""
        wanted = [*self._names, *self._writes]
        found = dict(zip(wanted, self._trace.run(self._part, flat, wanted), strict=True))
        spec = self._trace.spec
        new = lambda tensor: found[tensor.name]  # noqa: E731
        outputs = spec.export_outputs
        return dataclasses.replace(
            spec,
            predictions=tf.nest.map_structure(new, spec.predictions),
            export_outputs=outputs and {k: v.map_tensors(new) for k, v in outputs.items()},
        )


def _with_gradients(loss: tf.Tensor, gradients: list, values: list[tf.Tensor]) -> tf.Tensor:
    """A loss with prescribed gradients with respect to some values. None: no gradient."""
    pairs = [(v, g) for v, g in zip(values, gradients, strict=True) if g is not None]

    @tf.custom_gradient
    def differentiated(*values):
        del values

        def gradient(upstream):
            return [g * tf.cast(upstream, g.dtype) for _, g in pairs]

        return tf.identity(loss), gradient

    return differentiated(*(v for v, _ in pairs))


def _by_variable(gradients: list[Gradient], cuts: set[str]) -> dict[str, Gradient]:
    found: dict[str, Gradient] = {}
    for gradient in gradients:
        if not cuts.intersection(gradient.tensors):
            continue
        before = found.setdefault(gradient.key, gradient)
        if [t.name for t in before.of] != [t.name for t in gradient.of]:
            raise UserError(
                f"train_op uses two gradients of the variable {gradient.key!r}, of "
                f"{before.of[0].name!r} and of {gradient.of[0].name!r}; add the losses up first, "
                "or give each optimizer a var_list of its own."
            )
    return found


def _densified(gradient: Gradient, tensors: dict, variable: tf.Tensor) -> tf.Tensor:
    values, *indices = (tensors[name] for name in gradient.tensors)
    if not indices:
        return values
    return tf.math.unsorted_segment_sum(values, indices[0], tf.shape(variable)[0])


def _replacements(gradient: Gradient, total: tf.Tensor, used: Gradient) -> dict[str, tf.Tensor]:
    """The tensors that replace those of a gradient in the update, by name.

    For tf.IndexedSlices an update does not change the other rows (momentum, Ftrl), so rows whose
    gradient is exactly 0 are left out.
    """
    if gradient.of != used.of:
        return {}
    if len(gradient.tensors) == 1:
        return {gradient.tensors[0]: total}
    rows = tf.reduce_any(tf.reshape(total != 0, [tf.shape(total)[0], -1]), axis=1)
    rows = tf.where(rows)[:, 0]
    values, indices = gradient.value.values, gradient.value.indices
    return {
        values.name: tf.gather(total, rows),
        indices.name: tf.cast(rows, indices.dtype),
    }


def _tensor_names(loss: str, denominator: Any) -> list[str]:
    return [loss, *([denominator.name] if isinstance(denominator, tf.Tensor) else [])]


def _value_of(denominator: Any, found: dict[str, Any]) -> Any:
    return found[denominator.name] if isinstance(denominator, tf.Tensor) else denominator


def _is_metric(trace: ModelFnTrace, key: str) -> bool:
    return key in trace.metric_keys


def _operation(train_op: Any) -> tf.Operation:
    return getattr(train_op, "op", train_op)


def _op(tensor: str) -> str:
    return tensor.rsplit(":", 1)[0]
