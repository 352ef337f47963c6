"""Keras models with a custom train_step or test_step, which run as in Keras."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.keras.checks import explain_numbers
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.keras.layer_traits import (
    has_per_replica_statistics,
    layer_without_xla,
    runs_convolutions,
)
from tfbig.programs.keras.reported_metrics import flat_logs
from tfbig.programs.metric_aggregation import NOT_ADDITIVE
from tfbig.programs.tracing import owner_names

log = logging.getLogger("tfbig")

# Operations that draw random numbers from a state inside the operation.
_STATEFUL_RANDOM = {
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


def has_custom_step(model: keras.Model) -> bool:
    """Whether a model's class overrides train_step or test_step."""
    return any(_private_api.overrides(model, name) for name in ("train_step", "test_step"))


class CustomStepProgram(KerasProgram):
    """A keras.Model with a custom train_step or test_step.

    With a custom train_step, both methods of the model are called as in `fit` and `evaluate`: on
    the data that input_fn yields, and with Keras's rules for reductions. Their results are
    reported. With a custom test_step only, training is that of KerasProgram.

    Args:
        model: compiled, or with a custom `compile` that calls Keras's.
        remat: must be False for a custom train_step.

    Raises:
        UserError: the model is not compiled, or an option would have to change its train_step.
    """

    custom_steps = True

    def __init__(self, model: keras.Model, remat: bool = False):
        super().__init__(model)
        self._has_custom_train_step = _private_api.overrides(model, "train_step")
        self._training = True
        self._logs: dict[bool, dict[str, keras.Variable]] = {}
        if not self._has_custom_train_step:
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
                "learning rates that differ by layer scale the updates of tfbig's own step, and "
                f"{name} has its own train_step; leave them out of the recipe."
            )

    @override
    def runs_custom_step(self, training: bool) -> bool:
        return self._has_custom_train_step or not training

    def build(self, spec: Any, run) -> None:
        """Creates all variables by a trace of the step, which is discarded."""
        if not self._has_custom_train_step:
            super().build(spec, run)
            return
        self.enter_phase(max(self.phases, default=0))
        _private_api.make_global_seed()
        self._trace(spec, run)
        self.enter_phase(max(self.phases, default=0))  # with the variables of the trace
        optimizers = optimizers_of(self.model)
        self._optimizers = [o for o in optimizers if uses_any(self._used, o.variables)]
        # Keras's `compile` creates an RMSprop if a custom `compile` passes it no optimizer.
        if not any(self.model.optimizer is optimizer for optimizer in self._optimizers):
            self.optimizer = None
        self._all = [*self.trainable, *self.state]
        self.enter_phase(0)
        self._reported = [
            *(v for metric in self.model.metrics for v in metric.variables),
            *self._logs[True].values(),
        ]
        self.metric_variables = [copy for v in self._reported for copy in replica_copies(v.value)]
        self.metric_kinds = [NOT_ADDITIVE] * len(self.metric_variables)  # reset as in fit
        others = other_variables(self._used, self.variable_groups().values())
        owners = owner_names(self.model, others)
        self._raw = {owners[id(variable)]: variable for variable in others}
        layers = _private_api.flatten_layers(self.model)
        self.per_replica_statistics = has_per_replica_statistics(layers)
        self.has_convolutions = runs_convolutions(layers)
        self.without_xla = layer_without_xla(self.model)

    @override
    def build_evaluation(self, spec: Any, run) -> None:
        if self.runs_custom_step(False) and False not in self._logs:
            self.select_mode(False)
            self._trace(spec, run)

    @property
    @override
    def needs_whole_batches(self) -> bool:
        return not self._has_custom_train_step and super().needs_whole_batches

    def check_evaluation(self, spec: Any) -> None:
        """Checks nothing, because only the model's test_step knows which batches it accepts."""

    def _trace(self, spec: Any, run) -> None:
        """Traces the step of the current mode, to find its variables and the names it returns."""
        training, shapes, graphs = self._training, {}, []

        def traced(*tensors):
            graphs.append(tf.compat.v1.get_default_graph())
            logs = self.run_custom_step(tf.nest.pack_sequence_as(spec, tensors), training)
            shapes.update({name: value.shape for name, value in logs.items()})
            return tf.zeros([])

        try:
            with tf.variable_creator_scope(_create_outside_trace):
                kinds = run(traced, tf.nest.flatten(spec)) or set()
        except ValueError as error:
            if "singleton tf.Variable" not in str(error):
                raise
            raise UserError(
                f"{self._where(training)} creates a variable in each call, on one of the replicas; "
                "create it in __init__ or build(), and give keras.random functions a seed that is "
                "an attribute of the model: seed=keras.random.SeedGenerator(1)."
            ) from error
        if training:
            self._used = captured_variables(graphs[0])
        if training and kinds & _STATEFUL_RANDOM:
            log.warning(
                "%s draws random numbers with %s, whose state is not in any checkpoint: a resumed "
                "run draws other numbers. Use keras.random with a keras.random.SeedGenerator "
                "that is an attribute of the model",
                self._where(training),
                ", ".join(sorted(kinds & _STATEFUL_RANDOM)),
            )
        self._logs[training] = {
            name: keras.Variable(
                np.full(shape, np.nan), dtype="float32", trainable=False, name=f"returned_{index}"
            )
            for index, (name, shape) in enumerate(shapes.items())
        }

    @override
    def select_mode(self, training: bool) -> None:
        self._training = training

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Leaves Keras unchanged while a custom step is traced."""
        if self.runs_custom_step(self._training):
            yield
        else:
            with super().tracing():
                yield

    def run_custom_step(self, data: Any, training: bool) -> dict[str, tf.Tensor]:
        """Calls train_step or test_step, inside a replica.

        Args:
            data: this replica's part of an element of input_fn, in its structure.
            training: whether to call train_step.

        Returns:
            The result of the method by name, in float32.

        Raises:
            UserError: the result is not a dict of numbers.
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

    def store_logs(self, logs: dict[str, tf.Tensor], training: bool) -> None:
        """Stores the result of a step for `metric_results`, inside a replica.

        Raises:
            UserError: its names or shapes differ from those of an earlier trace.
        """
        known = {name: tuple(variable.shape) for name, variable in self._logs[training].items()}
        given = {name: tuple(value.shape) for name, value in logs.items()}
        if given != known:
            raise UserError(
                f"{self._where(training)} returned {given} for one batch and {known} for another; "
                "return the same names, each with one number for a batch of any size."
            )
        for name, variable in self._logs[training].items():
            variable.assign(logs[name])

    @override
    def learning_rate(self) -> float | None:
        return super().learning_rate() if self.optimizer is not None else None

    @override
    def optimizer_config(self) -> Any:
        if not self._has_custom_train_step:
            return super().optimizer_config()
        return [keras.saving.serialize_keras_object(o)["config"] for o in self._optimizers]

    @override
    def variable_groups(self) -> dict[str, list]:
        if not self._has_custom_train_step:
            return super().variable_groups()
        return {
            "model": self._all,
            "optimizer": [v for optimizer in self._optimizers for v in optimizer.variables],
            "metrics": self._reported,
        }

    @override
    def named_variables(self) -> dict[str, tf.Variable]:
        named = super().named_variables()
        return with_replica_copies(named) if self._has_custom_train_step else named

    @override
    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if self._has_custom_train_step:
            names = self.named_variables()
            copies = [int(name.rpartition("@replica_")[2]) for name in names if "@replica_" in name]
            settings["number of replicas of its own train_step"] = max(copies, default=0) + 1
        return settings

    @override
    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        if not self.runs_custom_step(self._training):
            return super().metric_results(loss)
        return program.plain_values(self._logs[self._training])

    @override
    def reset_metrics(self) -> None:
        if not self.runs_custom_step(self._training):
            super().reset_metrics()
            return
        self.model.reset_metrics()
        # The last result of train_step is still reported after the end of an epoch.
        for variable in () if self._training else self._logs[False].values():
            variable.assign(np.full(variable.shape, np.nan))

    @override
    def explain_batch(self, features: Any, labels: Any) -> str | None:
        if not self._has_custom_train_step:
            return super().explain_batch(features, labels)
        return explain_numbers("features", features) or explain_numbers("labels", labels)


def _create_outside_trace(next_creator: Any, **arguments: Any) -> tf.Variable:
    """Creates a variable outside the trace, where tf.function cannot initialize a mirrored one."""
    with tf.init_scope():
        return next_creator(**arguments)


def captured_variables(graph: Any) -> list[tf.Variable]:
    """The variables that a traced function reads or changes, in the order of its captures.

    They include variables of closures, of plain attributes and of Keras's global seed generator.
    """
    indices = {id(outer): index for index, (outer, _) in enumerate(graph.captures)}
    captured = [variable for variable in graph.variables if id(variable.handle) in indices]
    return sorted(captured, key=lambda variable: indices[id(variable.handle)])


def uses_any(used: Iterable[tf.Variable], variables: Iterable) -> bool:
    """Whether one of some Keras or TensorFlow variables is among the used ones."""
    ids = {id(variable) for variable in used}
    return any(id(part) in ids for v in variables for part in _parts_of(v))


def other_variables(used: Iterable[tf.Variable], known: Iterable[Iterable]) -> list[tf.Variable]:
    """The used variables that are in none of the known groups, in their order."""
    ids = {id(part) for variables in known for v in variables for part in _parts_of(v)}
    return [v for v in used if id(v) not in ids]


def with_replica_copies(named: dict[str, Any]) -> dict[str, Any]:
    """Adds the copies on other replicas of variables whose values may differ by replica.

    With Keras's rules each replica has its own metrics and moving statistics. Trainable variables
    and optimizer variables are equal on all replicas.
    """
    copies = {}
    for name, variable in named.items():
        is_equal = name.startswith("optimizer/") or variable.trainable
        for i, copy in enumerate([variable] if is_equal else replica_copies(variable)):
            copies[f"{name}@replica_{i}" if i else name] = copy
    return copies


def replica_copies(variable: tf.Variable) -> list[tf.Variable]:
    """The copies of a mirrored variable on this process's replicas; [variable] for others."""
    return list(getattr(variable, "values", None) or (variable,))


def _parts_of(variable: Any) -> list[tf.Variable]:
    """The objects by which a trace may refer to a variable: itself and its replica copies."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return [value, *replica_copies(value)]


def optimizers_of(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """The optimizers in the attributes of a model and its layers, also in lists and dicts."""
    found: dict[int, keras.optimizers.Optimizer] = {}
    for layer in _private_api.flatten_layers(model):
        for value in vars(layer).values():
            for leaf in _leaves(value):
                if isinstance(leaf, keras.optimizers.Optimizer):
                    found.setdefault(id(leaf), leaf)
    return list(found.values())


def _leaves(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return [value]
    return [leaf for item in value for leaf in _leaves(item)]
