"""Estimator.evaluate: evaluates a checkpoint on one pass over the data."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from tfbig.arguments import call_input_fn
from tfbig.errors import UserError
from tfbig.estimator.eval_events import write_eval_metrics
from tfbig.estimator.hooks.translation import ModeHooks
from tfbig.estimator.loading import load_program, placement_outside_training, writes_results
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.control.preflight import compare
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint
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
) -> dict[str, float]:
    """Does the work of `Estimator.evaluate`; the arguments are the same."""
    config, params = estimator.config, estimator.params
    placement = placement_outside_training(estimator)
    peers = placement.peers
    with cluster_error_scope(peers, config):
        data = call_input_fn(input_fn, ModeKeys.EVAL, params, config)
        feed = make_feed(
            data,
            seed=config.tf_random_seed,
            multiple=placement.local_replicas,
            order="own",
            training=False,
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
                _find_checkpoint(estimator, checkpoint) if peers.is_chief else None
            )
            if path is None:
                log.warning(
                    "Could not find trained model in model_dir: %s, running initialization to "
                    "evaluate",
                    estimator.model_dir,
                )
            watched = ModelFnRecorder(estimator.model_fn)
            warm = estimator.warm_start
            program = load_program(
                watched, params, config, placement, feed, ModeKeys.EVAL, path,
                warm and warm.values_for,
            )  # fmt: skip
            fetcher = TensorFetcher(program, placement, feed, watched, ModeKeys.EVAL)
            mode_hooks = ModeHooks(hooks, watched, "evaluation_hooks", ModeKeys.EVAL, fetcher)
            jit = config.jit_compile is True
            evaluator = Evaluator(program, placement, feed, config, jit, steps, mode_hooks)
            result: dict[str, Any] = {**evaluator(), "global_step": step}
        finally:
            feed.close()
        if writes_results(placement):
            write_eval_metrics(estimator.eval_dir(name), step, result)
        shown = ", ".join(f"{key} = {value:g}" for key, value in sorted(result.items()))
        log.info("evaluation at step %d: %s", step, shown)
        return result


def _find_checkpoint(estimator: Any, path: Any) -> list:
    """Returns the path and the step of the checkpoint; None and 0 if there is none yet."""
    if path is None and estimator.latest_checkpoint() is None:
        return [None, 0]
    path = estimator.checkpoint(path)
    return [path, NamedCheckpoint(path).step]
