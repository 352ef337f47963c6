"""Compiled Keras models as programs."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.sharded_tables import marked_value
from tfbig.programs import program
from tfbig.programs.divided_weights import DividingScope
from tfbig.programs.feature_matching import match_features
from tfbig.programs.keras.adapters import adapted_layers, factored_adapters
from tfbig.programs.keras.checks import (
    check_labels,
    check_model,
    checked_outputs,
    explain_keras_batch,
    with_nan_of,
)
from tfbig.programs.keras.compiled_checks import (
    check_outputs,
    check_own_methods,
    errors_of_compile,
    match_sample_weights,
)
from tfbig.programs.keras.layer_traits import (
    exact_with_padding,
    has_per_replica_statistics,
    layer_without_xla,
    runs_convolutions,
)
from tfbig.programs.keras.loss_probe import is_known, probe_model_losses
from tfbig.programs.keras.loss_terms import (
    OutputLosses,
    added_term,
    custom_loss_term,
    loss_term,
)
from tfbig.programs.keras.metric_inputs import find_scalar_inputs
from tfbig.programs.keras.preprocessing import (
    STATE,
    preprocessing_checksums,
    refresh_constants,
)
from tfbig.programs.keras.renumbering import Renumbering, automatic_names
from tfbig.programs.keras.reported_metrics import ReportedMetrics
from tfbig.programs.keras.trainable_layers import tuning_of
from tfbig.programs.keras.updated_variables import check_updates
from tfbig.programs.metric_aggregation import metric_kinds
from tfbig.programs.program import BatchPart, Forward, Program, Term, Values
from tfbig.programs.remat.remat import Remat, recomputing
from tfbig.programs.tracing import (
    RecordingScope,
    custom_layer_state,
    may_update_others,
    owner_names,
    updated_variables,
)


class KerasProgram(Program):
    """A compiled keras.Model: Sequential, functional or subclassed.

    Args:
        model: compiled, with variables in the placement's scope.
        remat: recompute activations in the backward pass, block by block.

    Raises:
        UserError: the model is not compiled, has its own `train_step`, or accumulates in its
            optimizer.
    """

    pure = True
    custom_steps = False  # whether the model's own train_step and test_step are run

    def __init__(self, model: keras.Model, remat: bool = False):
        check_model(model, self.custom_steps)
        if not self.custom_steps:
            check_own_methods(model)
        self._remat = remat
        self.model = model
        self.optimizer = model.optimizer
        self._tuning = tuning_of(model)
        self._unlisted: list[keras.Variable] = []
        self._raw: dict[str, tf.Variable] = {}
        self._updated: set[int] = set()  # ids of the variables that a forward pass updates
        self._output_losses = OutputLosses()
        self.phases = tuple(step for step, _ in self._tuning.unfreeze if step > 0)
        if self._tuning.rates and getattr(model.optimizer, "use_ema", False):
            raise UserError(
                "learning rates that differ by layer cannot be combined with an optimizer's "
                "use_ema=True, whose averages would be of other weights; leave one of them out."
            )

    def build(self, spec: Any, run) -> None:
        """Builds layers, losses, metrics and optimizer for batches of this structure."""
        self.enter_phase(max(self.phases, default=0))  # slots for all variables trained later
        features, labels, weight = _symbols(spec)
        self._outputs = checked_outputs(self.model, features)
        check_outputs(self.model, self._outputs, labels)
        check_labels(self.model, self._outputs, labels)
        weight = match_sample_weights(self.model, self._outputs, weight)
        self.updates.build(self.optimizer, self.model.trainable_variables)
        matched = match_features(self.model, features)
        with errors_of_compile(self.model, labels, weight):
            _private_api.build_compiled(self.model, matched, labels, weight, self._outputs)
        self._metrics = ReportedMetrics(self.model)
        self.metric_variables = self._metrics.variables
        self._blocks = None
        if self._remat or self.updates.weights is not None:
            self._blocks = Remat(self.model, recompute=self._remat, weights=self.updates.weights)
            self.blocks = self._blocks.variables
        self._observe(run, spec)
        self._all = [*self.trainable, *self.state]
        self.enter_phase(0)
        self.metric_kinds = metric_kinds(
            self.model,
            self._metrics.all,
            self._metrics.update,
            (features, labels, self._outputs, weight),
            self._updated,
            find_scalar_inputs(
                self.model, self._metrics.all, self._call, (features, labels, weight)
            ),
        )
        for warning in self._metrics.observe((features, labels, self._outputs, weight)):
            self.warn_once(warning)
        layers = _private_api.flatten_layers(self.model)
        self.couples_replicas = any(getattr(layer, "synchronized", False) for layer in layers)
        self.per_replica_statistics = has_per_replica_statistics(layers)
        self.has_convolutions = runs_convolutions(layers)
        self.without_xla = layer_without_xla(self.model)
        self.exact_with_padding = exact_with_padding(self.model, self._metrics.all)

    def _observe(self, run, spec: Any) -> None:
        """Finds the variables that the forward pass updates but the model does not list."""
        self._has_custom_layers = may_update_others(self.model)
        own_losses = any(not is_known(one.loss) for one in _private_api.compiled_losses(self.model))
        if not (self._has_custom_layers or own_losses):
            return
        _private_api.make_global_seed()

        def forward(element):
            features, labels, weight = program.split_element(element)
            outputs = self._call(features, labels, weight, training=True)
            if own_losses and not _private_api.overrides(self.model, "compute_loss"):
                with _private_api.substituted_losses(self.model, lambda _, loss: loss) as (call, _):
                    call(labels, outputs)

        keras_variables, tensorflow_variables = updated_variables(self.model, forward, run, spec)
        self._updated = {id(v) for v in keras_variables}
        known = self._listed()
        self._unlisted = [v for v in keras_variables if id(v) not in known]
        owners = owner_names(self.model, [*self._unlisted, *tensorflow_variables])
        self.sequential_state = {id(v): owners[id(v)] for v in self._unlisted if not _is_seed(v)}
        self._raw = {owners[id(v)]: v for v in tensorflow_variables}
        self.averaged_state = custom_layer_state(
            self.model, [v for v in keras_variables if id(v) in known]
        )
        self.sequential_state |= {id(v): name for name, v in self._raw.items()}
        self.state = [*self.state, *self._unlisted]

    def _call(self, features: Any, labels: Any, weight: Any, training: bool) -> Any:
        """Runs the forward pass and a custom compute_loss, to trace which variables they update."""
        outputs = self.model(match_features(self.model, features), training=training)
        if _private_api.overrides(self.model, "compute_loss"):
            _private_api.compute_loss(self.model, features, labels, outputs, weight, training)
        return outputs

    def _listed(self) -> set[int]:
        """The ids of the variables that the model lists, including those of all its metrics."""
        metrics = _private_api.all_metrics(self.model)
        listed = [*self.model.variables, *(v for m in metrics for v in m.variables)]
        return {id(v) for v in listed}

    @override
    def check_evaluation(self, spec: Any) -> None:
        features, labels, weight = _symbols(spec)
        try:
            outputs = checked_outputs(self.model, features)
            check_outputs(self.model, outputs, labels)
            check_labels(self.model, outputs, labels)
            weight = match_sample_weights(self.model, outputs, weight)
            with errors_of_compile(self.model, labels, weight):
                _private_api.check_compiled(self.model, features, labels, weight, outputs)
        except UserError as error:
            raise UserError(str(error).replace("input_fn", "eval_input_fn")) from error

    @override
    def enter_phase(self, step: int) -> None:
        for start, layers in self._tuning.unfreeze:
            for layer in layers:
                layer.trainable = step >= start
        self.trainable = self.model.trainable_variables
        self.state = [*self.model.non_trainable_variables, *self._unlisted]

    def apply(self, gradients: list) -> None:
        """Updates the trainable variables. A rate scales the optimizer's change of its variable."""
        rates = [(v, self._tuning.rates.get(v.path, 1.0)) for v in self.trainable]
        before = [(v, rate, tf.identity(self._stored(v))) for v, rate in rates if rate != 1.0]
        super().apply(gradients)
        for variable, rate, old in before:
            new = old + tf.cast(rate, old.dtype) * (self._stored(variable) - old)
            if self._gathers:
                self.updates.weights.assign_slice(variable, new)
            else:
                variable.assign(new)

    def _stored(self, variable: keras.Variable) -> Any:
        """What this replica has of a variable: its value, or its slice."""
        return self.updates.weights.slice_of(variable) if self._gathers else variable.value

    @override
    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        blocks = self._blocks.tracing() if self._blocks else contextlib.nullcontext()
        with super().tracing(), factored_adapters(self.model), blocks:
            yield

    def predict(self, features: Any) -> Any:
        """The outputs of the model in inference mode, inside a replica."""
        values = self.read()
        scope = self._scope([*self.trainable, *self.state], [*values.trainable, *values.state])
        with scope, recomputing(scope if self._blocks and self._gathers else None):
            return self.model(match_features(self.model, features), training=False)

    def forward(self, values: Values, batch: BatchPart, training: bool) -> Forward:
        """Computes a batch from `values` only. It reads and changes no variable."""
        variables = [*self.trainable, *self.state, *self.metric_variables]
        given = [*values.trainable, *values.state, *values.metrics]
        scope = self._scope(variables, given)
        blocks = scope if self._blocks and (training or self._gathers) else None
        with scope:
            with recomputing(blocks):
                features = match_features(self.model, batch.features)
                outputs = self.model(features, training=training)
            weight = match_sample_weights(self.model, outputs, batch.sample_weight)
            batch = batch._replace(sample_weight=weight)
            terms = self._terms(batch, outputs, training, scope.losses)
            self._metrics.update_padded(
                batch.features, batch.labels, outputs, weight, batch.row_weight
            )
        if not training:
            terms = with_nan_of(features, terms)
        check_updates(scope, variables, self._listed(), in_slices=self._gathers)

        def new(variables, values):
            found = [scope.given(v) for v in variables]
            return [a if b is None else b for a, b in zip(values, found, strict=True)]

        return Forward(
            terms,
            new(self.state, values.state),
            new(self.metric_variables, values.metrics),
            self._metric_inputs(batch, outputs) if self.needs_whole_batches else [],
        )

    def _scope(self, variables: list, given: list) -> RecordingScope:
        """A scope in which variables have these values, or slices where replicas divide them."""
        pairs, weights = zip(variables, given, strict=True), self.updates.weights
        return RecordingScope(pairs) if weights is None else DividingScope(pairs, weights)

    @property
    def _gathers(self) -> bool:
        """Whether the weights are in slices, and are gathered block by block."""
        return self.updates.gathers

    def _metric_inputs(self, batch: BatchPart, outputs: Any) -> list[tf.Tensor]:
        """The inputs of the metrics as a flat list. `_inputs_present` keeps the structure."""
        masks = [_private_api.keras_mask(t) for t in tf.nest.flatten(outputs)]
        features = batch.features if self._metrics.custom else None
        inputs = (features, batch.labels, outputs, batch.sample_weight, masks)
        self._inputs_present = tf.nest.map_structure(lambda t: t is not None, inputs)
        return [t for t in tf.nest.flatten(inputs) if t is not None]

    @override
    def update_whole_batch_metrics(self, metrics: list, metric_inputs: list) -> list:
        remaining = iter(metric_inputs)
        features, labels, outputs, weight, masks = tf.nest.map_structure(
            lambda present: next(remaining) if present else None, self._inputs_present
        )
        for output, mask in zip(tf.nest.flatten(outputs), masks, strict=True):
            if mask is not None:
                _private_api.set_keras_mask(output, mask)
        scope = RecordingScope(zip(self.metric_variables, metrics, strict=True))
        with scope:
            self._metrics.update(features, labels, outputs, weight)
        return [scope.get_current_value(v) for v in self.metric_variables]

    @override
    def describe_metrics(self, *kinds: str) -> str:
        return self._metrics.names(self.metric_kinds, *kinds)

    def _terms(self, batch: BatchPart, outputs: Any, training: bool, added: list) -> list[Term]:
        """The terms of the loss. `added` are the tensors that were passed to add_loss."""
        model, found = self.model, list(self.model.losses)
        sizes = functools.cache(lambda: probe_model_losses(model, batch, training))
        if _private_api.overrides(model, "compute_loss"):
            loss = _private_api.compute_loss(
                model, batch.features, batch.labels, outputs, batch.sample_weight, training
            )
            return [custom_loss_term(model, loss, batch, sizes)]
        terms: list[Term] = []
        losses = _private_api.compiled_losses(model)

        def recorder(i, loss):
            def record(labels, output, sample_weight=None):
                term = loss_term(loss, labels, output, sample_weight, batch)
                if trackers:
                    self._output_losses.update(trackers[i], term, batch)
                weight = losses[i].loss_weights
                terms.append(term if weight is None else term._replace(total=term.total * weight))
                return tf.zeros([])

            return record

        if losses:
            with _private_api.substituted_losses(model, recorder) as (compiled, trackers):
                compiled(batch.labels, outputs, batch.sample_weight)
        indices = {id(loss): i for i, loss in enumerate(added)}
        for loss in found:
            index = indices.get(id(loss))
            uncertain = index is not None and self._has_custom_layers
            terms.append(added_term(loss, index, batch, sizes, uncertain))
        if not terms:
            raise UserError(
                "the model has nothing to minimize: compile(loss=…) was not given and no layer "
                "adds a loss. Pass a loss to compile()."
            )
        return terms

    @override
    def merge_part_metrics(self, metrics: list, examples: tf.Tensor) -> list:
        return self._output_losses.merge(self.metric_variables, metrics, examples)

    def variable_groups(self) -> dict[str, list]:
        """All variables of a checkpoint, by the first part of their names there."""
        return {
            "model": self._all,
            "optimizer": self.optimizer.variables,
            "metrics": self.metric_variables,
        }

    def named_variables(self) -> dict[str, tf.Variable]:
        """Model, optimizer and metric variables by path, with automatic numbers from 0."""
        groups = self.variable_groups()
        named = {}
        renumber = Renumbering(automatic_names(self.model))
        for group, variables in groups.items():
            for variable in variables:
                name = f"{group}/{renumber(variable.path)}"
                twins = sum(other.split("#")[0] == name for other in named)
                named[f"{name}#{twins}" if twins else name] = marked_value(variable)
        for name, variable in self._raw.items():
            named[f"attributes/{renumber(name)}"] = variable
        return named

    @override
    def settings(self) -> dict[str, Any]:
        scales = [[layer.lora_rank, layer.lora_alpha] for layer in adapted_layers(self.model)]
        settings: dict[str, Any] = {}
        if scales:
            settings["lora_rank and lora_alpha of its layers"] = scales
        state = preprocessing_checksums(self.model)
        if state:
            settings[STATE] = state
        return settings

    @override
    def refresh_constants(self) -> None:
        refresh_constants(self.model)

    @override
    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        return program.plain_values(self._metrics.results(loss))

    @override
    def reset_metrics(self) -> None:
        self._metrics.reset()

    @override
    def explain_batch(self, features: Any, labels: Any) -> str | None:
        return explain_keras_batch(self.model, self._outputs, features, labels)


def _is_seed(variable: Any) -> bool:
    return "seed_generator_state" in variable.path


def _symbols(spec: Any) -> tuple[Any, Any, Any]:
    """Features, labels and weight as KerasTensors."""
    return program.split_element(
        tf.nest.map_structure(lambda s: keras.KerasTensor((None, *s.shape[1:]), s.dtype.name), spec)
    )
