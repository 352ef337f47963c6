"""Tensors of an estimator-style model_fn, computed on a batch without training on it."""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.data.feeds.index_feed import BatchIndex
from tfbig.errors import NotBuiltError, UserError
from tfbig.layers.batch_position import batch_position_scope
from tfbig.placement.placement import Placement
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.programs.model_fn.trace import ModelFnTrace
from tfbig.programs.program import BatchPart, Program, split_element


class TensorFetcher:
    """Computes the tensors that hooks fetch, as the next step will compute them.

    Steps run in one compiled loop, which returns the loss only. So model_fn is traced once more for
    a set of fetches, and runs on the next batch with the present weights and random state. What it
    changes is restored. Every replica computes the whole batch.

    Args:
        program, placement, feed: as in training.
        watched: its model_fn; None if there is none.
        mode: of ModeKeys.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        feed: Feed,
        watched: ModelFnRecorder | None,
        mode: str = ModeKeys.TRAIN,
    ):
        self._program, self._placement, self._feed = program, placement, feed
        self._watched, self._mode = watched, mode
        self._functions: dict[tuple, Callable] = {}
        self._kept: list[Any] = []  # fetches, whose ids are keys

    def at(self, stack: Stack, place: int, step: int) -> Callable[[Any], Any]:
        """Returns `fetch(fetches)` for one batch of a stack.

        Args:
            stack: has the batch.
            place: which one.
            step: the number of finished updates.
        """

        def fetch(fetches: Any) -> Any:
            flat = keras.tree.flatten(fetches)
            values = self._values(flat, stack, place, step) if flat else []
            return keras.tree.pack_sequence_as(fetches, values)

        return fetch

    def _values(self, flat: list, stack: Stack, place: int, step: int) -> list[np.ndarray]:
        if self._watched is None:
            raise UserError(
                "a hook fetches tensors, but the model is a keras.Model, whose callbacks get "
                "the loss and the metrics; hooks with tensors need an estimator-style model_fn."
            )
        if isinstance(stack.values, BatchIndex):
            batch, first = self._feed.examples(stack, place), 0
            if batch is None:
                raise NotBuiltError(
                    "hooks that fetch tensors are not built yet for a Dataset under "
                    'strategy="parameter_server", whose batches the chief does not read; return '
                    "a tfbig.data.Source from input_fn."
                )
            batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
            count = int(tf.nest.flatten(batch)[0].shape[0])
        else:
            count, first = int(stack.counts[place]), int(stack.offsets[place])
            batch = tf.nest.map_structure(lambda a: a[place][:count], stack.values)
        if self._mode == ModeKeys.PREDICT:
            batch = split_element(batch)[0]
        key = (count, *(fetch if isinstance(fetch, str) else id(fetch) for fetch in flat))
        if key not in self._functions:
            self._kept += flat
            self._functions[key] = self._traced(flat, batch)
        arguments = (tf.constant(first), tf.constant(step, tf.int64))
        values = self._functions[key](*tf.nest.flatten(batch), *arguments)
        return [value.numpy() for value in values]

    def _traced(self, flat: list, batch: Any) -> Callable:
        program = self._program
        structure = tf.nest.map_structure(lambda t: None, batch)

        def inside(tensors, first, step):
            element = tf.nest.pack_sequence_as(structure, tensors)
            with batch_position_scope(step, first, tf.shape(tensors[0])[0]):
                return self._found(flat, element, step)

        def fetched(*arguments):
            *tensors, first, step = arguments
            with program.tracing():
                return self._placement.run(inside, (list(tensors), first, step))

        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tf.nest.flatten(batch)]
        signature = (*specs, tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int64))
        function = tf.function(fetched, input_signature=signature, autograph=False)
        concrete = function.get_concrete_function()
        if self._placement.peers.count > 1:
            self._refuse_collectives(concrete)
        return concrete

    def _found(self, flat: list, element: Any, step: tf.Tensor) -> list[tf.Tensor]:
        """The tensors that fetches mean, computed on a batch in the present replica."""
        if self._mode == ModeKeys.PREDICT:
            batch = BatchPart(element, None, None, None, tf.constant(1.0))
        else:
            batch = BatchPart(*split_element(element), None, tf.constant(1.0))
        wanted: list[str | None] = []

        def names(traced: ModelFnTrace) -> list[str]:
            wanted.extend(self._name(fetch, traced) for fetch in flat)
            return list(dict.fromkeys(name for name in wanted if name is not None))

        tensors = self._program.fetch_tensors(batch, self._mode, names)  # type: ignore[attr-defined]
        return [tf.identity(step if name is None else tensors[name]) for name in wanted]

    def _name(self, fetch: Any, traced: ModelFnTrace) -> str | None:
        """The name in a trace's graph of what a fetch means; None: the global step."""
        if isinstance(fetch, str):
            return _by_name(fetch, traced)
        for path, tensor in _parts(self._watched.first.get(self._mode)):
            if tensor is fetch:
                return dict(_parts(traced.spec))[path].name
        name = getattr(fetch, "name", None)
        if not isinstance(fetch, (tf.Tensor, tf.Variable)) or not name:
            raise UserError(
                f"a hook fetches {fetch!r}; it can fetch tensors of the spec, such as its loss, "
                "and names of tensors."
            )
        if name.startswith("global_step"):
            return None
        node = traced.graph.nodes.get(name.rsplit(":", 1)[0])
        if isinstance(fetch, tf.Variable) or node is None or node.op != fetch.op.type:
            raise UserError(
                f"a hook fetches {name!r}, which is none of the spec's tensors and is not found by "
                'its name; give it one in model_fn, as tf.identity(x, name="mine"), and fetch '
                '"mine".'
            )
        return name

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
    for path, leaf in keras.tree.flatten_with_path(getattr(spec, "predictions", None)):
        if isinstance(leaf, tf.Tensor):
            found.append(("/".join(map(str, ("predictions", *path))), leaf))
    for name, metric in (getattr(spec, "eval_metric_ops", None) or {}).items():
        if isinstance(metric, tuple):
            kinds = zip(("value", "update"), metric, strict=True)
            found += [(f"{name}/{k}", t) for k, t in kinds if isinstance(t, tf.Tensor)]
    return found


def _by_name(name: str, traced: ModelFnTrace) -> str | None:
    operation, _, output = name.partition(":")
    nodes = traced.graph.nodes
    inner = [node for node in nodes if node.endswith(f"/{operation}")]
    parts = {path: tensor.name for path, tensor in _parts(traced.spec)}
    if operation == "global_step":
        return None
    if operation in nodes or len(inner) == 1:
        found = operation if operation in nodes else inner[0]
        if traced.operation(found).outputs:
            return f"{found}:{output or 0}"
    for path in (operation, f"predictions/{operation}"):
        if path in parts:
            return parts[path]
    many = f"{len(inner)} operations end in it" if len(inner) > 1 else "there is none"
    raise UserError(
        f"a hook fetches {name!r}, and {many}. There are global_step, {', '.join(parts)}, and what "
        f'model_fn gives a name of its own, as tf.identity(x, name="{operation}").'
    )
