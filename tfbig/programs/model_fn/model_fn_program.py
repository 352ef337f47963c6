"""Estimator-style model_fns, with Keras objects or TensorFlow 1 code, as programs."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.programs import program
from tfbig.programs.keras.checks import explain_numbers
from tfbig.programs.metric_aggregation import PARTS, UNKNOWN_KIND, is_sum
from tfbig.programs.model_fn import keras_parts
from tfbig.programs.model_fn.call import call_model_fn, check_result, loss_term, split_terms
from tfbig.programs.model_fn.failed_check import failed_check
from tfbig.programs.model_fn.graphs import EvaluationGraph, PredictionGraph, TrainingGraph
from tfbig.programs.model_fn.spec import (
    EstimatorSpec,
    ModeKeys,
    check_metric_names,
    keras_metrics,
)
from tfbig.programs.model_fn.trace import CONVOLUTIONS, CheckpointInitializer, ModelFnTrace
from tfbig.programs.model_fn.trace_cache import ModelFnTraceCache, model_fn_inputs
from tfbig.programs.model_fn.train_op import CallbackModel, TrainOpOptimizer, check_train_op
from tfbig.programs.model_fn.variable_store import STEP, VariableStore, shown_name
from tfbig.programs.program import BatchPart, Forward, Program, Term, Values
from tfbig.programs.updates import table_of
from tfbig.programs.vector_metrics import numbers_of, to_scalars


class ModelFnProgram(Program):
    """A model_fn(features, labels, mode, …), which is called again in each trace and mode.

    Its layers find their variables by name in a VariableStore. It changes variables when it runs.

    Each mode is first traced in a separate graph. With a Keras optimizer, a step calls model_fn
    itself. With a train_op, a step runs the two halves of that graph, split at the gradients.
    Evaluations with TensorFlow 1 variables or metrics run their graph, too.

    Args:
        model_fn: returns an EstimatorSpec.
        params, config: passed to model_fn if it has arguments of these names.
        scope: returns the scope of the placement, in which variables are created.
        precision: the Keras dtype policy of its layers.

    Attributes:
        metric_values: what `metric_results` computed last: floats, arrays, bytes, or nested ones.
    """

    pure = False
    saves_by_name = True

    def __init__(self, model_fn: Callable, params: Any, config: Any, scope, precision: str):
        self._model_fn, self._params, self._config = model_fn, params, config
        self._precision, self._scope = precision, scope
        self._store = VariableStore(scope)
        self._traces = ModelFnTraceCache(model_fn, params, config, self._store, precision)
        self._metrics: dict[str, keras.metrics.Metric] = {}
        self._metric_keys: list[str] = []
        self._kinds: list[str] = []
        self._training: TrainingGraph | None = None  # None: a Keras optimizer trains
        self._evaluation: EvaluationGraph | None = None
        self._initials: list[CheckpointInitializer] = []
        self._start: dict[str, Any] = {}
        self._trained_here = self._in_evaluation = False
        self.metric_values: dict[str, Any] = {}
        self.optimizer = None
        self.trainable, self.state, self.metric_variables = [], [], []
        self._trainable_keys, self._frozen_keys, self._state_keys = [], [], []
        self._optimizer_keys: list[str] = []

    def build(self, spec: Any, run) -> None:
        """Traces model_fn once in TRAIN mode, which creates its variables."""
        self._build_mode(spec, run, ModeKeys.TRAIN)

    def build_evaluation(self, spec: Any, run) -> None:
        """Traces model_fn once in EVAL mode, which may create metrics."""
        self._build_mode(spec, run, ModeKeys.EVAL)

    def build_prediction(self, spec: Any, run) -> None:
        """Traces model_fn once in PREDICT mode."""
        self._build_mode(spec, run, ModeKeys.PREDICT)

    def _build_mode(self, spec, run, mode):
        """Traces a mode separately, and, for a Keras optimizer, again as part of a step."""
        types: set[str] = set()
        self._store.closed, self._store.weights = False, self.updates.weights
        known = set(self._store.variables) if self._trained_here else None

        def trace(*flat):
            batch = self._batch_of(spec, flat, mode)
            traced = self._traces.get(mode, batch)
            self._store.closed = True
            if known is not None:
                traced.check_no_new_variables(known)
            types.update(traced.op_types)
            if mode == ModeKeys.TRAIN:
                self._build_training(traced, batch)
            elif mode == ModeKeys.EVAL:
                self._build_evaluation(traced, batch)
            else:
                self._traces.graph(PredictionGraph, traced)
                self._sort_untrained(traced)
            return tf.zeros([])

        types |= run(trace, tf.nest.flatten(spec))
        self._store.closed = True
        if mode == ModeKeys.TRAIN:
            with self._scope():
                for key, checkpoint, tensor in self._initials:
                    self._store.variables[key].assign(tf.train.load_variable(checkpoint, tensor))
        elif self._evaluation is not None and mode == ModeKeys.EVAL:
            keys = self._evaluation.metrics
            self._start = {k: self._store.copy_of(k).numpy() for k in keys}
        self._trained_here = self._trained_here or mode == ModeKeys.TRAIN
        if mode != ModeKeys.PREDICT:
            self.has_convolutions = bool(types & CONVOLUTIONS)

    def _batch_of(self, spec, flat, mode) -> BatchPart:
        element = tf.nest.pack_sequence_as(spec, flat)
        if mode == ModeKeys.PREDICT:
            return BatchPart(element, None, None, None, tf.constant(1.0))
        return BatchPart(*program.split_element(element), None, tf.constant(1.0))

    def _build_training(self, traced: ModelFnTrace, batch: BatchPart) -> None:
        self.summaries = traced.summaries
        if traced.spec.train_op is None:
            self._initials = traced.initials
            self._build_keras_training(batch)
            return
        check_train_op(traced, self._store, self.updates, self._precision)
        graph = self._training = self._traces.graph(TrainingGraph, traced)
        self.optimizer = TrainOpOptimizer(graph)
        self._trainable_keys, self._state_keys = graph.trained, graph.state
        self._optimizer_keys = graph.updated
        self.summed_state, self.averaged_state = graph.sums, graph.unsure
        others = {*graph.trained, *graph.state, *graph.updated, *traced.metric_keys}
        names = [n for n in dict.fromkeys(traced.names) if not self._store.is_local(n)]
        self._frozen_keys = [n for n in names if n not in others]
        self._set_variables()
        self._initials = traced.initials

    def _build_keras_training(self, batch: BatchPart) -> None:
        spec, names = self._call(batch, ModeKeys.TRAIN)
        store = self._store
        store.closed = False  # for the variables of the optimizer
        with store.continued():
            weights = [n for n in dict.fromkeys(names) if self._is_trained(n)]
            self.updates.build(spec.optimizer, [store.variables[n] for n in weights])
        store.closed = True
        keras_parts.warn_of_averages(getattr(spec.optimizer, "inner_optimizer", spec.optimizer))
        metric_keys = [store.name_of(v) for m in keras_metrics(spec) for v in m.variables]
        optimizer_keys = {store.name_of(v) for v in spec.optimizer.variables}
        self._optimizer_keys = [n for n in store.variables if n in optimizer_keys or n == STEP]
        model_keys = [
            n
            for n in dict.fromkeys(names)
            if n not in self._optimizer_keys and n not in metric_keys
        ]
        self._trainable_keys = [n for n in model_keys if self._is_trained(n)]
        self._frozen_keys = [n for n in model_keys if store.is_frozen(n)]
        self._state_keys = [n for n in model_keys if not store.trainable[n]]
        self._set_variables()

    def _build_evaluation(self, traced: ModelFnTrace, batch: BatchPart) -> None:
        store = self._store
        check_metric_names(traced.spec)
        self._metrics = dict(traced.spec.eval_metric_ops or {})
        if self._training is not None or not traced.uses_only_keras:
            graph = self._evaluation = self._traces.graph(EvaluationGraph, traced)
            self._metric_keys, self._kinds = graph.metrics, graph.kinds
        else:
            spec, _ = self._call(batch, ModeKeys.EVAL)
            self._metrics = dict(spec.eval_metric_ops or {})
            metrics = self._metrics.values()
            self._metric_keys = [store.name_of(v) for m in metrics for v in m.variables]
            kind_of = lambda metric: PARTS if is_sum(metric) else UNKNOWN_KIND  # noqa: E731
            self._kinds = [kind_of(m) for m in metrics for _ in m.variables]
        self._sort_untrained(traced)

    def _sort_untrained(self, traced: ModelFnTrace) -> None:
        """Groups the variables of a model that this run only evaluates or predicts with."""
        if self._trained_here:
            return
        others = {*traced.metric_keys, *self._metric_keys, *self._frozen_keys}
        self._frozen_keys += [
            n
            for n in dict.fromkeys(traced.names)
            if n in self._store.variables and n not in others and not self._store.is_local(n)
        ]

    def _set_variables(self) -> None:
        self.trainable = [self._store.variables[n] for n in self._trainable_keys]
        self.state = [self._store.variables[n] for n in self._state_keys]

    def _call(self, batch: BatchPart, mode: str) -> tuple[EstimatorSpec, list[str]]:
        with (
            keras_parts.dtype_policy(self._precision),
            self._store.scope() as names,
            _private_api.without_summaries(),
        ):
            spec = call_model_fn(self._model_fn, batch, mode, self._params, self._config)
        spec = check_result(spec, mode)
        if mode == ModeKeys.TRAIN:
            if self._precision == "mixed_float16":
                keras_parts.scale_loss(spec, self._store)
            self.optimizer = spec.optimizer
        return spec, names

    def _is_trained(self, key: str) -> bool:
        return self._store.trainable[key] and not self._store.is_frozen(key)

    def select_mode(self, training: bool) -> None:
        """Sets `metric_variables` to those of one mode, before its step is traced."""
        self._in_evaluation = not training
        keys = [] if training else self._metric_keys
        self.metric_variables = [self._store.variables[k] for k in keys]
        self.metric_kinds = self._kinds[: len(keys)]

    @override
    def describe_metrics(self, *kinds: str) -> str:
        named = zip(self._metric_keys, self.metric_kinds, strict=True)
        return ", ".join(shown_name(key) for key, kind in named if kind in kinds)

    def forward(self, values: Values, batch: BatchPart, training: bool) -> Forward:
        """Runs model_fn: sets its variables to `values` before, and reads them afterwards."""
        for variable, value in zip(
            [*self.state, *self.metric_variables], [*values.state, *values.metrics], strict=True
        ):
            if value is not variable:  # a frozen table is represented by its variable
                variable.assign(value)
        with self._store.reading(self.trainable, values.trainable, training):
            terms = self._terms(batch, training)
        after = self.read()
        return Forward(terms, after.state, after.metrics)

    def _terms(self, batch: BatchPart, training: bool) -> list[Term]:
        mode = ModeKeys.TRAIN if training else ModeKeys.EVAL
        by_graph = self._training if training else self._evaluation
        if by_graph is None:
            spec = self._call(batch, mode)[0]
            terms = [loss_term(spec.loss, batch.features, spec.loss_denominator)]
            return split_terms(terms, batch) if spec.is_summed and training else terms
        traced, flat = self._traces.get(mode, batch), tf.nest.flatten(model_fn_inputs(batch))
        if training:
            return self._traces.graph(TrainingGraph, traced).compute(flat, self.trainable)
        loss, denominator = self._traces.graph(EvaluationGraph, traced).compute(flat)
        return [loss_term(loss, batch.features, denominator)]

    @override
    def apply(self, gradients: list) -> None:
        step = self._store.variables.get(STEP)
        before = None if step is None else tf.convert_to_tensor(step)
        counted = self._training is not None and STEP in self._training.updated
        if self._training is not None:
            self._training.update(gradients)
        else:
            _private_api.disable_all_reduce(self.optimizer)  # created in this trace only
            with self._store.continued():
                if not self.optimizer.built:  # apply itself would choose other names
                    self.updates.build(self.optimizer, self.trainable)
                _private_api.enable_row_wise_updates(self.optimizer, table_of)
                super().apply(gradients)
        if step is None:
            return
        if not self.updates.concurrent:
            step.assign(before + 1)  # counts updates, whatever model_fn does to it
        elif not counted:
            step.assign_add(1)  # keeps concurrent updates; the chief sets the exact value

    def fetch_tensors(
        self, batch: BatchPart, mode: str, find: Callable[[ModelFnTrace], list[str]]
    ) -> dict[str, tf.Tensor]:
        """Computes tensors of a mode's graph on a batch, and runs nothing else.

        Variables that the computation changes are restored, except local variables of metrics.

        Args:
            batch: of the current replica.
            mode: a ModeKeys value.
            find: returns the names of the tensors in a trace.

        Returns:
            The tensors by name.
        """
        traced = self._traces.get(mode, batch)
        return traced.fetch(tf.nest.flatten(model_fn_inputs(batch)), find(traced))

    def prediction_spec(self, features: Any) -> EstimatorSpec:
        """Computes the EstimatorSpec of PREDICT mode in the graph that is being traced."""
        batch = BatchPart(features, None, None, None, tf.constant(1.0))
        traced = self._traces.get(ModeKeys.PREDICT, batch)
        return self._traces.graph(PredictionGraph, traced).spec(
            tf.nest.flatten(model_fn_inputs(batch))
        )

    def predict(self, features: Any) -> Any:
        """Computes the predictions for a batch."""
        return self.prediction_spec(features).predictions

    def compute_graph_tensors(
        self,
        mode: str,
        batch: BatchPart,
        find: Callable[[EstimatorSpec, tf.Graph], list[tf.Tensor]],
    ) -> list[tf.Tensor]:
        """Computes tensors of a mode's graph on a batch, without side effects.

        Args:
            mode: a ModeKeys value that has been built.
            batch: in the graph that is being traced.
            find: returns tensors of the mode's graph, from its spec and the graph.

        Returns:
            The corresponding tensors in the graph that is being traced.
        """
        traced = self._traces.get(mode, batch)
        return traced.twins(
            tf.nest.flatten(model_fn_inputs(batch)), find(traced.spec, traced.tf_graph)
        )

    @property
    def tables(self) -> list:
        """The lookup tables that traces of model_fn have created. An export contains them."""
        return self._traces.tables

    @override
    def learning_rate(self) -> float | None:
        if self._training is not None:
            return self._training.learning_rate()
        return super().learning_rate()

    @override
    def optimizer_config(self) -> Any:
        if self._training is not None:
            return dict(sorted(self._training.update_types.items()))
        return super().optimizer_config()

    @property
    @override
    def synchronizes(self) -> bool:
        return self._traces.synchronized

    @override
    def set_step_count(self, step: int) -> None:
        variable = self._store.variables.get(STEP)
        if variable is not None:
            variable.assign(step)

    @override
    def callback_model(self) -> Any:
        return CallbackModel(self)

    @override
    def named_variables(self) -> dict[str, tf.Variable]:
        variables, slots = self._store.variables, self.updates.slots()
        state = [n for n in self._state_keys if not self._store.is_local(n)]
        model = [*self._trainable_keys, *self._frozen_keys, *state]
        return {
            **{f"model/{name}": variables[name] for name in model},
            **{f"optimizer/{name}": variables[name] for name in self._optimizer_keys},
            **{f"optimizer/{name}": slot for name, slot in slots.items()},
        }

    @property
    def weight_names(self) -> set[str]:
        """The names of the variables in TF1's TRAINABLE_VARIABLES, whether or not they train."""
        return {name for name in self._store.variables if self._is_trained(name)}

    @override
    def metric_results(self, loss: float | None = None) -> dict[str, float]:
        results: dict[str, Any] = {}
        if self._evaluation is not None and self._in_evaluation:
            results = self._evaluation.results()
        elif self.metric_variables:
            for name, metric in self._metrics.items():
                results |= keras_parts.keras_result(name, metric)
        self.metric_values = {
            name: keras_parts.plain_value(value) for name, value in results.items()
        }
        return to_scalars(numbers_of(self.metric_values))

    @override
    def reset_metrics(self) -> None:
        if self._evaluation is not None:
            for key in self._metric_keys:
                self._store.variables[key].assign(self._start[key])
        elif self.metric_variables:
            for metric in self._metrics.values():
                metric.reset_state()

    @override
    def explain_batch(self, features: Any, labels: Any) -> str | None:
        found = explain_numbers("features", features) or explain_numbers("labels", labels)
        mode = ModeKeys.TRAIN if self._trained_here else ModeKeys.EVAL
        if found or self.updates.gathers:  # one replica alone cannot gather the weights
            return found
        return failed_check(self.fetch_tensors, mode, features, labels)
