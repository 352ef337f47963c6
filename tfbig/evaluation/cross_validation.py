"""Cross-validation: trains one model per fold and tests it on the examples of that fold."""

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
from tfbig.data.source import Source
from tfbig.data.splitting.keys import hash_seed
from tfbig.errors import UserError
from tfbig.evaluation.fold_folders import fold_folder, read_results, save_plan, saved_seed
from tfbig.evaluation.fold_process import NAME, FoldJob, pickle_arguments
from tfbig.evaluation.fold_runner import run_jobs
from tfbig.evaluation.fold_split import fold_numbers
from tfbig.evaluation.output import Table, format_number, print_tables, table_text, write_json
from tfbig.evaluation.statistics import Interval
from tfbig.metrics.metric import Value

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class CrossValidation:
    """The results of a cross-validation: each model's metrics on examples it was not trained on.

    Example:

        result = tfbig.cross_validate(build_model, source, folds=5, stratify=True, epochs=20)
        result.show()
        accuracy = result.interval["accuracy"]
        print(f"{accuracy.value:.3f} ({accuracy.low:.3f} to {accuracy.high:.3f})")

    Attributes:
        folds: the metrics of each fold by name; after a signal, of the finished folds.
        test_share: the ratio of test to training examples.
        model_dir: the folder of the folds, or None.
        preempted: "SIGTERM" or "SIGINT" if a signal stopped the run; None otherwise.
    """

    folds: Sequence[Mapping[str, Value]]
    test_share: float
    model_dir: str | None = None
    preempted: str | None = None

    @property
    def mean(self) -> dict[str, float]:
        """The mean over the folds of each metric that is a single number."""
        return {name: interval.value for name, interval in self.interval.items()}

    @property
    def interval(self) -> dict[str, Interval]:
        """The mean over the folds of each metric and its 95 % interval, by name.

        It is the corrected resampled t interval of Nadeau & Bengio, Inference for the
        Generalization Error, Machine Learning 52, 2003: mean ± t · sqrt((1/k + test/train) · s²).
        Here s² is the variance between the k folds, t is Student's quantile for k - 1 degrees of
        freedom, and test/train is the ratio of test to training examples. The folds are not
        independent, because any two models share most of their training examples, so the usual
        s²/k is much too small. The correction is approximate: no unbiased estimate of that
        variance exists (Bengio & Grandvalet, JMLR 5, 2004).

        Folds in which a metric is undefined are left out and counted in `undefined`. With fewer
        than two folds, the ends are NaN.
        """
        names = {name: None for fold in self.folds for name in fold}  # keeps their order
        return {
            name: _interval(
                [fold.get(name, math.nan) for fold in self.folds],  # type: ignore[misc]
                self.test_share,
            )
            for name in names
            if all(isinstance(fold.get(name, 0.0), float | int) for fold in self.folds)
        }

    def table(self) -> str:
        """Returns a table with a line per metric: its mean, its interval, and each fold's value."""
        return table_text(self._title(), self._tables())

    def show(self, file: TextIO | None = None) -> None:
        """Prints the table, with borders on a terminal, otherwise as `table`.

        Args:
            file: the output file; None for standard output.
        """
        print_tables(self._title(), self._tables(), file)

    def _title(self) -> str:
        stopped = f" before {self.preempted}" if self.preempted else ""
        return f"Cross-validation: {len(self.folds)} folds{stopped}"

    def _tables(self) -> list[Table]:
        head = ["metric", "mean", "low", "high"]
        head += [f"fold {number}" for number in range(1, len(self.folds) + 1)]
        rows = []
        for name, interval in self.interval.items():
            numbers = [interval.value, interval.low, interval.high]
            numbers += [fold.get(name, math.nan) for fold in self.folds]  # type: ignore[misc]
            rows.append([name, *map(format_number, numbers)])
        return [(head, rows)]


def _interval(values: Sequence[float], test_share: float) -> Interval:
    special = load("scipy.special", "CrossValidation.interval")

    array = np.asarray(values, np.float64)
    defined = array[~np.isnan(array)]
    undefined = len(array) - len(defined)
    if not len(defined):
        return Interval(math.nan, math.nan, math.nan, undefined)
    mean = float(defined.mean())
    if len(defined) < 2:
        return Interval(mean, math.nan, math.nan, undefined)
    quantile = special.stdtrit(len(defined) - 1, (1 + CONFIDENCE) / 2)
    half = float(quantile * np.sqrt((1 / len(defined) + test_share) * defined.var(ddof=1)))
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
    """Splits the source, and trains and tests each fold in its own process.

    Args:
        train, read: as for `tfbig.evaluation.fold_process.run_fold`.
        arguments: the arguments for the folds: source, prepare, config, and those of `train`.
        folds, stratify, groups, metrics, parallel_folds, model_dir: as in `cross_validate`.
    """
    if multiprocessing.current_process().name.startswith(NAME):
        raise UserError(
            "cross_validate was called in the process of a fold, which imports the script; move "
            'the call below if __name__ == "__main__":.'
        )
    config = arguments["config"]
    source = read(arguments["source"], arguments.get("params"), config)
    sent = pickle_arguments(arguments)
    fold = fold_numbers(
        source, folds, stratify=stratify, groups=groups, seed=config.tf_random_seed or 0
    )
    seed = config.tf_random_seed
    if seed is None:
        seed = saved_seed(model_dir)
        seed = random.randrange(2**31) if seed is None else seed
    if model_dir is not None:
        plan = {"folds": folds, "examples": len(source), "batch_size": source.batch_size}
        save_plan(model_dir, plan | _plan(arguments) | {"metrics": metrics, "seed": seed}, fold)
    folder = model_dir or tempfile.mkdtemp(prefix="tfbig-folds-")
    jobs = [
        FoldJob(
            number=number,
            examples=len(source),
            train=np.flatnonzero((fold != number) & (fold != 0)),
            test=np.flatnonzero(fold == number),
            folder=fold_folder(folder, number),
            model_dir=model_dir and fold_folder(folder, number),
            seed=hash_seed(f"fold {number}", seed) % 2**31,
            group_column=groups if isinstance(groups, str) else None,
            metrics=tuple(metrics),
            threads=max(1, _cores() // parallel_folds) if parallel_folds > 1 else None,
            parse_flags=flags.FLAGS.is_parsed(),
        )
        for number in range(1, folds + 1)
    ]
    unfinished = [job for job in jobs if read_results(job.result) is None]
    preempted = run_jobs(unfinished, folds, train, read, sent, parallel=parallel_folds)
    figures = [read_results(job.result) for job in jobs]
    result = CrossValidation(
        [figure for figure in figures if figure is not None],
        float(np.mean([len(job.test) / len(job.train) for job in jobs])),
        model_dir,
        preempted,
    )
    if model_dir is None:
        shutil.rmtree(folder)
    elif preempted is None:
        intervals = {n: dataclasses.asdict(i) for n, i in result.interval.items()}
        write_json(os.path.join(model_dir, "metrics.json"), {**result.mean, "intervals": intervals})
    return result


_PLAN_ARGUMENTS = (
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
    """Returns the arguments that the results depend on, which must not change between calls."""
    config = arguments["config"]
    plan = {name: _to_plain(arguments.get(name)) for name in _PLAN_ARGUMENTS}
    for name in ("precision", "gradient_aggregation", "data_distribution"):
        plan[name] = getattr(config, name)
    return plan


def _to_plain(value: Any) -> Any:
    """Converts a value to JSON types; functions become their names."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _to_plain(dataclasses.asdict(value))
    if hasattr(value, "items"):
        return {str(name): _to_plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [_to_plain(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, functools.partial):
        return [_to_plain(value.func), _to_plain(value.args), _to_plain(value.keywords)]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
