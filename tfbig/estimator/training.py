"""Estimator.train: one training run with the options of its hooks and its EstimatorSpec."""

import dataclasses
import functools
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tfbig.arguments import call_input_fn
from tfbig.errors import UserError
from tfbig.estimator.hooks.in_memory_evaluator import InMemoryEvaluatorHook
from tfbig.estimator.hooks.translation import ModeHooks, plan_hooks
from tfbig.estimator.spec_options import options_of_spec, saves_of
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.training.request import RunOptions, TrainRequest, nearest
from tfbig.training.result import TrainResult
from tfbig.training.run import run_training


class Evaluation(NamedTuple):
    """The evaluations during a training run.

    Attributes:
        input_fn, steps, hooks: as for `Estimator.evaluate`.
        callbacks: called after each evaluation, before all other callbacks.
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
        evaluation: the evaluations during the run; or None.
        config: a RunConfig that replaces the Estimator's; or None.

    Raises:
        SystemExit, KeyboardInterrupt: the process received SIGTERM or SIGINT; a checkpoint was
            written first.
    """
    config, params = config or estimator.config, estimator.params
    read = functools.partial(_read, estimator, config)
    given = plan_hooks(hooks, listeners=listeners or ())  # errors in hooks are raised at once
    evaluators = [h for h in given.callbacks if isinstance(h, InMemoryEvaluatorHook)]
    if evaluators:
        evaluation = _in_memory(estimator, evaluators, evaluation)
        config = config.replace(eval_every_steps=evaluators[0].every_n_iter)
        read = functools.partial(_read, estimator, config)
    read_eval = evaluation and functools.partial(
        read, evaluation.input_fn, ModeKeys.EVAL, "EvalSpec.input_fn"
    )
    options = RunOptions(
        callbacks=tuple(callback for callback in given.callbacks if callback not in evaluators),
        num_steps=nearest(steps, given.num_steps),
        last_step=nearest(max_steps, given.last_step),
        saves=saves_of(given.savers, estimator.model_dir),
        repeats=True,
    )
    if estimator.warm_start is not None:
        options = dataclasses.replace(options, initializers=(estimator.warm_start.values_for,))
    if evaluation is not None:
        make_hooks = functools.partial(_hooks_of, evaluation.hooks)
        options = dataclasses.replace(options, eval_steps=evaluation.steps, eval_hooks=make_hooks)
    request = TrainRequest(
        model_fn=estimator.given_model_fn,
        read=functools.partial(read, input_fn, ModeKeys.TRAIN, "input_fn"),
        read_eval=read_eval,
        config=config,
        strategy=estimator.strategy,
        devices=estimator.devices,
        model_dir=estimator.model_dir,
        params=params,
        callbacks=evaluation.callbacks if evaluation is not None else (),
        options=options,
        options_of_spec=functools.partial(options_of_spec, model_dir=estimator.model_dir),
    )
    return _unless_preempted(run_training(request))


def _in_memory(
    estimator: Any, evaluators: list[InMemoryEvaluatorHook], evaluation: Evaluation | None
) -> Evaluation:
    """Returns the evaluations that an InMemoryEvaluatorHook asks for."""
    hook = evaluators[0]
    if len(evaluators) > 1 or evaluation is not None:
        raise UserError(
            "hooks: a run has one evaluation; pass one InMemoryEvaluatorHook, and none to "
            "train_and_evaluate."
        )
    if hook.estimator is not estimator:
        raise UserError(
            "InMemoryEvaluatorHook(estimator=…) has another Estimator than the one that is trained."
        )
    return Evaluation(hook.input_fn, hook.steps, hook.hooks, [hook])


def _read(estimator: Any, config: Any, input_fn: Callable, mode: str, name: str) -> Any:
    return call_input_fn(input_fn, mode, estimator.params_for(input_fn, mode), config, name)


def _hooks_of(hooks: Sequence[Any] | None, watched: Any, fetcher: Any) -> ModeHooks:
    return ModeHooks(hooks, watched, "evaluation_hooks", ModeKeys.EVAL, fetcher)


def _unless_preempted(result: TrainResult) -> TrainResult:
    """Returns the result, or raises what the signal would have raised if one ended the run."""
    if result.preempted == "SIGINT":
        raise KeyboardInterrupt
    if result.preempted:
        raise SystemExit(128 + signal.Signals[result.preempted])
    return result
