"""Estimator.predict: predictions of a checkpoint, one example at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfbig.arguments import call_input_fn
from tfbig.data.feeds.feed import Feed
from tfbig.errors import UserError
from tfbig.estimator.hooks.translation import ModeHooks
from tfbig.estimator.loading import find_checkpoint, load_program, placement_outside_training
from tfbig.placement.control.cluster_errors import cluster_error_scope
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.preflight import compare
from tfbig.programs.model_fn.call import ModelFnRecorder
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.feeds import described_feed, make_feed
from tfbig.training.loop.tensor_fetcher import TensorFetcher


def predict(
    estimator: Any,
    input_fn: Callable,
    *,
    keys: Sequence[str] | str | None,
    hooks: Sequence[Any] | None,
    checkpoint: Any,
    single: bool,
) -> Iterator[Any]:
    """Does the work of `Estimator.predict`; the arguments are the same."""
    config, params = estimator.config, estimator.params
    placement = placement_outside_training(estimator)
    peers = placement.peers
    with cluster_error_scope(peers, config):
        path, _ = peers.broadcast(
            find_checkpoint(estimator, checkpoint, "predict") if peers.is_chief else None
        )
        data = call_input_fn(
            input_fn, ModeKeys.PREDICT, estimator.params_for(input_fn, ModeKeys.PREDICT), config
        )
        feed = make_feed(
            data,
            seed=config.tf_random_seed,
            multiple=placement.num_replicas,
            steps_per_loop=config.steps_per_loop,
            order="own",
            training=False,
            sparse=True,
        )
        try:
            compare(peers, {"input_fn": described_feed(feed)})
            watched = ModelFnRecorder(estimator.given_model_fn)
            warm = estimator.warm_start
            program = load_program(
                watched, params, config, placement, feed, ModeKeys.PREDICT, path,
                warm and warm.values_for,
            )  # fmt: skip
            keys = _checked_keys(keys, watched.first[ModeKeys.PREDICT].predictions)
            predictor = Predictor(program, placement, feed, endless=True, keys=keys)
            fetcher = TensorFetcher(program, placement, feed, watched, ModeKeys.PREDICT)
            mode_hooks = ModeHooks(hooks, watched, "prediction_hooks", ModeKeys.PREDICT, fetcher)
        except BaseException:
            feed.close()
            raise
    return _iterate(predictor, mode_hooks, feed, peers, single)


def _iterate(
    predictor: Predictor,
    hooks: ModeHooks,
    feed: Feed,
    peers: Peers,
    single: bool,
) -> Iterator[Any]:
    try:
        batches = predictor.batches(hooks)
        while True:
            with cluster_error_scope(peers):
                *_, outputs = next(batches, (None,))
            if outputs is None:
                return
            if not single:
                yield outputs
                continue
            for i in range(_batch_size(outputs)):
                yield tf.nest.map_structure(lambda a: a[i], outputs)  # noqa: B023
    finally:
        feed.close()


def _batch_size(outputs: Any) -> int:
    sizes = {a.shape[:1] for a in tf.nest.flatten(outputs)}
    if len(sizes) > 1 or () in sizes:
        shapes = tf.nest.map_structure(lambda a: a.shape, outputs)
        raise UserError(
            f"Batch length of predictions should be same; received {shapes}. Pass "
            "yield_single_examples=False, or select outputs with predict_keys."
        )
    return sizes.pop()[0]


def _checked_keys(keys: Any, predictions: Any) -> list[str] | None:
    if keys is None:
        return None
    if not isinstance(predictions, dict):
        raise UserError(
            f"predict(predict_keys={keys!r}): predictions are not a dict; leave predict_keys out."
        )
    keys = [keys] if isinstance(keys, str) else list(keys)
    unknown = [key for key in keys if key not in predictions]
    if unknown or not keys:
        raise UserError(
            f"predict(predict_keys={keys!r}): Expected to run at least one output from "
            f"{sorted(predictions)}, and no other names."
        )
    return keys
