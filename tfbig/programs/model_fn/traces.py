"""The traces of a model_fn: one for each mode and shape of a batch, made when it is asked for."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.programs.model_fn.call import call_model_fn, checked
from tfbig.programs.model_fn.graphs import PredictionGraph
from tfbig.programs.model_fn.trace import ModelFnTrace
from tfbig.programs.model_fn.variable_store import STEP, VariableStore
from tfbig.programs.program import Batch


class ModelFnTraces:
    """Traces a model_fn, each mode in graphs of its own, and keeps what was made.

    Args:
        model_fn: returns an EstimatorSpec.
        params, config: handed to model_fn if it asks for them.
        store: of the variables.
        precision: the Keras dtype policy.
    """

    def __init__(
        self, model_fn: Callable, params: Any, config: Any, store: VariableStore, precision: str
    ):
        self._model_fn, self._params, self._config = model_fn, params, config
        self._store, self._precision = store, precision
        # Then each part's loss has all of the regularization, which counts once.
        self._sums = getattr(config, "gradient_aggregation", "mean") == "sum"
        self._traces: dict[tuple, ModelFnTrace] = {}
        self._graphs: dict[int, Any] = {}

    def of(self, mode: str, batch: Batch) -> ModelFnTrace:
        """The trace of a mode for batches of these shapes; made if there is none yet."""
        element = fed(batch)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tf.nest.flatten(element)]
        key = (mode, *((tuple(s.shape.as_list()), s.dtype) for s in specs))
        if key not in self._traces:

            def call(flat):
                features, labels = (*tf.nest.pack_sequence_as(element, flat), None)[:2]
                given = batch._replace(features=features, labels=labels)
                spec = call_model_fn(self._model_fn, given, mode, self._params, self._config)
                return checked(spec, mode).as_tensors()

            known = STEP in self._store.variables
            traced = ModelFnTrace(call, specs, self._store, mode, self._precision, apart=self._sums)
            if not (known or traced.used(STEP) or traced.spec.train_op is not None):
                self._store.forget(STEP)
            self._traces[key] = traced
        return self._traces[key]

    def graph(self, kind: type, traced: ModelFnTrace) -> Any:
        """What the loop needs of a trace: a TrainingGraph, EvaluationGraph or PredictionGraph."""
        if id(traced) not in self._graphs:
            arguments: tuple = (traced,)
            if kind is not PredictionGraph:
                arguments += (self._store,)
            self._graphs[id(traced)] = kind(*arguments)
        return self._graphs[id(traced)]

    @property
    def tables(self) -> list:
        """The lookup tables that the traces have made."""
        return [table for traced in self._traces.values() for table in traced.tables]

    @property
    def synchronized(self) -> bool:
        """Whether a layer asks for statistics over all replicas."""
        return any(traced.synchronized for traced in self._traces.values())


def fed(batch: Batch) -> tuple:
    """What of a batch a model_fn is given."""
    return (batch.features,) if batch.labels is None else (batch.features, batch.labels)
