"""A cache of the traces of a model_fn, by mode and batch shape."""

import logging
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.programs.model_fn.call import call_model_fn, check_result
from tfbig.programs.model_fn.graphs import PredictionGraph, TrainingGraph
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.programs.model_fn.trace import ModelFnTrace
from tfbig.programs.model_fn.variable_store import STEP, VariableStore
from tfbig.programs.program import BatchPart

log = logging.getLogger("tfbig")


class ModelFnTraceCache:
    """Traces a model_fn once per mode and batch shape, each in a separate graph.

    Args:
        model_fn: returns an EstimatorSpec.
        params, config: passed to model_fn if it has arguments of these names.
        store: has the variables.
        precision: the Keras dtype policy.
    """

    def __init__(
        self, model_fn: Callable, params: Any, config: Any, store: VariableStore, precision: str
    ):
        self._model_fn, self._params, self._config = model_fn, params, config
        self._store, self._precision = store, precision
        # With sums, the loss of each micro-batch contains all of the regularization.
        self._sums = getattr(config, "gradient_aggregation", "mean") == "sum"
        self._needs_static = False
        self._traces: dict[tuple, ModelFnTrace] = {}
        self._graphs: dict[int, Any] = {}

    def get(self, mode: str, batch: BatchPart) -> ModelFnTrace:
        """Returns the trace of a mode for batches of these shapes. Traces if there is none."""
        element = model_fn_inputs(batch)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in tf.nest.flatten(element)]
        if mode == ModeKeys.TRAIN and not self._needs_static:
            # Otherwise the size of a batch is a constant, which has no place in `compute`.
            free = [tf.TensorSpec([None, *s.shape[1:]], s.dtype) for s in specs]
            try:
                return self._get(mode, batch, element, free)
            except (TypeError, ValueError):
                if any(s.shape[0] is None for s in specs):
                    raise
                self._needs_static = True
                found = self._get(mode, batch, element, specs)  # raises if that is not the reason
                (log.warning if self._is_cut else log.info)(
                    "model_fn needs the size of a batch when it is traced (x.shape[0])%s; "
                    "tf.shape(x)[0] is right for batches of any size",
                    ", and gets that of a part of a batch" if self._is_cut else "",
                )
                return found
        return self._get(mode, batch, element, specs)

    def _get(self, mode: str, batch: BatchPart, element: Any, specs: list) -> ModelFnTrace:
        key = (mode, *((tuple(s.shape.as_list()), s.dtype) for s in specs))
        if key not in self._traces:

            def call(flat):
                features, labels = (*tf.nest.pack_sequence_as(element, flat), None)[:2]
                given = batch._replace(features=features, labels=labels)
                spec = call_model_fn(self._model_fn, given, mode, self._params, self._config)
                return check_result(spec, mode).as_tensors()

            known = STEP in self._store.variables
            traced = ModelFnTrace(
                call, specs, self._store, mode, self._precision, find_regularization=self._sums
            )
            if not (known or traced.used(STEP) or traced.spec.train_op is not None):
                self._store.forget(STEP)
            if mode == ModeKeys.TRAIN and traced.spec.train_op is not None:
                self.graph(TrainingGraph, traced)  # raises if it cannot be split
            self._traces[key] = traced
        return self._traces[key]

    def graph(self, kind: type, traced: ModelFnTrace) -> Any:
        """Returns the TrainingGraph, EvaluationGraph or PredictionGraph of a trace, cached."""
        if id(traced) not in self._graphs:
            arguments: tuple = (traced,)
            if kind is not PredictionGraph:
                arguments += (self._store,)
            self._graphs[id(traced)] = kind(*arguments)
        return self._graphs[id(traced)]

    @property
    def _is_cut(self) -> bool:
        """Whether a global batch is worked through in more than one part."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return replicas * getattr(self._config, "accumulation_steps", 1) > 1

    @property
    def tables(self) -> list:
        """The lookup tables of all traces."""
        return [table for traced in self._traces.values() for table in traced.tables]

    @property
    def synchronized(self) -> bool:
        """Whether a layer requests statistics over all replicas."""
        return any(traced.synchronized for traced in self._traces.values())


def model_fn_inputs(batch: BatchPart) -> tuple:
    """The parts of a batch that a model_fn receives: (features,) or (features, labels)."""
    return (batch.features,) if batch.labels is None else (batch.features, batch.labels)
