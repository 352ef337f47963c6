"""Estimator.train: one run of the training session, with what hooks and the spec ask of it."""

import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfbig.arguments import call_input_fn
from tfbig.errors import UserError
from tfbig.estimator.hooks.checkpoint_saver import CheckpointSaverHook
from tfbig.estimator.hooks.translation import ModeHooks, plan_hooks
from tfbig.estimator.scaffold import plan_scaffold
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.parameter_server.serving_task import ServingTask
from tfbig.placement.strategies import make_placement
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.training.result import TrainResult
from tfbig.training.session import TrainingSession
from tfbig.training.task_roles import serve, train_or_follow


class Evaluation(NamedTuple):
    """What a run is evaluated by while it trains.

    Attributes:
        input_fn, steps, hooks: as for `Estimator.evaluate`.
        callbacks: told of the evaluations; they come before all others.
    """

    input_fn: Callable
    steps: int | None
    hooks: Sequence[Any] | None
    callbacks: list[Any]


def fit(
    estimator: Any,
    input_fn: Callable,
    *,
    hooks: Sequence[Any] | None,
    steps: int | None = None,
    max_steps: int | None = None,
    listeners: Sequence[Any] | None = None,
    evaluation: Evaluation | None = None,
    config: Any = None,
) -> TrainResult:
    """Trains an Estimator's model_fn.

    Args:
        estimator: a tfbig.Estimator.
        input_fn, hooks, steps, max_steps, listeners: as for its `train`.
        evaluation: or None.
        config: a RunConfig in the place of its own.

    Raises:
        SystemExit, KeyboardInterrupt: SIGTERM or SIGINT has come; all was saved first.
    """
    config, params = config or estimator.config, estimator.params
    given = plan_hooks(hooks, listeners=listeners or ())  # what is wrong with them is said at once
    placement = make_placement(estimator.strategy, estimator.devices, trains=True)
    read = lambda: call_input_fn(input_fn, ModeKeys.TRAIN, params, config)  # noqa: E731
    read_eval = evaluation and (
        lambda: call_input_fn(
            evaluation.input_fn, ModeKeys.EVAL, params, config, "EvalSpec.input_fn"
        )
    )
    if isinstance(placement, ServingTask):
        return _unless_preempted(serve(placement, config, read, read_eval))
    with cluster_error_scope(placement.peers, config):
        session = TrainingSession(
            config=config,
            model_dir=estimator.model_dir,
            placement=placement,
            params=params,
            limit=_nearest(steps, given.num_steps),
            repeats=True,
        )
        with session.watching():
            session.read_data(
                read,
                read_eval,
                max_steps=_nearest(max_steps, given.last_step),
                epochs=None,
            )
            session.build_model(estimator.model_fn)
            if estimator.warm_start is not None:
                session.initialize_by(estimator.warm_start.values_for)
            callbacks = [*given.callbacks, *hooks_of_spec(session)]
            for saver in given.savers:
                save_by(session, saver, estimator.model_dir)
            if evaluation is not None:
                callbacks = [*evaluation.callbacks, *callbacks]
                session.evaluate_with(
                    evaluation.steps,
                    lambda look: ModeHooks(
                        evaluation.hooks, session.watched, "evaluation_hooks", ModeKeys.EVAL, look
                    ),
                )
            result = train_or_follow(session, placement, callbacks)
    return _unless_preempted(result)


def _unless_preempted(result: TrainResult) -> TrainResult:
    """The result of a run that no signal has ended; else what the signal would have raised."""
    if result.preempted == "SIGINT":
        raise KeyboardInterrupt
    if result.preempted:
        raise SystemExit(128 + signal.Signals[result.preempted])
    return result


def hooks_of_spec(session: TrainingSession) -> list[Any]:
    """The callbacks of the spec's training hooks; other hooks and the scaffold set the session.

    Args:
        session: whose model_fn has been built.
    """
    if session.watched is None:
        return []
    spec = session.watched.first[ModeKeys.TRAIN]
    callbacks = []
    for field in ("training_hooks", "training_chief_hooks"):
        plan = plan_hooks(getattr(spec, field, None), where=field, spec=spec)
        callbacks += plan.callbacks
        session.limit(plan.num_steps, plan.last_step)
        for saver in plan.savers:
            save_by(session, saver, session.model_dir)
    scaffold = plan_scaffold(getattr(spec, "scaffold", None))
    if scaffold.keep is not None:
        session.keep_checkpoints(scaffold.keep)
    if scaffold.initialize is not None:
        initialize = scaffold.initialize
        session.initialize_by(lambda program: initialize() or {})
    return callbacks


def save_by(session: TrainingSession, saver: CheckpointSaverHook, model_dir: str | None) -> None:
    """Has a session write checkpoints when a CheckpointSaverHook says."""
    if saver.checkpoint_dir is not None and str(saver.checkpoint_dir) != model_dir:
        raise UserError(
            f"CheckpointSaverHook(checkpoint_dir={saver.checkpoint_dir!r}): checkpoints are "
            f"written to the model_dir, {model_dir!r}; give that."
        )
    session.save_every(saver.save_steps, saver.save_secs)


def _nearest(*steps: int | None) -> int | None:
    return min((step for step in steps if step is not None), default=None)
