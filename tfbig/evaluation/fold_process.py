"""One fold in a process of its own: what is sent to it, and what it does."""

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
from tfbig.evaluation.json_files import write_json
from tfbig.evaluation.measuring import HoldOutMetrics
from tfbig.metrics.metric import Value
from tfbig.placement.strategies import make_placement
from tfbig.programs.vector_metrics import to_scalars
from tfbig.training.evaluation.predictor import Predictor
from tfbig.training.feeds import make_feed

log = logging.getLogger("tfbig")

NAME = "tfbig fold"  # of the processes
SECONDS_TO_SAVE = 60
_LONGEST = 10_000  # characters of a message; more would not fit into a pipe that nobody reads yet
_NOT_AT_END = 2**31 - 1  # steps between two evaluations, so that there is only the last


@dataclasses.dataclass(frozen=True)
class Job:
    """One fold to be trained and tested.

    Attributes:
        number: from 1.
        examples: how many the source has.
        train, test: the numbers of those of this fold.
        folder: for its log and its figures.
        model_dir: the folder, or None: training keeps nothing.
        seed: of weights, dropout and shuffles.
        leave_out: the column that has the groups, or None.
        metrics: names for `metrics_for`; () for none.
        threads: of one operation of TensorFlow, where folds share the machine; None: as many as
            there are cores.
        parse_flags: whether the program has read its command line with absl.
    """

    number: int
    examples: int
    train: np.ndarray
    test: np.ndarray
    folder: str
    model_dir: str | None
    seed: int
    leave_out: str | None
    metrics: Sequence[str]
    threads: int | None
    parse_flags: bool

    @property
    def log(self) -> str:
        return os.path.join(self.folder, "fold.log")

    @property
    def result(self) -> str:
        return os.path.join(self.folder, "fold.json")


def packed(arguments: Mapping[str, Any]) -> dict[str, bytes]:
    """The arguments as they are sent to another process: functions by their names.

    Raises:
        UserError: one cannot be sent.
    """
    sent = {}
    for name, value in arguments.items():
        try:
            sent[name] = pickle.dumps(value)
        except Exception as error:  # whatever an object raises that cannot be copied
            raise UserError(_cannot_be_sent(name, value, error)) from error
        if b"__main__" in sent[name] and not hasattr(sys.modules["__main__"], "__file__"):
            raise UserError(
                f"cross_validate: {name} is defined in an interactive session, which the processes "
                "of the folds cannot read; put it into a module, and import it."
            )
    return sent


def _cannot_be_sent(name: str, value: Any, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if name == "source" and isinstance(value, Source):
        remedy = "write a function that returns this source, and give that"
    elif name == "strategy":
        remedy = 'give its name, as strategy="mirrored", and devices='
    else:
        remedy = (
            "give functions and classes that are defined at the top level of a module or of the "
            "script (no lambda, no function inside of another), or functools.partial of them"
        )
    return (
        f"cross_validate: {name} cannot be sent to the processes of the folds ({reason}); {remedy}."
    )


def run_fold(
    job: Job,
    train: Callable[..., Any],
    read: Callable[..., Source],
    sent: dict[str, bytes],
    failures: multiprocessing.connection.Connection,
) -> None:
    """The process of a fold from its first line to its last; ends with exit code 0, 1 or 143.

    Args:
        job: which fold.
        train: train_distributed, or fine_tune.
        read: `read(source, params, config)`: the Source itself, or what the function returns.
        sent: what `packed` made of the arguments of cross_validate.
        failures: gets (whether it is a UserError, the message) before exit code 1.
    """
    _write_to(job.log)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if job.threads is not None:
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(job.threads))
        # The first process would take all of a GPU's memory otherwise.
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    try:
        arguments = {name: _unpacked(name, value) for name, value in sent.items()}
        if job.parse_flags:
            _parse_flags()
        figures = _figures(job, train, read, arguments)
    except Exception as error:
        traceback.print_exc()
        failures.send((isinstance(error, UserError), _one_line(error)))
        sys.exit(1)
    if figures is None:
        sys.exit(128 + signal.SIGTERM)
    write_json(job.result, {"fold": job.number, "seed": job.seed, "figures": figures})


def _figures(
    job: Job, train: Callable, read: Callable, arguments: dict[str, Any]
) -> dict[str, Value] | None:
    """Trains and tests; None if a signal has stopped it."""
    source, prepare = arguments.pop("source"), arguments.pop("prepare")
    config = arguments.pop("config")
    config = dataclasses.replace(
        config,
        tf_random_seed=job.seed,
        eval_every_steps=config.eval_every_steps or _NOT_AT_END,
    )
    source = read(source, arguments.get("params"), config)
    if len(source) != job.examples:
        raise UserError(
            f"source has {len(source)} examples in the process of the fold and {job.examples} in "
            "the program; let it be the same wherever it is made."
        )
    learned, tested = _parts(job, source, prepare)
    result = train(
        input_fn=lambda: learned,
        eval_input_fn=lambda: tested,
        model_dir=job.model_dir,
        config=config,
        **arguments,
    )
    if result.preempted:
        return None
    figures = to_scalars(result.metrics)
    if job.metrics:
        placed = {name: arguments[name] for name in ("strategy", "devices") if name in arguments}
        figures |= _measured(result.model, tested, job.metrics, **placed)
    return figures


def _parts(job: Job, source: Source, prepare: Callable | None) -> tuple[Source, Source]:
    """What is trained on and what is tested, batched."""
    size = source.batch_size
    if job.leave_out is not None:
        source = source.map(functools.partial(without_column, job.leave_out))
    parts = source.select(job.train), source.select(job.test)
    if prepare is not None:
        parts = prepare(*parts)
        pair = isinstance(parts, tuple) and len(parts) == 2
        if not (pair and all(isinstance(part, Source) for part in parts)):
            raise UserError(
                f"prepare returned {parts!r}; expected two Sources: return "
                "cleaning.fit(train), cleaning.apply(test), say."
            )
    train, test = (part if part.batch_size else part.batch(size) for part in parts)
    return train, test


def _measured(
    model: keras.Model,
    source: Source,
    names: Sequence[str],
    strategy: Any = "auto",
    devices: Any = None,
) -> dict[str, Value]:
    """The hold-out metrics of these names, from the model's predictions."""
    placement = make_placement(strategy, devices)
    feed = make_feed(
        source, seed=None, multiple=placement.num_replicas, order="own", training=False
    )
    measured = HoldOutMetrics(names, task=None, loss=model.loss)
    try:
        for _, labels, weights, outputs in Predictor(model, placement, feed).batches():
            measured.add(labels, outputs, weights)
    finally:
        feed.close()
    return measured.figures()


def _unpacked(name: str, data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{name} cannot be found in the process of the fold ({error}); define it at the top "
            "level of a module that can be imported, or of the script, and not below "
            'if __name__ == "__main__".'
        ) from error


def _parse_flags() -> None:
    """Reads the command line as the program has, for functions that ask for flags."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(sys.argv, known_only=True)


def _write_to(path: str) -> None:
    """Sends all that this process prints, C++ included, to a file, and tfbig's log too."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)


def _leave_with_parent() -> None:
    """Stops this process, as SIGTERM does, when the one that started it has ended."""
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(SECONDS_TO_SAVE)
    os.kill(os.getpid(), signal.SIGKILL)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, UserError):
        return text[:_LONGEST]
    return f"{type(error).__name__}: {text[:400]}"
