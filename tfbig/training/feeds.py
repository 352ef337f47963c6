"""From what an input function returned to the feeds that the loop reads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig.data.feeds.dataset_feed import DatasetFeed
from tfbig.data.feeds.feed import Feed
from tfbig.data.feeds.source_feed import SourceFeed
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.placement.control.preflight import compare
from tfbig.placement.placement import Placement
from tfbig.programs.model_fn.call import is_estimator_style
from tfbig.run_config import RunConfig
from tfbig.training.request import TrainRequest

TRAINING, EVALUATION = "input_fn", "eval_input_fn"  # what the tasks of a cluster call the data


class RunData(NamedTuple):
    """The data of a run.

    Attributes:
        feed: of training.
        eval_feed: of evaluations, or None.
        cleaning: the fitted Cleaning of the training Source, or None.
        cleaning_is_all: whether the model is trained on what `cleaning` returns, as it is.
    """

    feed: Feed
    eval_feed: Feed | None
    cleaning: Any
    cleaning_is_all: bool

    def close(self) -> None:
        """Closes the feeds."""
        for feed in (self.feed, self.eval_feed):
            if feed is not None:
                feed.close()


def read_data(request: TrainRequest, placement: Placement, seed: int) -> RunData:
    """Calls the input functions of a run and makes its feeds.

    Raises:
        UserError: the data cannot be used, or the tasks of the run have different data.
    """
    config, replicas = request.config, placement.local_replicas
    data = request.read()
    cleaning = getattr(data, "cleaning", None)
    cleaning_is_all = cleaning is not None and not (data.mapped_after_cleaning or data.augmentation)
    multiple = replicas * config.accumulation_steps
    sparse = is_estimator_style(request.model_fn)
    feed = _feed_of_run(data, placement, config, seed, multiple, training=True, sparse=sparse)
    eval_feed = None
    if request.read_eval is not None:
        data = request.read_eval()
        try:
            eval_feed = _feed_of_run(
                data, placement, config, seed, replicas, training=False, sparse=sparse
            )
        except UserError as error:
            raise UserError(f"eval_input_fn: {error}") from error
    facts = {
        "max_steps": str(request.last_step),
        "epochs": str(request.epochs),
        TRAINING: described_feed(feed),
        EVALUATION: described_feed(eval_feed),
    }
    compare(placement.peers, facts)
    return RunData(feed, eval_feed, cleaning, cleaning_is_all)


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
    sparse: bool = False,
) -> Feed:
    """Makes what reads global batches from what an input_fn returned.

    Args:
        data: batched.
        seed: of a Source's shuffle and augmentation.
        multiple: the number of parts that a worker's share of a batch is cut into.
        steps_per_loop: RunConfig.steps_per_loop.
        order: RunConfig.data_distribution, or "own".
        training: whether a Source's augmentation is random.
        worker, workers: whose share is read, of how many.
        blocks: the number of readers among which a Source in the order "block" distributes
            whole batches.
        sparse: whether the model takes SparseTensors: a model_fn of estimator style does.

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
    return DatasetFeed(
        data,
        multiple=multiple,
        steps_per_loop=steps_per_loop,
        worker=worker,
        workers=workers,
        sparse=sparse,
    )


def described_feed(feed: Feed | None) -> str:
    """What must be the same for the feeds of all tasks, in words."""
    if feed is None:
        return "none"
    length = "unknown" if feed.steps_per_pass is None else feed.steps_per_pass
    return f"batches of {feed.batch_size}, {length} a pass, of {feed.element_spec}"


def _feed_of_run(
    data: tf.data.Dataset | Source,
    placement: Placement,
    config: RunConfig,
    seed: int | None,
    multiple: int,
    *,
    training: bool,
    sparse: bool,
) -> Feed:
    feed = make_feed(
        data,
        seed=seed,
        multiple=multiple,
        steps_per_loop=config.steps_per_loop,
        order=config.data_distribution if training else "own",
        training=training,
        worker=placement.peers.index,
        workers=placement.peers.count,
        blocks=placement.turns,
        sparse=sparse,
    )
    return placement.wrap_feed(feed, TRAINING if training else EVALUATION, config)


def evaluation_feed(
    data: tf.data.Dataset | Source, placement: Placement, config: RunConfig
) -> Feed:
    """The feed of this task's share of data that are read in their own order."""
    replicas = placement.local_replicas
    return _feed_of_run(data, placement, config, None, replicas, training=False, sparse=False)


def make_reader(
    read: Callable, run_spec: dict, config: RunConfig, *, training: bool, sparse: bool
) -> Callable:
    """Makes what a worker of a cluster with ps reads its data by.

    Args:
        read: returns the data.
        run_spec: of the chief: seed and blocks.
        config: as the chief has it.
        training: or evaluation.
        sparse: as for `make_feed`.

    Returns:
        A function of (part, parts) that returns a Feed of one part of each batch.
    """
    data = read()

    def feed(part: int = 0, parts: int = 1) -> Feed:
        return make_feed(
            data,
            seed=run_spec["seed"],
            multiple=config.accumulation_steps if training else 1,
            steps_per_loop=config.steps_per_loop if parts == 1 else 1,
            order=config.data_distribution if training else "own",
            training=training,
            worker=part,
            workers=parts,
            blocks=run_spec["blocks"],
            sparse=sparse,
        )

    return feed
