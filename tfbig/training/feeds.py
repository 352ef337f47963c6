"""From what an input_fn returned to what reads global batches from it."""

import tensorflow as tf

from tfbig.data.dataset_feed import DatasetFeed
from tfbig.data.feed import Feed
from tfbig.data.source import Source
from tfbig.data.source_feed import SourceFeed
from tfbig.errors import UserError


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
