"""What the tasks of a cluster do in a run: workers and ps serve the chief until it has ended."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed
from tfbig.data.feeds.numbered_feed import NumberedReader, Numbers, as_arrays
from tfbig.data.source import Source
from tfbig.placement.parameter_server.evaluator_task import EvaluatorTask
from tfbig.placement.parameter_server.parameter_server import ParameterServer
from tfbig.placement.parameter_server.serving_task import ServingTask
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig
from tfbig.training.feeds import EVALUATION, TRAINING, make_feed
from tfbig.training.result import TrainResult
from tfbig.training.seeds import set_seed
from tfbig.training.session import TrainingSession


def serve(
    task: ServingTask,
    config: RunConfig,
    read: Callable[[], tf.data.Dataset | Source],
    read_eval: Callable[[], tf.data.Dataset | Source] | None,
) -> TrainResult:
    """Serves until the chief says that the job is done, and returns what it has told.

    Args:
        task: this one.
        config: as the chief has it.
        read, read_eval: call the input functions; on a worker, once the chief needs data.

    Raises:
        PeerLost: the chief is gone or has failed.
    """

    def make_read(order: dict) -> Callable:
        set_seed(config.tf_random_seed, order["seed"])
        readers: dict[str, NumberedReader] = {}
        for name, data in ((TRAINING, read), (EVALUATION, read_eval)):
            if data is not None:
                parts = order["parts"] if name == TRAINING else 1
                feeds = functools.partial(_feed, data(), config, order, name == TRAINING)
                readers[name] = NumberedReader(feeds, parts)

        def read_batches(name: bytes, passes, position, steps, part) -> list[np.ndarray]:
            reader = readers[name.decode()]
            stack = reader.read(Numbers(int(passes), int(position)), int(steps), int(part))
            return as_arrays(stack, reader.element_spec)

        return read_batches

    told = task.serve(make_read)
    return TrainResult(**told.get("result", {"global_step": 0}))


def train_or_follow(session: TrainingSession, placement: Placement, callbacks: list) -> TrainResult:
    """What a task does that does not serve: it trains, or evaluates what another one trains.

    Workers and ps are told of the end, and how it was.

    Args:
        session: whose model is built.
        placement: of this task.
        callbacks: of the training.
    """
    if isinstance(placement, EvaluatorTask):
        return session.follow(placement)
    result = session.train(callbacks)
    if isinstance(placement, ParameterServer):
        fields = ("global_step", "loss", "metrics", "history", "model_dir", "preempted")
        placement.finish({"result": {name: getattr(result, name) for name in fields}})
    return result


def _feed(
    data: tf.data.Dataset | Source,
    config: RunConfig,
    order: dict,
    training: bool,
    part: int = 0,
    parts: int = 1,
) -> Feed:
    return make_feed(
        data,
        seed=order["seed"],
        multiple=config.accumulation_steps if training else 1,
        steps_per_loop=config.steps_per_loop if parts == 1 else 1,
        order=config.data_distribution if training else "own",
        training=training,
        worker=part,
        workers=parts,
        blocks=order["blocks"],
    )
