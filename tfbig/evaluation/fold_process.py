"""One fold in its own process: its arguments, training and evaluation."""

import dataclasses
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from absl import flags

from tfbig.data.columns import without_column
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.evaluation.holdout_metrics import HoldOutMetrics
from tfbig.evaluation.output import write_json
from tfbig.metrics.metric import Value
from tfbig.placement.strategies import make_placement
from tfbig.programs.vector_metrics import to_scalars
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.feeds import make_feed

log = logging.getLogger("tfbig")

NAME = "tfbig fold"  # the start of the processes' names
SECONDS_TO_SAVE = 60
_LONGEST_MESSAGE = 10_000  # characters; a longer one would fill the pipe and block the fold
_ONLY_AT_END = 2**31 - 1  # steps between evaluations, so that only the last one runs


@dataclasses.dataclass(frozen=True)
class FoldJob:
    """One fold to train and test.

    Attributes:
        number: the number of the fold, from 1.
        examples: the number of examples of the source.
        train, test: the indices of the training and the test examples.
        folder: the folder for the log and the results.
        model_dir: the same folder, or None if training saves nothing.
        seed: the seed for weights, dropout and shuffling.
        group_column: the column with the groups, which the model does not see; or None.
        metrics: names for `metrics_for`; () for none.
        threads: the threads of one TensorFlow operation, if folds share the machine; None for
            one per core.
        parse_flags: whether the program has parsed its command line with absl.
    """

    number: int
    examples: int
    train: np.ndarray
    test: np.ndarray
    folder: str
    model_dir: str | None
    seed: int
    group_column: str | None
    metrics: Sequence[str]
    threads: int | None
    parse_flags: bool

    @property
    def log(self) -> str:
        """The path of the log of the fold's process."""
        return os.path.join(self.folder, "fold.log")

    @property
    def result(self) -> str:
        """The path of the file with the results, which exists once the fold has finished."""
        return os.path.join(self.folder, "fold.json")


def pickle_arguments(arguments: Mapping[str, Any]) -> dict[str, bytes]:
    """Pickles the arguments for another process; functions are pickled by name.

    Raises:
        UserError: an argument cannot be pickled.
    """
    pickled = {}
    for name, value in arguments.items():
        try:
            pickled[name] = pickle.dumps(value)
        except Exception as error:  # an object may raise anything when it is pickled
            raise UserError(_pickling_message(name, value, error)) from error
        if b"__main__" in pickled[name] and not hasattr(sys.modules["__main__"], "__file__"):
            raise UserError(
                f"cross_validate: {name} is defined in an interactive session, which the processes "
                "of the folds cannot import; move it to a module, and import it."
            )
    return pickled


def _pickling_message(name: str, value: Any, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if name == "source" and isinstance(value, Source):
        remedy = "pass a function that returns this source"
    elif name == "strategy":
        remedy = 'pass its name, such as strategy="mirrored", and devices='
    else:
        remedy = (
            "use functions and classes that are defined at the top level of a module or of the "
            "script (no lambdas or nested functions), or functools.partial of them"
        )
    return (
        f"cross_validate: {name} cannot be sent to the processes of the folds ({reason}); {remedy}."
    )


def run_fold(
    job: FoldJob,
    train: Callable[..., Any],
    read: Callable[..., Source],
    sent: dict[str, bytes],
    failures: multiprocessing.connection.Connection,
) -> None:
    """Trains and tests a fold; the main function of its process, with exit code 0, 1 or 143.

    Args:
        job: the fold.
        train: train_distributed or fine_tune.
        read: `read(source, params, config)` returns the Source, calling `source` if it is a
            function.
        sent: the result of `pickle_arguments` for the arguments of cross_validate.
        failures: receives (whether it is a UserError, the message) before exit code 1.
    """
    _redirect_output(job.log)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    if job.threads is not None:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(job.threads))
        # Otherwise, the first process allocates all memory of the GPU.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        arguments = {name: _unpickle(name, value) for name, value in sent.items()}
        if job.parse_flags:
            _parse_flags()
        figures = _train_and_test(job, train, read, arguments)
    except Exception as error:
        traceback.print_exc()
        failures.send((isinstance(error, UserError), _one_line(error)))
        sys.exit(1)
    if figures is None:
        sys.exit(128 + signal.SIGTERM)
    write_json(job.result, {"fold": job.number, "seed": job.seed, "figures": figures})


def _train_and_test(
    job: FoldJob, train: Callable, read: Callable, arguments: dict[str, Any]
) -> dict[str, Value] | None:
    """Trains and tests; returns the results by name, or None if a signal stopped it."""
    source, prepare = arguments.pop("source"), arguments.pop("prepare")
    config = arguments.pop("config")
    config = dataclasses.replace(
        config,
        tf_random_seed=job.seed,
        eval_every_steps=config.eval_every_steps or _ONLY_AT_END,
    )
    source = read(source, arguments.get("params"), config)
    if len(source) != job.examples:
        raise UserError(
            f"source has {len(source)} examples in the process of the fold, but {job.examples} "
            "in the program; it must be the same in every process."
        )
    train_source, test_source = _split(job, source, prepare)
    result = train(
        input_fn=lambda: train_source,
        eval_input_fn=lambda: test_source,
        model_dir=job.model_dir,
        config=config,
        **arguments,
    )
    if result.preempted:
        return None
    figures = to_scalars(result.metrics)
    if job.metrics:
        devices = {name: arguments[name] for name in ("strategy", "devices") if name in arguments}
        figures |= _measure(result.model, test_source, job.metrics, **devices)
    return figures


def _split(job: FoldJob, source: Source, prepare: Callable | None) -> tuple[Source, Source]:
    """Returns the training and the test examples, prepared and batched."""
    size = source.batch_size
    if job.group_column is not None:
        source = source.map(functools.partial(without_column, job.group_column))
    parts = source.select(job.train), source.select(job.test)
    if prepare is not None:
        parts = prepare(*parts)
        pair = isinstance(parts, tuple) and len(parts) == 2
        if not (pair and all(isinstance(part, Source) for part in parts)):
            raise UserError(
                f"prepare returned {parts!r}; expected two Sources, for example return "
                "cleaning.fit(train), cleaning.apply(test)."
            )
    train, test = (part if part.batch_size else part.batch(size) for part in parts)
    return train, test


def _measure(
    model: keras.Model,
    source: Source,
    names: Sequence[str],
    strategy: Any = "auto",
    devices: Any = None,
) -> dict[str, Value]:
    """Returns the hold-out metrics with these names, from the model's predictions."""
    placement = make_placement(strategy, devices)
    feed = make_feed(
        source, seed=None, multiple=placement.num_replicas, order="own", training=False
    )
    metrics = HoldOutMetrics(names, task=None, loss=model.loss)
    try:
        for _, labels, weights, outputs in Predictor(model, placement, feed).batches():
            metrics.add(labels, outputs, weights)
    finally:
        feed.close()
    return metrics.results()


def _unpickle(name: str, data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{name} cannot be imported in the process of the fold ({error}); define it at the "
            "top level of an importable module or of the script, and not below "
            'if __name__ == "__main__".'
        ) from error


def _parse_flags() -> None:
    """Parses the command line like the program, for functions that read flags."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv, known_only=True)


def _redirect_output(path: str) -> None:
    """Redirects the output of this process, including that of C++, and the log to a file."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)


def _exit_with_parent() -> None:
    """Waits for the end of the parent process, and then terminates this one with SIGTERM."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os.kill(os.getpid(), signal.SIGKILL)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, UserError):
        return text[:_LONGEST_MESSAGE]
    return f"{type(error).__name__}: {text[:400]}"
