"""Estimator.evaluate: evaluates a checkpoint on one pass over the data."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tfbig.arguments import call_input_fn
from tfbig.errors import UserError
from tfbig.estimator.eval_events import write_eval_metrics
from tfbig.estimator.hooks.translation import ModeHooks
from tfbig.estimator.loading import (
    find_checkpoint,
    load_program,
    placement_outside_training,
    writes_results,
)
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.control.preflight import compare
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.programs.vector_metrics import numbers_of, to_scalars
from tfbig.training.evaluation.evaluator import Evaluator
from tfbig.training.feeds import described_feed, make_feed
from tfbig.training.loop.tensor_fetcher import TensorFetcher

log = logging.getLogger("tfbig")


def evaluate(
    estimator: Any,
    input_fn: Callable,
    *,
    steps: int | None,
    hooks: Sequence[Any] | None,
    checkpoint: Any,
    name: str | None,
) -> dict[str, Any]:
    """Does the work of `Estimator.evaluate`; the arguments are the same."""
    config, params = estimator.config, estimator.params
    placement = placement_outside_training(estimator)
    peers = placement.peers
    with cluster_error_scope(peers, config):
        data = call_input_fn(
            input_fn, ModeKeys.EVAL, estimator.params_for(input_fn, ModeKeys.EVAL), config
        )
        feed = make_feed(
            data,
            seed=config.tf_random_seed,
            multiple=placement.local_replicas,
            order="own",
            training=False,
            sparse=True,
            worker=peers.index,
            workers=peers.count,
        )
        try:
            if getattr(feed, "infinite", False) and steps is None:
                raise UserError(
                    "input_fn returned an infinite Dataset, so the evaluation would not end; pass "
                    "steps, or leave out .repeat()."
                )
            compare(peers, {"input_fn": described_feed(feed), "steps": str(steps)})
            path, step = peers.broadcast(
                find_checkpoint(estimator, checkpoint, "evaluate") if peers.is_chief else None
            )
            watched = ModelFnRecorder(estimator.given_model_fn)
            warm = estimator.warm_start
            program = load_program(
                watched, params, config, placement, feed, ModeKeys.EVAL, path,
                warm and warm.values_for,
            )  # fmt: skip
            fetcher = TensorFetcher(program, placement, feed, watched, ModeKeys.EVAL)
            mode_hooks = ModeHooks(hooks, watched, "evaluation_hooks", ModeKeys.EVAL, fetcher)
            jit = config.jit_compile is True
            evaluator = Evaluator(program, placement, feed, config, jit, steps, mode_hooks)
            loss = evaluator()["loss"]
            result: dict[str, Any] = {"loss": loss, **program.metric_values, "global_step": step}
        finally:
            feed.close()
        if writes_results(placement):
            write_eval_metrics(estimator.eval_dir(name), step, result)
        numbers = sorted(to_scalars(numbers_of(result)).items())
        shown = ", ".join(f"{key} = {value:g}" for key, value in numbers)
        log.info("evaluation at step %d: %s", step, shown)
        return result
