"""Cross-validation: a model is trained once for each fold, and tested on what it has not seen."""

import dataclasses
import functools
import math
import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np
from absl import flags

from tfbig._optional import load
from tfbig.data.keys import key_of
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.evaluation import tables
from tfbig.evaluation.fold_folders import fold_folder, keep_plan, kept_seed, read_figures
from tfbig.evaluation.fold_process import NAME, Job, packed
from tfbig.evaluation.fold_runner import run_jobs
from tfbig.evaluation.fold_split import fold_numbers
from tfbig.evaluation.json_files import write_json
from tfbig.evaluation.statistics import Interval
from tfbig.metrics.metric import Value

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """How good a model is on examples it was not trained on, as several folds tell.

    Example:

        result = tfbig.cross_validate(build_model, source, folds=5, stratify=True, epochs=20)
        result.show()
        accuracy = result.interval["accuracy"]
        print(f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})")

    Attributes:
        folds: for each fold its figures by name; those that have ended if a signal came.
        test_share: test examples for each training example.
        model_dir: where the folds are kept, or None.
        preempted: "SIGTERM" or "SIGINT" if a signal has stopped it, else None.
    """

    folds: Sequence[Mapping[str, Value]]
    test_share: float
    model_dir: str | None = None
    preempted: str | None = None

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the folds of each figure that is one number."""
        return {name: interval.value for name, interval in self.interval.items()}

    @property
    def interval(self) -> dict[str, Interval]:
        """By name of a figure its mean over the folds, and a 95 % interval around it.

        It is the corrected resampled t interval of Nadeau & Bengio, Inference for the
        Generalization Error, Machine Learning 52, 2003: mean ± t · sqrt((1/k + test/train) · s²),
        where s² is the variance between the k folds, t Student's quantile for k - 1 degrees of
        freedom, and test/train the ratio of test to training examples. Folds are not
        independent, for any two models have most of their training examples in common, so the
        usual s²/k is too small by far. The correction is approximate too: no unbiased
        estimate of that variance exists (Bengio & Grandvalet, JMLR 5, 2004).

        Folds in which a figure is not defined are left out and counted as `undefined`. Of fewer
        than two folds the ends are NaN.
        """
        names = {name: None for fold in self.folds for name in fold}  # in their order
        return {
            name: _interval(
                [fold.get(name, math.nan) for fold in self.folds],  # type: ignore[misc]
                self.test_share,
            )
            for name in names
            if all(isinstance(fold.get(name, 0.0), float | int) for fold in self.folds)
        }

    def table(self) -> str:
        """A line for each figure: its mean, the ends of its interval, and that of every fold."""
        return tables.text(self._title(), self._tables())

    def show(self, file: TextIO | None = None) -> None:
        """Prints the table: with lines and weights on a terminal, else as `table`.

        Args:
            file: None: standard output.
        """
        tables.show(self._title(), self._tables(), file)

    def _title(self) -> str:
        stopped = f" before {self.preempted}" if self.preempted else ""
        return f"Cross-validation: {len(self.folds)} folds{stopped}"

    def _tables(self) -> list[tables.Table]:
        head = ["metric", "mean", "low", "high"]
        head += [f"fold {number}" for number in range(1, len(self.folds) + 1)]
        rows = []
        for name, interval in self.interval.items():
            numbers = [interval.value, interval.low, interval.high]
            numbers += [fold.get(name, math.nan) for fold in self.folds]  # type: ignore[misc]
            rows.append([name, *map(tables.number, numbers)])
        return [(head, rows)]


def _interval(values: Sequence[float], test_share: float) -> Interval:
    special = load("scipy.special", "CrossValidation.interval")

    array = np.asarray(values, np.float64)
    there = array[~np.isnan(array)]
    undefined = len(array) - len(there)
    if not len(there):
        return Interval(math.nan, math.nan, math.nan, undefined)
    mean = float(there.mean())
    if len(there) < 2:
        return Interval(mean, math.nan, math.nan, undefined)
    quantile = special.stdtrit(len(there) - 1, (1 + CONFIDENCE) / 2)
    half = float(quantile * np.sqrt((1 / len(there) + test_share) * there.var(ddof=1)))
    return Interval(mean, mean - half, mean + half, undefined)


def run_folds(
    train: Callable[..., Any],
    read: Callable[..., Source],
    arguments: dict[str, Any],
    *,
    folds: int,
    stratify: Any,
    groups: Any,
    metrics: Sequence[str],
    parallel_folds: int,
    model_dir: str | None,
) -> CrossValidation:
    """Splits, trains and tests.

    Args:
        train, read: see `tfbig.evaluation.fold_process.run_fold`.
        arguments: what is sent to the folds: source, prepare, config, and all else for `train`.
        folds, stratify, groups, metrics, parallel_folds, model_dir: as in `cross_validate`.
    """
    if multiprocessing.current_process().name.startswith(NAME):
        raise UserError(
            "cross_validate was called by the process of a fold, which reads the script that it is "
            'called in; write the call below if __name__ == "__main__":.'
        )
    config = arguments["config"]
    source = read(arguments["source"], arguments.get("params"), config)
    sent = packed(arguments)
    fold = fold_numbers(
        source, folds, stratify=stratify, groups=groups, seed=config.tf_random_seed or 0
    )
    seed = config.tf_random_seed
    if seed is None:
        seed = kept_seed(model_dir)
        seed = random.randrange(2**31) if seed is None else seed
    if model_dir is not None:
        plan = {"folds": folds, "examples": len(source), "batch_size": source.batch_size}
        keep_plan(model_dir, plan | _plan(arguments) | {"metrics": metrics, "seed": seed}, fold)
    folder = model_dir or tempfile.mkdtemp(prefix="tfbig-folds-")
    jobs = [
        Job(
            number=number,
            examples=len(source),
            train=np.flatnonzero((fold != number) & (fold != 0)),
            test=np.flatnonzero(fold == number),
            folder=fold_folder(folder, number),
            model_dir=model_dir and fold_folder(folder, number),
            seed=key_of(f"fold {number}", seed) % 2**31,
            leave_out=groups if isinstance(groups, str) else None,
            metrics=tuple(metrics),
            threads=max(1, _cores() // parallel_folds) if parallel_folds > 1 else None,
            parse_flags=flags.FLAGS.is_parsed(),
        )
        for number in range(1, folds + 1)
    ]
    left = [job for job in jobs if read_figures(job.result) is None]
    preempted = run_jobs(left, folds, train, read, sent, parallel=parallel_folds)
    figures = [read_figures(job.result) for job in jobs]
    result = CrossValidation(
        [figure for figure in figures if figure is not None],
        float(np.mean([len(job.test) / len(job.train) for job in jobs])),
        model_dir,
        preempted,
    )
    if model_dir is None:
        shutil.rmtree(folder)
    elif preempted is None:
        told = {n: dataclasses.asdict(i) for n, i in result.interval.items()}
        write_json(os.path.join(model_dir, "metrics.json"), {**result.mean, "intervals": told})
    return result


_PLANNED = (
    "model_fn",
    "pretrained",
    "base_model_fn",
    "recipe",
    "prepare",
    "max_steps",
    "epochs",
    "params",
    "callbacks",
)


def _plan(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change between two calls: what the figures depend on, in plain words."""
    config = arguments["config"]
    plan = {name: _told(arguments.get(name)) for name in _PLANNED}
    for name in ("precision", "gradient_aggregation", "data_distribution"):
        plan[name] = getattr(config, name)
    return plan


def _told(value: Any) -> Any:
    """A value as JSON has it; functions by their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _told(dataclasses.asdict(value))
    if hasattr(value, "items"):
        return {str(name): _told(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_told(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, functools.partial):
        return [_told(value.func), _told(value.args), _told(value.keywords)]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
