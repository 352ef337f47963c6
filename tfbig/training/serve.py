"""What workers and ps of a cluster do in a run: they serve the chief until it has ended."""

from collections.abc import Callable

import numpy as np

from tfbig.data.feeds.index_feed import BatchIndex, IndexReader, as_arrays
from tfbig.placement.parameter_server.serving_task import ServingTask
from tfbig.programs.model_fn.call import is_estimator_style
from tfbig.training.feeds import EVALUATION, TRAINING, make_reader
from tfbig.training.request import TrainRequest
from tfbig.training.result import TrainResult
from tfbig.training.seeds import set_seed


def serve(task: ServingTask, request: TrainRequest) -> TrainResult:
    """Serves until the chief has ended the run, and returns the result that it sends.

    Args:
        task: this one.
        request: as the chief has it. A worker reads the data when the chief first needs them.

    Raises:
        PeerLost: the chief is lost or has failed.
    """
    config, sparse = request.config, is_estimator_style(request.model_fn)

    def make_read(run_spec: dict) -> Callable:
        set_seed(config.tf_random_seed, run_spec["seed"])
        readers: dict[str, IndexReader] = {}
        for name, read in ((TRAINING, request.read), (EVALUATION, request.read_eval)):
            if read is not None:
                training = name == TRAINING
                feeds = make_reader(read, run_spec, config, training=training, sparse=sparse)
                readers[name] = IndexReader(feeds, run_spec["parts"] if training else 1)

        def read_batches(name: bytes, passes, position, steps, part) -> list[np.ndarray]:
            reader = readers[name.decode()]
            stack = reader.read(BatchIndex(int(passes), int(position)), int(steps), int(part))
            return as_arrays(stack, reader.element_spec)

        return read_batches

    message = task.serve(make_read)
    return TrainResult(**message.get("result", {"global_step": 0}))
