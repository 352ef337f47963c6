"""Estimator-style model_fns, of Keras objects or of TensorFlow 1 code, as programs."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras.checks import explain_numbers
from tfbig.programs.metric_sums import PARTS, UNSEEN, is_sum
from tfbig.programs.model_fn.call import call_model_fn, checked, is_estimator_style
from tfbig.programs.model_fn.graphs import EvaluationGraph, PredictionGraph, TrainingGraph
from tfbig.programs.model_fn.loss import loss_term
from tfbig.programs.model_fn.model_stand_in import ModelStandIn
from tfbig.programs.model_fn.spec import EstimatorSpec, ModeKeys, keras_metrics
from tfbig.programs.model_fn.trace import Initial, ModelFnTrace
from tfbig.programs.model_fn.traces import ModelFnTraces, fed
from tfbig.programs.model_fn.train_op import TrainOp, check_train_op
from tfbig.programs.model_fn.variable_store import STEP, VariableStore
from tfbig.programs.program import Batch, Forward, Program, Term, Values
from tfbig.programs.row_updates import table_of
from tfbig.programs.vector_metrics import as_numbers

_NAMES = {ModeKeys.TRAIN: "TRAIN", ModeKeys.EVAL: "EVAL", ModeKeys.PREDICT: "PREDICT"}
__all__ = ["ModelFnProgram", "ModelStandIn", "is_estimator_style"]

_CONVOLUTIONS = {
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool", "MaxPool3D"),
    *("Conv2DBackpropInput", "Conv3DBackpropInputV2"),
}


class ModelFnProgram(Program):
    """A model_fn(features, labels, mode, …) that is run anew in each trace and mode.

    Its layers find their variables by name through a VariableStore. It reads and changes
    variables as it runs, so it is not pure.

    Each mode is traced in a graph of its own first. Where Keras's optimizer trains, a step then
    runs model_fn as it is. Where a train_op does, the step is given the halves of that graph, cut
    at the gradients; so is an evaluation with the variables or metrics of TensorFlow 1.

    Args:
        model_fn: returns an EstimatorSpec.
        params, config: handed to model_fn if it asks for them.
        scope: returns the placement's scope, in which variables are made.
        precision: the Keras dtype policy that its layers are made under.
    """

    pure = False
    named = True

    def __init__(self, model_fn: Callable, params: Any, config: Any, scope, precision: str):
        self._model_fn = model_fn
        self._params, self._config = params, config
        self._precision, self._scope = precision, scope
        self._store = VariableStore(scope)
        self._traces = ModelFnTraces(model_fn, params, config, self._store, precision)
        self._metrics: dict[str, keras.metrics.Metric] = {}
        self._metric_keys: list[str] = []
        self._sums: list[bool] = []
        self._training: TrainingGraph | None = None  # the graph that is trained by, or None
        self._evaluation: EvaluationGraph | None = None
        self._initials: list[Initial] = []
        self._start: dict[str, Any] = {}
        self._trained_here = False
        self.optimizer = None
        self.trainable, self.state, self.metric_variables = [], [], []
        self._trainable_keys, self._frozen_keys, self._state_keys = [], [], []
        self._optimizer_keys: list[str] = []

    # Building.

    def build(self, spec: Any, run) -> None:
        """Traces model_fn once in TRAIN mode, which makes its variables."""
        self._build_mode(spec, run, ModeKeys.TRAIN)

    def build_evaluation(self, spec: Any, run) -> None:
        """Traces model_fn once in EVAL mode: no new weights may appear, metrics may."""
        self._build_mode(spec, run, ModeKeys.EVAL)

    def build_prediction(self, spec: Any, run) -> None:
        """Traces model_fn once in PREDICT mode, for batches whose features are of a structure."""
        self._build_mode(spec, run, ModeKeys.PREDICT)

    def _build_mode(self, spec, run, mode):
        """Traces a mode by itself, and, if Keras's optimizer trains, once more as a step would."""
        types: set[str] = set()
        self._store.closed = False
        known = set(self._store.variables) if self._trained_here else None

        def trace(*flat):
            batch = self._batch_of(spec, flat, mode)
            traced = self._traces.of(mode, batch)
            self._store.closed = True
            if known is not None:
                self._refuse_new(traced, known, mode)
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
            self.has_convolutions = bool(types & _CONVOLUTIONS)

    def _refuse_new(self, traced: ModelFnTrace, known: set[str], mode: str) -> None:
        known = known | traced.metric_keys | {STEP}
        new = [n for n in dict.fromkeys(traced.names) if n not in known]
        new = [n for n in new if not self._store.is_local(n)]
        if new:
            raise UserError(
                f"model_fn made variables in {_NAMES[mode]} mode that TRAIN mode does not have: "
                f"{', '.join(sorted(new))}; build the same layers in every mode, and give a layer "
                "whose automatic name differs between modes a name."
            )

    def _batch_of(self, spec, flat, mode) -> Batch:
        element = tf.nest.pack_sequence_as(spec, flat)
        if mode == ModeKeys.PREDICT:
            return Batch(element, None, None, None, tf.constant(1.0))
        return Batch(*program.split_element(element), None, tf.constant(1.0))

    def _build_training(self, traced: ModelFnTrace, batch: Batch) -> None:
        self.summaries = traced.summaries
        if traced.spec.train_op is None:
            self._initials = traced.initials
            self._build_keras_training(batch)
            return
        check_train_op(traced, self._store, self.updates, self._precision)
        graph = self._training = self._traces.graph(TrainingGraph, traced)
        self.optimizer = TrainOp(graph)
        self._trainable_keys, self._state_keys = graph.trained, graph.state
        self._optimizer_keys = graph.updated
        taken = {*graph.trained, *graph.state, *graph.updated, *traced.metric_keys}
        names = [n for n in dict.fromkeys(traced.names) if not self._store.is_local(n)]
        self._frozen_keys = [n for n in names if n not in taken]
        self._set_variables()
        self._initials = traced.initials

    def _build_keras_training(self, batch: Batch) -> None:
        spec, names = self._call(batch, ModeKeys.TRAIN)
        store = self._store
        store.closed = False  # for the optimizer's own
        with store.continued():
            weights = [n for n in dict.fromkeys(names) if self._is_trained(n)]
            self.updates.build(spec.optimizer, [store.variables[n] for n in weights])
        store.closed = True
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

    def _build_evaluation(self, traced: ModelFnTrace, batch: Batch) -> None:
        store = self._store
        self._metrics = dict(traced.spec.eval_metric_ops or {})
        if self._training is not None or not self._is_keras(traced):
            graph = self._evaluation = self._traces.graph(EvaluationGraph, traced)
            self._metric_keys, self._sums = graph.metrics, graph.sums
        else:
            spec, _ = self._call(batch, ModeKeys.EVAL)
            self._metrics = dict(spec.eval_metric_ops or {})
            metrics = self._metrics.values()
            self._metric_keys = [store.name_of(v) for m in metrics for v in m.variables]
            self._sums = [is_sum(m) for m in metrics for _ in m.variables]
        self._sort_untrained(traced)

    def _sort_untrained(self, traced: ModelFnTrace) -> None:
        """Sorts the variables of a model that is not trained here, but evaluated or used."""
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

    def _is_keras(self, traced: ModelFnTrace) -> bool:
        """Whether a step can run a mode as it is: it has variables and metrics of Keras alone."""
        metrics = (traced.spec.eval_metric_ops or {}).values()
        return all(isinstance(m, keras.metrics.Metric) for m in metrics) and all(
            self._store.is_of_keras(n) or n == STEP for n in traced.names
        )

    def _call(self, batch: Batch, mode: str) -> tuple[EstimatorSpec, list[str]]:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._precision)  # per thread, and replicas are threads
        try:
            with self._store.scope() as names:
                spec = call_model_fn(self._model_fn, batch, mode, self._params, self._config)
        finally:
            keras.config.set_dtype_policy(policy)
        spec = checked(spec, mode)
        if mode == ModeKeys.TRAIN:
            self.optimizer = spec.optimizer
            if self._precision == "mixed_float16" and not hasattr(
                spec.optimizer, "inner_optimizer"
            ):
                closed, self._store.closed = self._store.closed, False
                with self._store.continued():
                    self.optimizer = keras.optimizers.LossScaleOptimizer(
                        spec.optimizer,
                        name="loss_scale_optimizer",  # the same in every trace
                    )
                self._store.closed = closed
                object.__setattr__(spec, "optimizer", self.optimizer)
        return spec, names

    def _is_trained(self, key: str) -> bool:
        return self._store.trainable[key] and not self._store.is_frozen(key)

    def select(self, training: bool) -> None:
        """Makes `metric_variables` those of one mode, before its step is traced."""
        keys = [] if training else self._metric_keys
        self.metric_variables = [self._store.variables[k] for k in keys]
        self.metric_sums = [PARTS if adds else UNSEEN for adds in self._sums[: len(keys)]]

    def named_metrics(self, *kinds: str) -> str:
        named = zip(self._metric_keys, self.metric_sums, strict=True)
        return ", ".join(key for key, kind in named if kind in kinds)

    def forward(self, values: Values, batch: Batch, training: bool) -> Forward:
        """Runs model_fn; its variables are set to `values` before and read after."""
        for variable, value in zip(
            [*self.state, *self.metric_variables], [*values.state, *values.metrics], strict=True
        ):
            if value is not variable:  # a frozen table, which is not read
                variable.assign(value)
        terms = self._terms(batch, training)
        after = self.read()
        return Forward(terms, after.state, after.metrics)

    def _terms(self, batch: Batch, training: bool) -> list[Term]:
        mode = ModeKeys.TRAIN if training else ModeKeys.EVAL
        by_graph = self._training if training else self._evaluation
        if by_graph is None:
            return [loss_term(self._call(batch, mode)[0].loss, batch.features)]
        traced, flat = self._traces.of(mode, batch), tf.nest.flatten(fed(batch))
        if training:
            return self._traces.graph(TrainingGraph, traced).compute(flat, self.trainable)
        loss = self._traces.graph(EvaluationGraph, traced).compute(flat)
        return [loss_term(loss, batch.features)]

    def apply(self, gradients: list) -> None:
        step = self._store.variables.get(STEP)
        before = None if step is None else tf.convert_to_tensor(step)
        counted = self._training is not None and STEP in self._training.updated
        if self._training is not None:
            self._training.update(gradients)
        else:
            _private_api.reduce_no_more(self.optimizer)  # made in this trace, and for it alone
            with self._store.continued():
                if not self.optimizer.built:  # as in `build`: apply would choose other names
                    self.updates.build(self.optimizer, self.trainable)
                _private_api.update_rows_alone(self.optimizer, table_of)
                super().apply(gradients)
        if step is None:
            return
        if not self.updates.concurrent:
            step.assign(before + 1)  # whatever model_fn does, it counts updates
        elif not counted:
            step.assign_add(1)  # which loses no update of others; the chief sets it exactly

    def look(
        self, batch: Batch, mode: str, find: Callable[[ModelFnTrace], list[str]]
    ) -> dict[str, tf.Tensor]:
        """Tensors of model_fn's graph of a mode, computed on a batch; nothing else is run.

        What their computation changes is put back, but for the local variables of metrics.

        Args:
            batch: of the present replica.
            find: tells the tensors' names in the trace that it is given.
        """
        traced = self._traces.of(mode, batch)
        names = find(traced)
        needed = traced.graph.needed(name.rsplit(":", 1)[0] for name in names)
        changed = traced.graph.written(needed, traced.resources)
        kept = [self._store.variables[n] for n in changed if not self._store.is_local(n)]
        before = [tf.convert_to_tensor(variable) for variable in kept]
        found = traced.run(traced.graph.part(needed), tf.nest.flatten(fed(batch)), names)
        found = [tf.identity(tensor) for tensor in found]
        for variable, value in zip(kept, before, strict=True):
            variable.assign(value)
        return dict(zip(names, found, strict=True))

    def prediction_spec(self, features: Any) -> EstimatorSpec:
        """The EstimatorSpec in PREDICT mode, computed in the graph that is being traced."""
        batch = Batch(features, None, None, None, tf.constant(1.0))
        traced = self._traces.of(ModeKeys.PREDICT, batch)
        return self._traces.graph(PredictionGraph, traced).spec(tf.nest.flatten(fed(batch)))

    def predict(self, features: Any) -> Any:
        """The predictions for a batch: a structure of tensors of shape [n, …]."""
        return self.prediction_spec(features).predictions

    def tensors_of(
        self, mode: str, batch: Batch, find: Callable[[EstimatorSpec, tf.Graph], list[tf.Tensor]]
    ) -> list[tf.Tensor]:
        """Computes tensors of a mode's graph on a batch, and changes nothing by it.

        Args:
            mode: a ModeKeys value that has been built.
            batch: in the graph that is being traced.
            find: from the mode's spec and its graph to tensors of that graph.

        Returns:
            Their twins in the graph that is being traced.
        """
        traced = self._traces.of(mode, batch)
        return traced.twins(tf.nest.flatten(fed(batch)), find(traced.spec, traced.tf_graph))

    @property
    def tables(self) -> list:
        """The lookup tables that traces of model_fn have made, for an export to hold."""
        return self._traces.tables

    def learning_rate(self) -> float | None:
        if self._training is not None:
            return self._training.learning_rate()
        return super().learning_rate()

    def optimizer_config(self) -> Any:
        if self._training is not None:
            return dict(sorted(self._training.update_types.items()))
        return super().optimizer_config()

    @property
    def synchronizes(self) -> bool:
        return self._traces.synchronized

    def count_steps(self, step: int) -> None:
        variable = self._store.variables.get(STEP)
        if variable is not None:
            variable.assign(step)

    def callback_model(self) -> Any:
        return ModelStandIn(self)

    def named_variables(self) -> dict[str, tf.Variable]:
        variables, slots = self._store.variables, self.updates.slots()
        state = [n for n in self._state_keys if not self._store.is_local(n)]
        model = [*self._trainable_keys, *self._frozen_keys, *state]
        return {
            **{f"model/{name}": variables[name] for name in model},
            **{f"optimizer/{name}": variables[name] for name in self._optimizer_keys},
            **{f"optimizer/{name}": slot for name, slot in slots.items()},
        }

    def metric_results(self, loss: float | None = None) -> dict[str, float]:
        results = {}
        if self._evaluation is not None:
            results = self._evaluation.results() if self.metric_variables else {}
        elif self.metric_variables:
            for name, metric in self._metrics.items():
                result = metric.result()
                results.update(result if isinstance(result, dict) else {name: result})
        return as_numbers(program.plain_values(results))

    def reset_metrics(self) -> None:
        if self._evaluation is not None:
            for key in self._metric_keys:
                self._store.variables[key].assign(self._start[key])
        elif self.metric_variables:
            for metric in self._metrics.values():
                metric.reset_state()

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        return explain_numbers("features", features) or explain_numbers("labels", labels)
