"""Tensors of an estimator-style model_fn, computed on a batch without training on it."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.data.feed import Feed, Stack
from tfbig.errors import UserError
from tfbig.layers.place import placed
from tfbig.placement.placement import Placement
from tfbig.programs.program import Batch, Program, split_element
from tfbig.programs.spec import ModeKeys
from tfbig.programs.watched import Watched


class Look:
    """Computes what hooks fetch, as the step that comes next will compute it.

    The step itself is many steps in one compiled loop, which gives nothing but the loss. So
    model_fn is traced once more for a set of fetches and run on the next batch with the present
    weights and random state; what it changes is put back. Every replica works on the whole batch.

    Args:
        program, placement, feed: as in training.
        watched: its model_fn; None: there is none to look into.
        mode: of ModeKeys.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        feed: Feed,
        watched: Watched | None,
        mode: str = ModeKeys.TRAIN,
    ):
        self._program, self._placement, self._feed = program, placement, feed
        self._watched, self._mode = watched, mode
        self._functions: dict[tuple, Callable] = {}
        self._kept: list[Any] = []  # fetches, whose ids are keys

    def at(self, stack: Stack, place: int, step: int) -> Callable[[Any], Any]:
        """Returns `look(fetches)` for one batch of a stack.

        Args:
            stack: has the batch.
            place: which one.
            step: the number of finished updates.
        """

        def look(fetches: Any) -> Any:
            flat = keras.tree.flatten(fetches)
            values = self._values(flat, stack, place, step) if flat else []
            return keras.tree.pack_sequence_as(fetches, values)

        return look

    def _values(self, flat: list, stack: Stack, place: int, step: int) -> list[np.ndarray]:
        if self._watched is None:
            raise UserError(
                "a hook fetches tensors, but the model is a keras.Model, whose callbacks are told "
                "the loss and the metrics; hooks with tensors need an estimator-style model_fn."
            )
        count = int(stack.counts[place])
        batch = tf.nest.map_structure(lambda a: a[place][:count], stack.values)
        if self._mode == ModeKeys.PREDICT:
            batch = split_element(batch)[0]
        key = tuple(fetch if isinstance(fetch, str) else id(fetch) for fetch in flat)
        if key not in self._functions:
            self._kept += flat
            self._functions[key] = self._traced(flat, batch)
        first = int(stack.offsets[place])
        arguments = (tf.constant(count), tf.constant(first), tf.constant(step, tf.int64))
        values = self._functions[key](*tf.nest.flatten(batch), *arguments)
        return [value.numpy() for value in values]

    def _traced(self, flat: list, batch: Any) -> Callable:
        program = self._program
        structure = tf.nest.map_structure(lambda t: None, batch)

        def inside(tensors, count, first, step):
            element = tf.nest.pack_sequence_as(structure, tensors)
            before = program.read()
            with placed(step, first, count):
                self._run(element, count, first, before)
            found = [tf.identity(self._find(fetch, step)) for fetch in flat]
            variables = [*program.state, *program.metric_variables]
            for variable, value in zip(variables, [*before.state, *before.metrics], strict=True):
                variable.assign(value)
            return found

        def looked(*arguments):
            *tensors, count, first, step = arguments
            program.select(self._mode == ModeKeys.TRAIN)
            with program.tracing():
                return self._placement.run(inside, (list(tensors), count, first, step))

        specs = [
            tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype)
            for tensor in tf.nest.flatten(batch)
        ]
        scalar = tf.TensorSpec([], tf.int32)
        signature = (*specs, scalar, scalar, tf.TensorSpec([], tf.int64))
        function = tf.function(looked, input_signature=signature, autograph=False)
        concrete = function.get_concrete_function()
        if self._placement.peers.count > 1:
            self._refuse_collectives(concrete)
        return concrete

    def _run(self, element: Any, count, first, before) -> None:
        if self._mode == ModeKeys.PREDICT:
            self._program.predict(element)
            return
        batch = Batch(*split_element(element), None, tf.cast(count, tf.float32), first)
        self._program.forward(before, batch, self._mode == ModeKeys.TRAIN)

    def _find(self, fetch: Any, step: tf.Tensor) -> tf.Tensor:
        """The tensor of the present trace that a fetch means."""
        spec = self._watched.spec
        if isinstance(fetch, str):
            return _by_name(fetch, spec, step)
        if callable(fetch) and not tf.is_tensor(fetch):
            return tf.convert_to_tensor(fetch(spec))
        origin = self._watched.first.get(self._mode)
        for path, tensor in _parts(origin):
            if tensor is fetch:
                return dict(_parts(spec))[path]
        return _of_other_trace(fetch, spec, step)

    def _refuse_collectives(self, concrete: Any) -> None:
        graph = concrete.graph.as_graph_def()
        nodes = itertools.chain(graph.node, *(f.node_def for f in graph.library.function))
        if any(node.op.startswith("Collective") for node in nodes):
            raise UserError(
                "a hook fetches tensors of a model_fn that works across the workers (synchronized "
                "BatchNormalization), and hooks run on the chief alone; fetch nothing there, or "
                "train in one process."
            )


def _parts(spec: Any) -> list[tuple[str, Any]]:
    """The tensors that a spec shows, by a name."""
    found = [("loss", spec.loss)] if spec is not None and spec.loss is not None else []
    for field in ("predictions", "eval_metric_ops"):
        for path, leaf in keras.tree.flatten_with_path(getattr(spec, field, None) or {}):
            found.append(("/".join(map(str, (field, *path))), leaf))
    return found


def _by_name(name: str, spec: Any, step: tf.Tensor) -> tf.Tensor:
    operation, _, output = name.partition(":")
    graph = tf.compat.v1.get_default_graph()
    operations = graph.get_operations()
    exact = [o for o in operations if o.name == operation]
    inner = [o for o in operations if o.name.endswith(f"/{operation}")]
    for found in (exact, inner):
        if len(found) == 1 and len(found[0].outputs) > int(output or 0):
            return found[0].outputs[int(output or 0)]
    if operation == "global_step":
        return step
    parts = dict(_parts(spec))
    for path in (operation, f"predictions/{operation}"):
        if path in parts:
            return tf.convert_to_tensor(parts[path])
    many = f"{len(inner)} operations end in it" if len(inner) > 1 else "there is none"
    raise UserError(
        f"a hook fetches {name!r}, and {many}. There are global_step, {', '.join(parts)}, and what "
        f'model_fn gives a name of its own, as tf.identity(x, name="{operation}").'
    )


def _of_other_trace(fetch: Any, spec: Any, step: tf.Tensor) -> tf.Tensor:
    """The twin of a tensor or variable of an earlier trace, by its name."""
    if isinstance(fetch, tf.Variable):
        return step if fetch.name.startswith("global_step") else tf.convert_to_tensor(fetch)
    name = getattr(fetch, "name", None)
    if not tf.is_tensor(fetch) or not name:
        raise UserError(
            f"a hook fetches {fetch!r}; it can fetch tensors of the spec, such as its loss, and "
            "names of tensors."
        )
    if name.startswith("global_step"):
        return step
    try:
        twin = tf.compat.v1.get_default_graph().get_tensor_by_name(name)
    except KeyError:
        twin = None
    if twin is None or (twin.op.type, twin.dtype) != (fetch.op.type, fetch.dtype):
        raise UserError(
            f"a hook fetches the tensor {name!r}, which is none of the spec's and is not found "
            'again by its name; give it one of its own in model_fn, as tf.identity(x, name="mine"),'
            ' and fetch "mine".'
        )
    return twin
