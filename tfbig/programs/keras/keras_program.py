"""Compiled Keras models as programs."""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.rows import marked_value
from tfbig.programs import program
from tfbig.programs.keras.adapters import adapted_layers, factored
from tfbig.programs.keras.checks import (
    check_labels,
    check_model,
    checked_outputs,
    explain_keras_batch,
    with_nan_of,
)
from tfbig.programs.keras.compiled_checks import check_outputs, check_own_methods, errors_of_compile
from tfbig.programs.keras.fed_metrics import fed_metrics
from tfbig.programs.keras.loss import added_term, loss_term, mean_of, own_term
from tfbig.programs.keras.loss_probe import is_known, sizes_of_losses
from tfbig.programs.keras.output_weights import by_output
from tfbig.programs.keras.padding import exact_with_padding
from tfbig.programs.keras.preprocessing import STATE, described_state, layer_without_xla, settle
from tfbig.programs.keras.renumbering import Renumbering, automatic_names
from tfbig.programs.keras.reported_metrics import ReportedMetrics
from tfbig.programs.keras.tuning import tuning_of
from tfbig.programs.metric_sums import metric_sums
from tfbig.programs.observing import (
    RecordingScope,
    may_update_others,
    own_state,
    owners_of,
    updated_variables,
)
from tfbig.programs.program import Batch, Forward, Program, Term, Values
from tfbig.programs.remat.remat import Remat, recomputing
from tfbig.programs.taken_features import taken_features

_CONVOLUTIONS = (
    *(getattr(keras.layers, f"{kind}{n}D") for kind in ("Conv", "MaxPooling") for n in (1, 2, 3)),
    *(getattr(keras.layers, f"Conv{n}DTranspose") for n in (1, 2, 3)),
    *(
        getattr(keras.layers, f"{kind}Conv{n}D")
        for kind in ("Depthwise", "Separable")
        for n in (1, 2)
    ),
)


class KerasProgram(Program):
    """A compiled keras.Model: Sequential, functional or subclassed.

    Args:
        model: compiled; its variables are made in the placement's scope.
        remat: recompute activations in the backward pass, by block.

    Raises:
        UserError: the model is not compiled, has its own `train_step`, or accumulates in its
            optimizer.
    """

    pure = True
    own_steps = False  # whether a model's own train_step or test_step is run

    def __init__(self, model: keras.Model, remat: bool = False):
        check_model(model, self.own_steps)
        if not self.own_steps:
            check_own_methods(model)
        self._remat = remat
        self.model = model
        self.optimizer = model.optimizer
        self._tuning = tuning_of(model)
        self._unlisted: list[keras.Variable] = []
        self._raw: dict[str, tf.Variable] = {}
        self._updated: set[int] = set()  # ids of the variables that a forward pass updates
        self._tracked: dict[int, str] = {}  # kinds of the losses that single outputs show
        self.phases = tuple(step for step, _ in self._tuning.unfreeze if step > 0)
        if self._tuning.rates and getattr(model.optimizer, "use_ema", False):
            raise UserError(
                "rates that differ by layer do not go with an optimizer's use_ema=True, whose "
                "averages would be of other weights; leave one of them out."
            )

    def build(self, spec: Any, run) -> None:
        """Builds layers, losses, metrics and optimizer for batches of this structure."""
        self.enter(max(self.phases, default=0))  # slots for all that is ever trained
        features, labels, weight = _symbols(spec)
        self._outputs = checked_outputs(self.model, features)
        check_outputs(self.model, self._outputs, labels)
        check_labels(self.model, self._outputs, labels)
        weight = by_output(self.model, self._outputs, weight)
        self.updates.build(self.optimizer, self.model.trainable_variables)
        taken = taken_features(self.model, features)
        with errors_of_compile(self.model, labels, weight):
            _private_api.build_compiled(self.model, taken, labels, weight, self._outputs)
        self._metrics = ReportedMetrics(self.model)
        self.metric_variables = self._metrics.variables
        self._blocks = Remat(self.model) if self._remat else None
        self._observe(run, spec)
        self._all = [*self.trainable, *self.state]
        self.enter(0)
        self.metric_sums = metric_sums(
            self.model,
            self._metrics.all,
            self._metrics.update,
            (features, labels, self._outputs, weight),
            self._updated,
            fed_metrics(self.model, self._metrics.all, self._call, (features, labels, weight)),
        )
        for warning in self._metrics.observe((features, labels, self._outputs, weight)):
            self.warn_once(warning)
        layers = _private_api.flatten_layers(self.model)
        self.couples_replicas = any(getattr(layer, "synchronized", False) for layer in layers)
        self.per_replica_statistics = any(
            isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
            for layer in layers
        )
        self.has_convolutions = runs_convolutions(layers)
        self.without_xla = layer_without_xla(self.model)
        self.exact_with_padding = exact_with_padding(self.model, self._metrics.all)

    def _observe(self, run, spec: Any) -> None:
        """Finds the variables that the forward pass updates and the model does not list."""
        self._has_own_layers = may_update_others(self.model)
        own_losses = any(not is_known(one.loss) for one in _private_api.compiled_losses(self.model))
        if not (self._has_own_layers or own_losses):
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
        owners = owners_of(self.model, [*self._unlisted, *tensorflow_variables])
        self.in_sequence = {id(v): owners[id(v)] for v in self._unlisted if not _is_seed(v)}
        self._raw = {owners[id(v)]: v for v in tensorflow_variables}
        self.averaged = own_state(self.model, [v for v in keras_variables if id(v) in known])
        self.in_sequence |= {id(v): name for name, v in self._raw.items()}
        self.state = [*self.state, *self._unlisted]

    def _call(self, features: Any, labels: Any, weight: Any, training: bool) -> Any:
        """The outputs, for a trace of what updates variables besides metrics and losses."""
        outputs = self.model(taken_features(self.model, features), training=training)
        if _private_api.overrides(self.model, "compute_loss"):
            _private_api.compute_loss(self.model, features, labels, outputs, weight, training)
        return outputs

    def _listed(self) -> set[int]:
        """The ids of the variables that the model lists, those of all its metrics included."""
        metrics = _private_api.all_metrics(self.model)
        listed = [*self.model.variables, *(v for m in metrics for v in m.variables)]
        return {id(v) for v in listed}

    def check_evaluation(self, spec: Any) -> None:
        features, labels, weight = _symbols(spec)
        try:
            outputs = checked_outputs(self.model, features)
            check_outputs(self.model, outputs, labels)
            check_labels(self.model, outputs, labels)
            weight = by_output(self.model, outputs, weight)
            with errors_of_compile(self.model, labels, weight):
                _private_api.try_compiled(self.model, features, labels, weight, outputs)
        except UserError as error:
            raise UserError(str(error).replace("input_fn", "eval_input_fn")) from error

    def enter(self, step: int) -> None:
        for start, layers in self._tuning.unfreeze:
            for layer in layers:
                layer.trainable = step >= start
        self.trainable = self.model.trainable_variables
        self.state = [*self.model.non_trainable_variables, *self._unlisted]

    def apply(self, gradients: list) -> None:
        """Updates the trainable variables; a rate scales what the optimizer did to its one."""
        rates = [(v, self._tuning.rates.get(v.path, 1.0)) for v in self.trainable]
        before = [(v, rate, tf.identity(v.value)) for v, rate in rates if rate != 1.0]
        super().apply(gradients)
        for variable, rate, old in before:
            variable.assign(old + tf.cast(rate, old.dtype) * (variable.value - old))

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        blocks = self._blocks.tracing() if self._blocks else contextlib.nullcontext()
        with super().tracing(), factored(self.model), blocks:
            yield

    def forward(self, values: Values, batch: Batch, training: bool) -> Forward:
        """Computes a batch from `values` alone; no variable is read or changed."""
        variables = [*self.trainable, *self.state, *self.metric_variables]
        given = [*values.trainable, *values.state, *values.metrics]
        scope = RecordingScope(zip(variables, given, strict=True))
        blocks = scope if training and self._blocks else None
        with scope:
            with recomputing(blocks):
                taken = taken_features(self.model, batch.features)
                outputs = self.model(taken, training=training)
            weight = by_output(self.model, outputs, batch.sample_weight)
            batch = batch._replace(sample_weight=weight)
            terms = self._terms(batch, outputs, training, scope.losses)
            self._metrics.update_padded(
                batch.features, batch.labels, outputs, weight, batch.row_weight
            )
        if not training:
            terms = with_nan_of(taken, terms)
        self._check_updates(scope, variables)

        def new(variables, values):
            found = [scope.get_current_value(v) for v in variables]
            return [a if b is None else b for a, b in zip(values, found, strict=True)]

        return Forward(
            terms,
            new(self.state, values.state),
            new(self.metric_variables, values.metrics),
            self._hold(batch, outputs) if self.needs_whole_batches else [],
        )

    def _check_updates(self, scope: RecordingScope, variables: list) -> None:
        """Refuses updates that would be lost, of variables that nobody has told of.

        Raises:
            UserError: there is one; it names the variable.
        """
        known = {id(v) for v in variables}
        lost = [v for i, v in scope.updated.items() if i not in known and i not in self._listed()]
        if lost:
            raise UserError(
                f"the model updates the variable {lost[0].path!r} in a call, and neither the model "
                "nor one of its layers lists it; make it with self.add_weight in build(), or "
                "assign it to an attribute of the layer in __init__."
            )

    def _hold(self, batch: Batch, outputs: Any) -> list[tf.Tensor]:
        """What the metrics are updated with, in one list; `_held` remembers its structure."""
        masks = [_private_api.keras_mask(t) for t in tf.nest.flatten(outputs)]
        features = batch.features if self._metrics.own else None
        held = (features, batch.labels, outputs, batch.sample_weight, masks)
        self._held = tf.nest.map_structure(lambda t: t is not None, held)
        return [t for t in tf.nest.flatten(held) if t is not None]

    def update_by_whole(self, metrics: list, held: list) -> list:
        left = iter(held)
        features, labels, outputs, weight, masks = tf.nest.map_structure(
            lambda there: next(left) if there else None, self._held
        )
        for output, mask in zip(tf.nest.flatten(outputs), masks, strict=True):
            if mask is not None:
                _private_api.set_keras_mask(output, mask)
        scope = RecordingScope(zip(self.metric_variables, metrics, strict=True))
        with scope:
            self._metrics.update(features, labels, outputs, weight)
        return [scope.get_current_value(v) for v in self.metric_variables]

    def named_metrics(self, *kinds: str) -> str:
        return self._metrics.names(self.metric_sums, *kinds)

    def _terms(self, batch: Batch, outputs: Any, training: bool, added: list) -> list[Term]:
        """The terms of the loss; `added` are the tensors that add_loss was given."""
        model, found = self.model, list(self.model.losses)
        sizes = functools.cache(lambda: sizes_of_losses(model, batch, training))
        if _private_api.overrides(model, "compute_loss"):
            loss = _private_api.compute_loss(
                model, batch.features, batch.labels, outputs, batch.sample_weight, training
            )
            return [own_term(model, loss, batch, sizes)]
        terms: list[Term] = []
        losses = _private_api.compiled_losses(model)

        def recorder(i, loss):
            def record(labels, output, sample_weight=None):
                term = loss_term(loss, labels, output, sample_weight, batch)
                if trackers:
                    self._track(trackers[i], term, batch)
                weight = losses[i].loss_weights
                terms.append(term if weight is None else term._replace(total=term.total * weight))
                return tf.zeros([])

            return record

        if losses:
            with _private_api.substituted_losses(model, recorder) as (compiled, trackers):
                compiled(batch.labels, outputs, batch.sample_weight)
        places = {id(loss): i for i, loss in enumerate(added)}
        for loss in found:
            place = places.get(id(loss))
            doubted = place is not None and self._has_own_layers
            terms.append(added_term(loss, place, batch, sizes, doubted))
        if not terms:
            raise UserError(
                "the model has nothing to minimise: compile(loss=…) was not given and no layer "
                "adds a loss. Pass a loss to compile()."
            )
        return terms

    def _track(self, tracker: keras.metrics.Mean, term: Term, batch: Batch) -> None:
        """Shows one output's loss; of a part, what `of_whole_batch` makes the mean from."""
        if batch.whole:
            tracker.update_state(mean_of(term, batch), sample_weight=batch.count)
            return
        total, denominator = term.total, batch.count
        if term.kind == program.EXAMPLES:
            total /= term.per_row
        elif term.kind == program.OWN:
            denominator = term.denominator
        elif term.kind == program.SCALAR:
            total *= batch.count
        tracker.total.assign(tracker.total + total)
        tracker.count.assign(tracker.count + denominator)
        self._tracked[id(tracker.total)] = term.kind

    def of_whole_batch(self, metrics: list, examples: tf.Tensor) -> list:
        metrics = list(metrics)
        for i, variable in enumerate(self.metric_variables):
            kind = self._tracked.get(id(variable))
            if kind is None:
                continue
            mean, denominator = metrics[i : i + 2]  # a Mean's total and count
            if kind != program.UNDIVIDED:
                mean = tf.math.divide_no_nan(mean, denominator)
            metrics[i : i + 2] = mean * examples, examples
        return metrics

    def variable_groups(self) -> dict[str, list]:
        """All variables that a checkpoint holds, by the first part of their names."""
        return {
            "model": self._all,
            "optimizer": self.optimizer.variables,
            "metrics": self.metric_variables,
        }

    def named_variables(self) -> dict[str, tf.Variable]:
        """Model, optimizer and metric variables by path, automatic numbers counted from 0."""
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

    def settings(self) -> dict[str, Any]:
        scales = [[layer.lora_rank, layer.lora_alpha] for layer in adapted_layers(self.model)]
        settings: dict[str, Any] = {}
        if scales:
            settings["lora_rank and lora_alpha of its layers"] = scales
        state = described_state(self.model)
        if state:
            settings[STATE] = state
        return settings

    def settle(self) -> None:
        settle(self.model)

    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        return program.plain_values(self._metrics.results(loss))

    def reset_metrics(self) -> None:
        self._metrics.reset()

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        return explain_keras_batch(self.model, self._outputs, features, labels)


def runs_convolutions(layers: list[keras.layers.Layer]) -> bool:
    """Whether some layer is a convolution or a maximum over a window."""
    return any(isinstance(layer, _CONVOLUTIONS) for layer in layers)


def _is_seed(variable: Any) -> bool:
    return "seed_generator_state" in variable.path


def _symbols(spec: Any) -> tuple[Any, Any, Any]:
    """Features, labels and weight as KerasTensors."""
    return program.split_element(
        tf.nest.map_structure(lambda s: keras.KerasTensor((None, *s.shape[1:]), s.dtype.name), spec)
    )
