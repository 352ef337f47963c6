"""Evaluates a model on a hold-out set: its loss, its own metrics, and those of its task."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.data.feeds.feed import Feed, Stack, cut_out, rows_for
from tfbig.errors import UserError
from tfbig.evaluation.measuring import HoldOutMetrics
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
    """Reads the feed once; every stack of batches is predicted, measured, and put to the loss.

    Args:
        model: compiled or not.
        placement: where.
        feed: in its own order; it is closed.
        metrics, task: as in `HoldOutMetrics`.
        steps: the number of batches; None: all.
        samples: of the bootstrap; 0: no intervals.
        class_names, history, title: for the Report.
        keep: the model is the caller's, and is left as it is.

    Returns:
        The Report. A figure that a compiled metric has under the same name is the hold-out's; the
        compiled one is beside it as compiled_<name> if it says something else.

    Raises:
        UserError: the data would not end or are none, or do not go with the model or the metrics.
    """
    try:
        if getattr(feed, "infinite", False) and steps is None:
            raise UserError(
                "input_fn returned an infinite Dataset, so the evaluation would not end; give "
                "steps=, or leave out .repeat()."
            )
        has_loss = model.compiled and _has_loss(model, feed)
        measured = HoldOutMetrics(
            metrics,
            task=task,
            loss=model.loss if model.compiled else None,
            optional=has_loss,
            samples=samples,
            most_examples=_most_steps(feed, steps) and _most_steps(feed, steps) * feed.batch_size,
        )
        placed = _placed(model, placement, has_loss, keep)
        if has_loss and not (keep and placed is model):
            _leave_optimizer_out(placed, placement)
        program = _program(placed, placement, feed) if has_loss else None
        compiled = _pass(placed, program, placement, _OnePass(feed, steps, placement), measured)
    finally:
        feed.close()
    if not measured.examples:
        raise UserError("input_fn gave no example, so there is nothing to evaluate on.")
    figures = _together(measured.figures(), compiled)
    if not figures:
        raise UserError(
            "there is no figure to tell: the model is not compiled with a loss, and metrics gives "
            "none; compile it, or write metrics=None."
        )
    if class_names is not None and measured.classes not in (None, len(class_names)):
        raise UserError(
            f"class_names has {len(class_names)} names, but the predictions have "
            f"{measured.classes} classes; give one name for each."
        )
    return Report(
        figures,
        metrics=measured.metrics,
        history=history,
        intervals=measured.intervals(),
        class_names=class_names,
        title=title,
    )


class _OnePass(Feed):
    """A feed that ends after some steps, and shows every stack that is pulled.

    It shows whole batches, of which every worker has all predictions, and returns its share.
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
        self.show: Callable[[Stack], None] = lambda stack: None

    def pull(self, step: int, steps: int, then: int = 0) -> Stack:
        stack = self._feed.pull(step, steps, then)
        self.show(stack)
        if self.workers == 1 or not stack.steps:
            return stack
        return cut_out(stack, self.rows, self.worker, self.workers)

    def next_pass(self) -> None:
        """There is no other."""


def _most_steps(feed: Feed, steps: int | None) -> int | None:
    known = [each for each in (feed.steps_per_pass, steps) if each is not None]
    return min(known, default=None)


def _pass(
    model: keras.Model,
    program: KerasProgram | None,
    placement: Placement,
    feed: _OnePass,
    measured: HoldOutMetrics,
) -> dict[str, float]:
    """Measures all batches; returns the loss and the compiled metrics, {} without a program."""
    predictor = Predictor(model, placement, feed)
    number = 0

    def add(features: Any, labels: Any, weights: Any, outputs: Any) -> None:
        nonlocal number
        number += 1
        # Of a compiled model the loss tells, but a model's outputs can be numbers all the same.
        taken = match_features(model, features)
        found = explain_numbers("features", taken) if program is None else None
        try:
            if not found:
                measured.add(labels, outputs, weights)
        except UserError:
            found = program and program.explain_batch(features, labels)
            if not found:
                raise
        if found:
            raise refusal_of_batch(found, number, "input_fn")

    if program is None:
        for batch in predictor.batches():
            add(*batch)
        return {}

    def measure(stack: Stack) -> None:
        for batch in predictor.of_stack(stack):
            add(*batch)

    feed.show = measure
    return to_fit_logs(Evaluator(program, placement, feed, RunConfig(), jit=False)())


def _has_loss(model: keras.Model, feed: Feed) -> bool:
    if model.loss is not None or _private_api.overrides(model, "compute_loss"):
        return True
    labels = split_element(feed.element_spec)[1]
    return labels is None  # then its layers add the loss, if there is any


def _placed(model: keras.Model, placement: Placement, has_loss: bool, keep: bool) -> keras.Model:
    """The model, or one like it, with its variables in the placement's scope."""
    there = all(placement.owns(v.value) for v in model.variables)
    if there and model.built and not (has_loss and keep):  # predicting alone changes nothing of it
        return model
    try:
        with placement.scope():
            return rebuilt(model) if has_loss else rebuilt_uncompiled(model)
    except CANNOT_BE_REBUILT as error:
        if there:
            return model
        raise UserError(
            f"{type(model).__name__} cannot be made again on the replicas' devices from its "
            f"get_config ({str(error).splitlines()[0]}); evaluate on one device."
        ) from error


def _leave_optimizer_out(model: keras.Model, placement: Placement) -> None:
    """Compiles a model with an optimizer that keeps nothing for a weight; none is trained.

    A model's own compute_metrics may report the learning rate.
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
        log.info("the loss and the compiled metrics are left out: %s", error)
        return None
    build_program(program, placement, feed, training=True)
    return program


def _together(measured: dict[str, Value], compiled: dict[str, Value]) -> dict[str, Value]:
    """All figures by name: the loss, those of the task, then what else the model tells."""
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
                "%s is %s, and %s by the metric of that name that the model is compiled with; both "
                "are told",
                name,
                f"{measured[name]:.4g}" if isinstance(measured[name], float) else "not one number",
                f"{value:.4g}" if isinstance(value, float) else "not one number",
            )
            figures[f"compiled_{name}"] = value
    return figures
