"""Keras models that override train_step or test_step: run as Keras runs them."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras.checks import explain_numbers
from tfbig.programs.keras.keras_program import KerasProgram, runs_convolutions
from tfbig.programs.keras.own_reports import flat_logs
from tfbig.programs.keras.own_state import (
    besides,
    copies_of,
    optimizers_of,
    uses_any,
    variables_of,
    with_copies,
)
from tfbig.programs.keras.preprocessing import layer_without_xla
from tfbig.programs.metric_sums import NOTHING
from tfbig.programs.observing import owners_of

log = logging.getLogger("tfbig")

# Operations that draw random numbers from a state that is inside the operation.
_DRAWS = {
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "RandomGamma",
    "RandomPoissonV2",
    "RandomShuffle",
    "RandomStandardNormal",
    "RandomUniform",
    "RandomUniformInt",
    "TruncatedNormal",
}


def has_own_step(model: keras.Model) -> bool:
    """Whether a model's class overrides train_step or test_step."""
    return any(_private_api.overrides(model, name) for name in ("train_step", "test_step"))


class OwnStepProgram(KerasProgram):
    """A keras.Model with a train_step or a test_step of its own.

    With its own train_step, both of the model's methods are called as `fit` and `evaluate` call
    them: on the data that input_fn gives, and with Keras's own rules for numbers. What they
    return is what is reported. With its own test_step alone, training is that of KerasProgram.

    Args:
        model: compiled, or with a `compile` of its own that calls Keras's.
        remat: refused.

    Raises:
        UserError: the model is not compiled, or something asks for a change of its step.
    """

    own_steps = True

    def __init__(self, model: keras.Model, remat: bool = False):
        super().__init__(model)
        self._own_training = _private_api.overrides(model, "train_step")
        self._training = True
        self._logs: dict[bool, dict[str, keras.Variable]] = {}
        if not self._own_training:
            self._remat = remat
            return
        self.pure = False
        name = type(model).__name__
        if remat:
            raise UserError(
                f"remat=True recomputes blocks of tfbig's own step, and {name} has its own "
                "train_step; leave remat out, or wrap layers in keras.RematScope in the model."
            )
        if self._tuning.rates:
            raise UserError(
                f"rates that differ by layer scale the updates of tfbig's own step, and {name} has "
                "its own train_step; leave them out of the recipe."
            )

    def runs_itself(self, training: bool) -> bool:
        return self._own_training or not training

    def build(self, spec: Any, run) -> None:
        """Makes all variables by a trace of the step that is thrown away."""
        if not self._own_training:
            super().build(spec, run)
            return
        self.enter(max(self.phases, default=0))
        _private_api.make_global_seed()
        self._trace(spec, run)
        self.enter(max(self.phases, default=0))  # with what the trace has made
        optimizers = optimizers_of(self.model)
        self._optimizers = [o for o in optimizers if uses_any(self._used, o.variables)]
        # An overridden `compile` that calls Keras's without an optimizer leaves an RMSprop there.
        if not any(self.model.optimizer is optimizer for optimizer in self._optimizers):
            self.optimizer = None
        self._all = [*self.trainable, *self.state]
        self.enter(0)
        self._reported = [
            *(v for metric in self.model.metrics for v in metric.variables),
            *self._logs[True].values(),
        ]
        self.metric_variables = [copy for v in self._reported for copy in copies_of(v.value)]
        self.metric_sums = [NOTHING] * len(self.metric_variables)  # reset as fit does
        others = besides(self._used, self.variable_groups().values())
        owners = owners_of(self.model, others)
        self._raw = {owners[id(variable)]: variable for variable in others}
        layers = _private_api.flatten_layers(self.model)
        self.per_replica_statistics = any(
            isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
            for layer in layers
        )
        self.has_convolutions = runs_convolutions(layers)
        self.without_xla = layer_without_xla(self.model)

    def build_evaluation(self, spec: Any, run) -> None:
        if self.runs_itself(False) and False not in self._logs:
            self.select(False)
            self._trace(spec, run)

    @property
    def needs_whole_batches(self) -> bool:
        return not self._own_training and super().needs_whole_batches

    def check_evaluation(self, spec: Any) -> None:
        """The model's test_step alone knows what it takes."""

    def _trace(self, spec: Any, run) -> None:
        """Traces the step of the present mode, for its variables and what it returns."""
        training, shapes, graphs = self._training, {}, []

        def traced(*tensors):
            graphs.append(tf.compat.v1.get_default_graph())
            logs = self.run_step(tf.nest.pack_sequence_as(spec, tensors), training)
            shapes.update({name: value.shape for name, value in logs.items()})
            return tf.zeros([])

        try:
            with tf.variable_creator_scope(_made_at_once):
                kinds = run(traced, tf.nest.flatten(spec)) or set()
        except ValueError as error:
            if "singleton tf.Variable" not in str(error):
                raise
            raise UserError(
                f"{self._where(training)} makes a variable in each call, on one of the replicas; "
                "make it in __init__ or build(), and give keras.random functions a seed that is "
                "an attribute of the model: seed=keras.random.SeedGenerator(1)."
            ) from error
        if training:
            self._used = variables_of(graphs[0])
        if training and kinds & _DRAWS:
            log.warning(
                "%s draws random numbers by %s, whose state no checkpoint holds: a run "
                "that is resumed draws others. Use keras.random with a keras.random.SeedGenerator "
                "that is an attribute of the model",
                self._where(training),
                ", ".join(sorted(kinds & _DRAWS)),
            )
        self._logs[training] = {
            name: keras.Variable(
                np.full(shape, np.nan), dtype="float32", trainable=False, name=f"returned_{place}"
            )
            for place, (name, shape) in enumerate(shapes.items())
        }

    def select(self, training: bool) -> None:
        self._training = training

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Keras's own rules hold in a step that the model runs itself."""
        if self.runs_itself(self._training):
            yield
        else:
            with super().tracing():
                yield

    def run_step(self, data: Any, training: bool) -> dict[str, tf.Tensor]:
        """Calls train_step or test_step, inside a replica.

        Args:
            data: a part of what input_fn yields, in its structure.
            training: which of them.

        Returns:
            What it returned, float32, by name.

        Raises:
            UserError: that is no dict of numbers.
        """
        logs = (self.model.train_step if training else self.model.test_step)(data)
        where = self._where(training)
        if not isinstance(logs, dict):
            raise UserError(
                f"{where} returned a {type(logs).__name__}; return a dict of names and numbers, "
                'such as {"loss": self.loss_tracker.result()}.'
            )
        flat = {}
        for name, value in flat_logs(logs).items():
            value = tf.cast(keras.ops.convert_to_tensor(value), tf.float32)
            if not value.shape.is_fully_defined():
                raise UserError(
                    f"{where} returned {name!r} of shape {value.shape}, a number for each example; "
                    "return their mean, such as keras.ops.mean(…)."
                )
            flat[name] = value
        return flat

    def _where(self, training: bool) -> str:
        return f"{type(self.model).__name__}.{'train_step' if training else 'test_step'}"

    def keep_logs(self, logs: dict[str, tf.Tensor], training: bool) -> None:
        """Keeps what a step has returned for `metric_results`, inside a replica.

        Raises:
            UserError: it is not what an earlier trace has returned.
        """
        there = {name: tuple(variable.shape) for name, variable in self._logs[training].items()}
        given = {name: tuple(value.shape) for name, value in logs.items()}
        if given != there:
            raise UserError(
                f"{self._where(training)} returned {given} for one batch and {there} for another; "
                "return the same names, each with one number for a batch of any size."
            )
        for name, variable in self._logs[training].items():
            variable.assign(logs[name])

    def learning_rate(self) -> float | None:
        return super().learning_rate() if self.optimizer is not None else None

    def optimizer_config(self) -> Any:
        if not self._own_training:
            return super().optimizer_config()
        return [keras.saving.serialize_keras_object(o)["config"] for o in self._optimizers]

    def variable_groups(self) -> dict[str, list]:
        if not self._own_training:
            return super().variable_groups()
        return {
            "model": self._all,
            "optimizer": [v for optimizer in self._optimizers for v in optimizer.variables],
            "metrics": self._reported,
        }

    def named_variables(self) -> dict[str, tf.Variable]:
        named = super().named_variables()
        return with_copies(named) if self._own_training else named

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if self._own_training:
            names = self.named_variables()
            copies = [int(name.rpartition("@replica_")[2]) for name in names if "@replica_" in name]
            settings["number of replicas of its own train_step"] = max(copies, default=0) + 1
        return settings

    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        if not self.runs_itself(self._training):
            return super().metric_results(loss)
        return program.plain_values(self._logs[self._training])

    def reset_metrics(self) -> None:
        if not self.runs_itself(self._training):
            super().reset_metrics()
            return
        self.model.reset_metrics()
        # What train_step returned last is asked for after the end of an epoch too.
        for variable in () if self._training else self._logs[False].values():
            variable.assign(np.full(variable.shape, np.nan))

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        if not self._own_training:
            return super().explain_batch(features, labels)
        return explain_numbers("features", features) or explain_numbers("labels", labels)


def _made_at_once(next_creator: Any, **arguments: Any) -> tf.Variable:
    """Makes a variable outside of the trace; tf.function could not initialize a mirrored one."""
    with tf.init_scope():
        return next_creator(**arguments)
