"""From what an input_fn returned to what reads global batches from it."""

import tensorflow as tf

from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.data.feeds.feed import Feed
from tfbig.data.feeds.numbered_feed import NumberedFeed
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.placement.parameter_server.parameter_server import ParameterServer
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig

TRAINING, EVALUATION = "input_fn", "eval_input_fn"  # what workers know the data by


def make_feed(
    data: tf.data.Dataset | Source,
    *,
    seed: int | None,
    multiple: int,
    steps_per_loop: int | str = "auto",
    order: str,
    training: bool,
    worker: int = 0,
    workers: int = 1,
    blocks: int = 1,
) -> Feed:
    """What reads global batches from what an input_fn returned.

    Args:
        data: batched.
        seed: of a Source's shuffle and augmentation.
        multiple: the number of parts that a worker's share of a batch is cut into.
        steps_per_loop: RunConfig.steps_per_loop.
        order: RunConfig.data_distribution, or "own".
        training: whether a Source's augmentation is random.
        worker, workers: whose share is read, of how many.
        blocks: of how many a Source in the order "block" has its whole batches, in turn.

    Raises:
        UserError: the data cannot be read in this order.
    """
    if isinstance(data, Source):
        return SourceFeed(
            data,
            seed=seed,
            multiple=multiple,
            steps_per_loop=steps_per_loop,
            order={"auto": "random", "none": "own"}.get(order, order),
            training=training,
            worker=worker,
            workers=workers,
            blocks=blocks,
        )
    if order in ("random", "block"):
        raise UserError(
            f'RunConfig.data_distribution="{order}" needs data with random access, and input_fn '
            "returned a tf.data.Dataset; return a tfbig.data.Source, or shuffle the Dataset and "
            'leave data_distribution="auto".'
        )
    share = dict(worker=worker, workers=workers)
    return DatasetFeed(data, multiple=multiple, steps_per_loop=steps_per_loop, **share)


def described_feed(feed: Feed | None) -> str:
    """What the feeds of all tasks have to agree in."""
    if feed is None:
        return "none"
    length = "unknown" if feed.steps_per_pass is None else feed.steps_per_pass
    return f"batches of {feed.batch_size}, {length} a pass, of {feed.element_spec}"


def feed_of_run(
    data: tf.data.Dataset | Source,
    placement: Placement,
    config: RunConfig,
    seed: int | None,
    multiple: int,
    *,
    training: bool,
) -> Feed:
    """What the loop reads from under a placement.

    Args:
        data: batched.
        placement: whose tasks share the batches, or have them read elsewhere.
        config: steps_per_loop and data_distribution.
        seed: of the run.
        multiple: the number of parts that a worker's share of a batch is cut into.
        training: or evaluation.
    """
    feed = make_feed(
        data,
        seed=seed,
        multiple=multiple,
        steps_per_loop=config.steps_per_loop,
        order=config.data_distribution if training else "own",
        training=training,
        worker=placement.peers.index,
        workers=placement.peers.count,
        blocks=placement.workers if isinstance(placement, ParameterServer) else 1,
    )
    if not isinstance(placement, ParameterServer):
        return feed
    name = TRAINING if training else EVALUATION
    return NumberedFeed(feed, name, placement.workers, config.steps_per_loop)
