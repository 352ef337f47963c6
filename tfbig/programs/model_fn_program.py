"""Estimator-style model_fns, in the Keras dialect, as programs."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras_checks import explain_numbers
from tfbig.programs.program import Batch, Forward, Program, Term, Values
from tfbig.programs.spec import EstimatorSpec, ModeKeys
from tfbig.programs.variable_store import VariableStore

_CONVOLUTIONS = {
    *("Conv2D", "Conv3D", "DepthwiseConv2dNative", "MaxPool", "MaxPool3D"),
    *("Conv2DBackpropInput", "Conv3DBackpropInputV2"),
}


class ModelFnProgram(Program):
    """A model_fn(features, labels, mode, …) that is run anew in each trace and mode.

    Its layers find their variables by name through a VariableStore. It reads and changes
    variables as it runs, so it is not pure.

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
        self._precision = precision
        self._store = VariableStore(scope)
        self._metrics: dict[str, keras.metrics.Metric] = {}
        self._metric_keys: list[str] = []
        self.optimizer = None
        self.trainable, self.state, self.metric_variables = [], [], []

    def build(self, spec: Any, run) -> None:
        """Traces model_fn once in TRAIN mode, which makes its variables."""
        self._build_mode(spec, run, training=True)

    def build_evaluation(self, spec: Any, run) -> None:
        """Traces model_fn once in EVAL mode: no new weights may appear, metrics may."""
        self._build_mode(spec, run, training=False)

    def _build_mode(self, spec, run, training):
        def trace(*flat):
            element = tf.nest.pack_sequence_as(spec, flat)
            batch = Batch(*program.split_element(element), None, tf.constant(1.0))
            estimator_spec, names = self._call(batch, training)
            if training:
                with self._store.continued():
                    weights = [n for n in dict.fromkeys(names) if self._is_trained(n)]
                    variables = [self._store.variables[n] for n in weights]
                    self.updates.build(estimator_spec.optimizer, variables)
            self._sort_variables(estimator_spec, names, training)
            return tf.cast(tf.reduce_sum(estimator_spec.loss), tf.float32)

        self._store.closed = False
        operations = run(trace, tf.nest.flatten(spec))
        self._store.closed = True
        self.has_convolutions = bool(operations & _CONVOLUTIONS)

    def _call(self, batch: Batch, training: bool) -> tuple[EstimatorSpec, list[str]]:
        mode = ModeKeys.TRAIN if training else ModeKeys.EVAL
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self._precision)  # per thread, and replicas are threads
        try:
            with self._store.scope() as names:
                spec = call_model_fn(self._model_fn, batch, mode, self._params, self._config)
        finally:
            keras.config.set_dtype_policy(policy)
        if not isinstance(spec, EstimatorSpec):
            raise UserError(
                f"model_fn returned {type(spec).__name__} in mode {mode!r}; return "
                "tfbig.EstimatorSpec(mode, loss=…, optimizer=…)."
            )
        if spec.mode != mode:
            raise UserError(
                f"model_fn was called with mode {mode!r} and returned a spec for {spec.mode!r}; "
                "pass its mode argument on to EstimatorSpec."
            )
        if training:
            self.optimizer = spec.optimizer
            if self._precision == "mixed_float16" and not hasattr(
                spec.optimizer, "inner_optimizer"
            ):
                with self._store.continued():
                    self.optimizer = keras.optimizers.LossScaleOptimizer(
                        spec.optimizer,
                        name="loss_scale_optimizer",  # the same in every trace
                    )
                object.__setattr__(spec, "optimizer", self.optimizer)
        return spec, names

    def _sort_variables(self, spec: EstimatorSpec, names: list[str], training: bool) -> None:
        """Sorts the variables into trainable, state, metrics and the optimizer's."""
        store = self._store
        metrics = {
            name: metric
            for name, metric in (spec.eval_metric_ops or {}).items()
            if _is_metric(name, metric)
        }
        metric_keys = [store.name_of(v) for m in metrics.values() for v in m.variables]
        if training:
            optimizer_keys = {store.name_of(v) for v in spec.optimizer.variables}
            self._optimizer_keys = [n for n in store.variables if n in optimizer_keys]
            model_keys = [
                n for n in dict.fromkeys(names) if n not in optimizer_keys and n not in metric_keys
            ]
            self._trainable_keys = [n for n in model_keys if self._is_trained(n)]
            self._frozen_keys = [n for n in model_keys if store.is_frozen(n)]
            self._state_keys = [n for n in model_keys if not store.trainable[n]]
            self.trainable = [store.variables[n] for n in self._trainable_keys]
            self.state = [store.variables[n] for n in self._state_keys]
            store.train_keys = set(store.variables)
        else:
            new = set(store.variables) - store.train_keys - set(metric_keys)
            if new:
                raise UserError(
                    f"model_fn made variables in EVAL mode that TRAIN mode does not have: "
                    f"{', '.join(sorted(new))}; build the same layers in every mode."
                )
        if not training:  # metrics of TRAIN mode are not reported, as with tf.estimator
            self._metrics, self._metric_keys = metrics, metric_keys

    def _is_trained(self, key: str) -> bool:
        return self._store.trainable[key] and not self._store.is_frozen(key)

    def select(self, training: bool) -> None:
        """Makes `metric_variables` those of one mode, before its step is traced."""
        keys = [] if training else self._metric_keys
        self.metric_variables = [self._store.variables[k] for k in keys]

    def forward(self, values: Values, batch: Batch, training: bool) -> Forward:
        """Runs model_fn; its variables are set to `values` before and read after."""
        for variable, value in zip(
            [*self.state, *self.metric_variables], [*values.state, *values.metrics], strict=True
        ):
            variable.assign(value)
        spec, _ = self._call(batch, training)
        loss = tf.cast(spec.loss, tf.float32)
        if loss.shape.rank == 0:
            term = Term(program.SCALAR, loss)
        else:
            per_row = tf.cast(tf.reduce_prod(tf.shape(loss)[1:]), tf.float32)
            term = Term(program.EXAMPLES, tf.reduce_sum(loss), per_row=per_row)
        after = self.read()
        return Forward([term], after.state, after.metrics)

    def apply(self, gradients: list) -> None:
        _private_api.reduce_no_more(self.optimizer)  # made in this trace, and for it alone
        with self._store.continued():
            if not self.optimizer.built:  # as in `build`: apply would choose other names
                self.updates.build(self.optimizer, self.trainable)
            super().apply(gradients)

    def callback_model(self) -> Any:
        return ModelStandIn(self)

    def named_variables(self) -> dict[str, tf.Variable]:
        variables, slots = self._store.variables, self.updates.slots()
        model = [*self._trainable_keys, *self._frozen_keys, *self._state_keys]
        return {
            **{f"model/{name}": variables[name] for name in model},
            **{f"optimizer/{name}": variables[name] for name in self._optimizer_keys},
            **{f"optimizer/{name}": slot for name, slot in slots.items()},
        }

    def metric_results(self) -> dict[str, float]:
        results = {}
        if self.metric_variables:
            for name, metric in self._metrics.items():
                result = metric.result()
                results.update(result if isinstance(result, dict) else {name: result})
        return program.as_numbers(results)

    def reset_metrics(self) -> None:
        if self.metric_variables:
            for metric in self._metrics.values():
                metric.reset_state()

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        return explain_numbers("features", features) or explain_numbers("labels", labels)


class ModelStandIn:
    """What callbacks see where there is no keras.Model: `optimizer` and `stop_training`."""

    def __init__(self, program: ModelFnProgram):
        self._program = program
        self.stop_training = False

    @property
    def optimizer(self) -> keras.optimizers.Optimizer:
        return self._program.optimizer

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a callback asked for model.{name}, but an estimator-style model_fn has no "
            "keras.Model; such callbacks need a Keras builder. There are model.optimizer and "
            "model.stop_training."
        )


def is_estimator_style(model_fn: Any) -> bool:
    """Whether a callable is a model_fn(features, …) and not a builder of a Keras model."""
    return (
        callable(model_fn)
        and not isinstance(model_fn, keras.Model)
        and "features" in inspect.signature(model_fn).parameters
    )


def call_model_fn(model_fn, batch: Batch, mode, params, config) -> EstimatorSpec:
    """Calls a model_fn with those of labels, mode, params and config that it asks for.

    Raises:
        UserError: it would not see all that input_fn gives, or asks for something else.
    """
    given = {"labels": batch.labels, "mode": mode, "params": params, "config": config}
    takes = inspect.signature(model_fn).parameters
    if batch.labels is not None and "labels" not in takes:
        raise UserError(
            "input_fn returns labels, but model_fn takes none; write "
            "def model_fn(features, labels, mode)."
        )
    if batch.sample_weight is not None:
        raise UserError(
            "input_fn returns sample weights, which an estimator-style model_fn is not given; put "
            "them into the features, and the weighted loss into EstimatorSpec(loss=…)."
        )
    for name, p in takes.items():
        known = name in ("features", *given) or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if p.default is p.empty and not known:
            raise UserError(
                f"model_fn asks for an argument {name!r}; it can ask for features, labels, mode, "
                "params and config by name. Give other arguments a default, or use "
                "functools.partial."
            )
    keywords = {k: v for k, v in given.items() if k in takes}
    return model_fn(features=batch.features, **keywords)


def _is_metric(name: str, metric: Any) -> bool:
    if not isinstance(metric, keras.metrics.Metric):
        raise UserError(
            f"eval_metric_ops[{name!r}] is {type(metric).__name__}; pass a Keras metric that has "
            "been updated with this batch, for example keras.metrics.Mean()."
        )
    return True
