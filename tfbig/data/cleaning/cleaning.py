"""A sequence of cleaning steps: fitted on training data, applied to other data, saved, served."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.data.cleaning import saved, table
from tfbig.data.cleaning.balance import Balance
from tfbig.data.cleaning.fix_types import FixTypes
from tfbig.data.cleaning.report import Pass, Report, StepCount
from tfbig.data.cleaning.rows import DropDuplicates
from tfbig.data.cleaning.step import Step
from tfbig.data.source import Source
from tfbig.errors import UserError


class Cleaning:
    """A sequence of steps that learn from training examples and treat other examples alike.

    Examples are features, or (features, labels[, sample_weight]). Features are a dict of columns
    of shape [n] or [n, 1] (others, such as images, are not changed), or an array [n, k], whose
    columns are named "0" to "k-1". A missing value is NaN or an empty string.

    All steps that drop examples drop training examples. Only DropMissing and Filter, which define
    the examples that the model is for, drop evaluation examples. Evaluation data keep their
    duplicates, outliers and class proportions, because metrics without hard examples would be too
    good. FixTypes, FillMissing and ClipOutliers change every example in the same way, in serving
    too.

    Example:

        cleaning = Cleaning([FillMissing(strategy="mean"), DropOutliers(method="zscore")])
        train = cleaning.fit(source.select(split.train))
        test = cleaning.apply(source.select(split.test))
        print(cleaning.report)

    Args:
        steps: applied in this order; a Balance must be the last step.

    Attributes:
        steps: copies of the steps, fitted by `fit`.
        report: number of examples that each step changed or dropped, in `fit` and each `apply`.

    Raises:
        UserError: an entry is not a Step, or a Balance is not the last step.
    """

    def __init__(self, steps: Sequence[Step]):
        if not isinstance(steps, (list, tuple)) or not steps:
            raise UserError(f"Cleaning({steps!r}): expected a list of one or more steps.")
        for number, step in enumerate(steps):
            if not isinstance(step, Step):
                raise UserError(
                    f"Cleaning: steps[{number}] is {step!r}; expected a step such as "
                    'FillMissing(strategy="median").'
                )
            if isinstance(step, Balance) and number != len(steps) - 1:
                raise UserError(f"Cleaning: {step} is steps[{number}]; Balance comes last.")
        self.steps = [copy.copy(step) for step in steps]
        self.report = Report()
        self._spec: Any = None

    def fit(self, source: Source) -> Source:
        """Learns the statistics of training data, and returns the cleaned data.

        It reads the source once, in chunks. In memory it holds, for each example, its number, its
        label and the scalar columns that the steps name (all scalar columns if a step has
        columns=None). That is 8 bytes, plus 4 per float32 column and about 60 per string column.
        `DropDuplicates()` adds 50 bytes if examples have other columns too. Rows are selected, not
        copied, and are changed when they are read.

        Args:
            source: the training examples, such as `source.select(split.train)`.

        Returns:
            A Source whose `cleaning` is this object. With Balance("weights") its examples have a
            sample weight.

        Raises:
            UserError: it is already fitted, a column is unknown or has the wrong type for its
                step, a column has no values for its statistic, or no example is left.
        """
        if self._spec is not None:
            raise UserError(
                f"Cleaning.fit: it is already fitted, on {self.report.passes[0].examples} "
                "examples; create a new Cleaning with the same steps for other training data."
            )
        spec = self._checked(source, "fit")
        columns = table.column_specs(spec)
        for step in self.steps:
            step.check_columns(columns)
        steps = [copy.copy(step) for step in self.steps]
        named = [step.reads for step in steps]
        names = None if None in named else {name for listed in named for name in listed}
        digests = any(isinstance(s, DropDuplicates) and s.columns is None for s in steps)
        rows = table.read(source, names, digests)
        done = Pass("fit", len(rows), 0, [])
        for step in steps:
            before = len(rows)
            step.fit(rows)
            rows, touched = step.clean(rows)
            done.steps.append(StepCount(str(step), touched, before, step.verb))
            done.kept = _checked_left(len(rows), done)
        _check_one_type(spec, rows.columns)
        self.steps, self._spec = steps, spec
        self.report.passes.append(done)
        return self._cleaned(source, rows.rows, training=True)

    def apply(self, source: Source) -> Source:
        """Cleans other data with the statistics of the training data.

        It reads the source once, in chunks, for the report and for the examples that DropMissing
        and Filter drop.

        Args:
            source: evaluation examples, with the columns of the training data.

        Returns:
            A Source whose `cleaning` is this object.

        Raises:
            UserError: it is not fitted, the columns differ, or no example is left.
        """
        self._check_fitted("apply")
        self._check_same(self._checked(source, "apply"))
        kept, examples = [], 0
        counts = [[0, 0] for _ in self.steps]
        for rows in table.chunks(source, None, digests=False):
            examples += len(rows)
            for step, count in zip(self.steps, counts, strict=True):
                count[1] += len(rows)
                if not step.training_only:
                    rows, touched = step.clean(rows)
                    count[0] += touched
            kept.append(rows.rows)
        left = np.concatenate(kept) if kept else np.zeros([0], np.int64)
        done = Pass("apply", examples, len(left), [])
        for step, (touched, given) in zip(self.steps, counts, strict=True):
            count = None if step.training_only else touched
            done.steps.append(StepCount(str(step), count, given, step.verb))
        _checked_left(len(left), done)
        self.report.passes.append(done)
        return self._cleaned(source, left, training=False)

    def transform(self, features: Any) -> Any:
        """Cleans the features of examples independently: fixes types, fills, clips.

        Serving uses it: applied to tensors, it consists of TF operations that a SavedModel can
        contain.

        Args:
            features: a dict of arrays or tensors of shape [n, …], or one of shape [n, k], with
                the columns of the training data.

        Returns:
            The same structure.

        Raises:
            UserError: it is not fitted, or a column is missing.
        """
        self._check_fitted("transform")
        columns = table.split(features)
        absent = [n for n in table.column_specs(self._spec) if n not in columns]
        if absent:
            raise UserError(
                f"Cleaning.transform: there is no column {absent[0]!r}; the columns are "
                f"{', '.join(columns) or 'none'}."
            )
        for step in self.steps:
            columns = step.transform(columns)
        return table.join(columns, features)

    __call__ = transform

    @property
    def raw_spec(self) -> Any:
        """The spec of one example's features before cleaning, without the batch dimension."""
        self._check_fitted("raw_spec")
        return self._spec

    def save(self, path: str | os.PathLike) -> None:
        """Writes the fitted steps as JSON; replaces an existing file atomically.

        Of a Filter, only the name is saved. Example: `cleaning.save("runs/adult/cleaning.json")`.

        Raises:
            UserError: it is not fitted, or the file cannot be written.
        """
        self._check_fitted("save")
        saved.write(os.fspath(path), saved.as_json(self.steps, self._spec, self.report))

    @classmethod
    def load(
        cls, path: str | os.PathLike, *, predicates: Mapping[str, Callable] | None = None
    ) -> "Cleaning":
        """Reads a file that `save` wrote.

        Args:
            path: path of the file.
            predicates: the predicates of its Filters, by name; only `apply` needs them.

        Raises:
            UserError: the file does not exist or has other content, or it has no Filter with the
                name of a predicate.
        """
        data = saved.read(os.fspath(path))
        steps, spec, report = saved.from_json(data, os.fspath(path), predicates or {})
        self = cls(steps)
        self._spec, self.report = spec, report
        return self

    def _cleaned(self, source: Source, rows: np.ndarray, training: bool) -> Source:
        last = self.steps[-1]
        weigh = training and isinstance(last, Balance) and last.method == "weights"

        def clean(batch: Any) -> Any:
            if not isinstance(batch, tuple):
                return self.transform(batch)
            features, *rest = batch
            if weigh:
                labels, *given = rest
                rest = [labels, _product(last.weights(labels), *given)]
            return (self.transform(features), *rest)

        made = source.select(rows).map(clean)
        made.cleaning = self
        return made

    def _checked(self, source: Any, method: str) -> Any:
        if not isinstance(source, Source):
            raise UserError(
                f"Cleaning.{method}: expected a tfbig.data.Source, received a "
                f"{type(source).__name__}."
            )
        if source.mixture is not None:
            raise UserError(f"Cleaning.{method}: clean the sources of a mixture, then mix them.")
        if source.cleaning is not None:
            raise UserError(
                f"Cleaning.{method}: this source is already cleaned; put all steps into one "
                "Cleaning."
            )
        return table.parts(source.element_spec)[0]

    def _check_fitted(self, method: str) -> None:
        if self._spec is None:
            raise UserError(
                f"Cleaning.{method}: it is not fitted; call cleaning.fit(training source) first."
            )

    def _check_same(self, spec: Any) -> None:
        fixed = {name for s in self.steps if isinstance(s, FixTypes) for name in s.types}
        here, there = table.column_specs(spec), table.column_specs(self._spec)
        if set(here) != set(there) or isinstance(spec, dict) != isinstance(self._spec, dict):
            raise UserError(
                f"Cleaning.apply: the columns are {', '.join(here)}, but those of the training "
                f"data were {', '.join(there)}."
            )
        for name, one in here.items():
            other = there[name]
            if one.shape != other.shape or (one.dtype != other.dtype and name not in fixed):
                raise UserError(
                    f"Cleaning.apply: column {name!r} is {_shown(one)}, but was {_shown(other)} in "
                    f'the training data; convert it in the source, or with FixTypes({{"{name}": '
                    "…}) in the Cleaning."
                )


def _check_one_type(spec: Any, columns: dict[str, np.ndarray]) -> None:
    raw = {} if isinstance(spec, dict) else table.column_specs(spec)
    types = {tf.as_dtype(columns[n].dtype).name if n in columns else raw[n].dtype.name for n in raw}
    if len(types) > 1:
        raise UserError(
            f"Cleaning.fit: the features are one array, but FixTypes would convert its columns to "
            f"{' and '.join(sorted(types))}; use the same type for all columns, or make the "
            "features a dict of columns."
        )


def _shown(spec: tf.TensorSpec) -> str:
    return f"{spec.dtype.name} of shape {[None, *spec.shape]}".replace("None", "n")


def _product(weights: np.ndarray, given: Any = 1.0) -> np.ndarray:
    given = np.asarray(given, np.float32)
    return weights.reshape([-1] + [1] * max(0, given.ndim - 1)) * given


def _checked_left(left: int, done: Pass) -> int:
    if left == 0:
        raise UserError(f"Cleaning.{done.kind}: no example is left.\n{done}")
    return left
