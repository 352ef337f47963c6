"""Evaluates a model on a hold-out set: its loss, its compiled metrics and those of the task."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.data.feeds.feed import Feed, Stack, rows_for, slice_for_worker
from tfbig.errors import UserError
from tfbig.evaluation.holdout_metrics import HoldOutMetrics
from tfbig.evaluation.report import Report
from tfbig.metrics.metric import Value
from tfbig.placement.placement import Placement
from tfbig.programs.feature_matching import match_features
from tfbig.programs.keras.checks import explain_numbers
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt, rebuilt_uncompiled
from tfbig.programs.program import split_element
from tfbig.programs.vector_metrics import to_fit_logs
from tfbig.run_config import RunConfig
from tfbig.training.evaluation.checked_calls import refusal_of_batch
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.model import build_program

log = logging.getLogger("tfbig")


def evaluate_model(
    model: keras.Model,
    placement: Placement,
    feed: Feed,
    *,
    metrics: Sequence[Any] | None = None,
    task: str | None = None,
    steps: int | None = None,
    samples: int = 0,
    class_names: Sequence[str] | None = None,
    history: Sequence[Mapping[str, float]] = (),
    title: str = "Evaluation",
    keep: bool = True,
) -> Report:
    """Evaluates a model in one pass over the feed.

    Args:
        model: the model, compiled or not.
        placement: the replicas to use.
        feed: the data in its own order; it is closed at the end.
        metrics, task: as in `HoldOutMetrics`.
        steps: the number of batches; None for all.
        samples: the number of bootstrap resamples; 0 for no intervals.
        class_names, history, title: as in `Report`.
        keep: whether the model belongs to the caller and must not be modified.

    Returns:
        The Report. If a compiled metric has the name of a hold-out metric and a different value,
        it is reported as compiled_<name>.

    Raises:
        UserError: the data is empty or infinite, or does not match the model or the metrics.
    """
    try:
        if getattr(feed, "infinite", False) and steps is None:
            raise UserError(
                "input_fn returned an infinite Dataset, so the evaluation would not end; pass "
                "steps=, or leave out .repeat()."
            )
        has_loss = model.compiled and _has_loss(model, feed)
        holdout = HoldOutMetrics(
            metrics,
            task=task,
            loss=model.loss if model.compiled else None,
            optional=has_loss,
            samples=samples,
            most_examples=_most_steps(feed, steps) and _most_steps(feed, steps) * feed.batch_size,
        )
        local_model = _on_placement(model, placement, has_loss, keep)
        if has_loss and not (keep and local_model is model):
            _drop_optimizer_state(local_model, placement)
        program = _program(local_model, placement, feed) if has_loss else None
        one_pass = _OnePass(feed, steps, placement)
        compiled = _measure_pass(local_model, program, placement, one_pass, holdout)
    finally:
        feed.close()
    if not holdout.examples:
        raise UserError("input_fn returned no examples, so there is nothing to evaluate on.")
    figures = _merge(holdout.results(), compiled)
    if not figures:
        raise UserError(
            "there is nothing to report: the model is not compiled with a loss, and metrics is "
            "empty; compile the model, or pass metrics=None."
        )
    if class_names is not None and holdout.classes not in (None, len(class_names)):
        raise UserError(
            f"class_names has {len(class_names)} names, but the predictions have "
            f"{holdout.classes} classes; pass one name per class."
        )
    return Report(
        figures,
        metrics=holdout.metrics,
        history=history,
        intervals=holdout.intervals(),
        class_names=class_names,
        title=title,
    )


class _OnePass(Feed):
    """A feed that ends after `steps` batches and calls `on_stack` with every stack.

    `on_stack` receives whole global batches, because every worker gets all predictions; `pull`
    returns this worker's share.
    """

    infinite = False

    def __init__(self, feed: Feed, steps: int | None, placement: Placement):
        for name in ("element_spec", "batch_size", "capacity", "static"):
            setattr(self, name, getattr(feed, name))
        self.worker, self.workers = placement.peers.index, placement.peers.count
        self.rows = rows_for(-(-self.batch_size // self.workers), placement.local_replicas)
        self.full = self.rows * self.workers == self.batch_size
        known = [n for n in (feed.steps_per_pass, steps) if n is not None]
        self.steps_per_pass = min(known, default=None)
        self._feed = feed
        self.on_stack: Callable[[Stack], None] = lambda stack: None

    def pull(self, step: int, steps: int, then: int = 0) -> Stack:
        stack = self._feed.pull(step, steps, then)
        self.on_stack(stack)
        if self.workers == 1 or not stack.steps:
            return stack
        return slice_for_worker(stack, self.rows, self.worker, self.workers)

    def next_pass(self) -> None:
        """Does nothing, because there is only one pass."""


def _most_steps(feed: Feed, steps: int | None) -> int | None:
    known = [each for each in (feed.steps_per_pass, steps) if each is not None]
    return min(known, default=None)


def _measure_pass(
    model: keras.Model,
    program: KerasProgram | None,
    placement: Placement,
    feed: _OnePass,
    holdout: HoldOutMetrics,
) -> dict[str, float]:
    """Adds all batches to `holdout`; returns the loss and compiled metrics of the program."""
    predictor = Predictor(model, placement, feed)
    number = 0

    def add(features: Any, labels: Any, weights: Any, outputs: Any) -> None:
        nonlocal number
        number += 1
        # The program checks the features of a compiled model; without one, check them here.
        matched = match_features(model, features)
        problem = explain_numbers("features", matched) if program is None else None
        try:
            if not problem:
                holdout.add(labels, outputs, weights)
        except UserError:
            problem = program and program.explain_batch(features, labels)
            if not problem:
                raise
        if problem:
            raise refusal_of_batch(problem, number, "input_fn")

    if program is None:
        for batch in predictor.batches():
            add(*batch)
        return {}

    def measure(stack: Stack) -> None:
        for batch in predictor.of_stack(stack):
            add(*batch)

    feed.on_stack = measure
    return to_fit_logs(Evaluator(program, placement, feed, RunConfig(), jit=False)())


def _has_loss(model: keras.Model, feed: Feed) -> bool:
    if model.loss is not None or _private_api.overrides(model, "compute_loss"):
        return True
    labels = split_element(feed.element_spec)[1]
    return labels is None  # without labels, layers may add the loss


def _on_placement(
    model: keras.Model, placement: Placement, has_loss: bool, keep: bool
) -> keras.Model:
    """Returns the model, or a copy whose variables are in the scope of the placement."""
    on_devices = all(placement.owns(v.value) for v in model.variables)
    if on_devices and model.built and not (has_loss and keep):  # predicting does not modify it
        return model
    try:
        with placement.scope():
            return rebuilt(model) if has_loss else rebuilt_uncompiled(model)
    except CANNOT_BE_REBUILT as error:
        if on_devices:
            return model
        raise UserError(
            f"{type(model).__name__} cannot be rebuilt on the devices of the replicas from its "
            f"get_config ({str(error).splitlines()[0]}); evaluate on one device."
        ) from error


def _drop_optimizer_state(model: keras.Model, placement: Placement) -> None:
    """Compiles a model with an optimizer without slot variables, because nothing is trained.

    It keeps the learning rate, which the model's compute_metrics may report.
    """
    optimizer = keras.optimizers.SGD()
    if model.optimizer is not None:
        optimizer.learning_rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    arguments = {**_private_api.compile_arguments(model), "optimizer": optimizer}
    with placement.scope():
        model.compile(**arguments)


def _program(model: keras.Model, placement: Placement, feed: Feed) -> KerasProgram | None:
    try:
        program = KerasProgram(model)
    except UserError as error:
        log.info("the loss and the compiled metrics are not computed: %s", error)
        return None
    build_program(program, placement, feed, training=True)
    return program


def _merge(measured: dict[str, Value], compiled: dict[str, Value]) -> dict[str, Value]:
    """Merges results by name: the loss, the hold-out metrics, then other compiled metrics."""
    figures: dict[str, Value] = {}
    if "loss" in compiled and "loss" not in measured:
        figures["loss"] = compiled["loss"]
    figures |= measured
    for name, value in compiled.items():
        if name not in measured:
            figures[name] = value
        elif not (
            isinstance(measured[name], float)
            and isinstance(value, float)
            and np.isclose(value, measured[name], rtol=1e-5, atol=1e-6)
        ):
            log.info(
                "%s is %s, but %s by the metric of that name that the model is compiled with; both "
                "are reported",
                name,
                f"{measured[name]:.4g}"
                if isinstance(measured[name], float)
                else "not a single number",
                f"{value:.4g}" if isinstance(value, float) else "not a single number",
            )
            figures[f"compiled_{name}"] = value
    return figures
