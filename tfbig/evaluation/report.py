"""What an evaluation leaves: a table to read, metrics.json, and plots."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tfbig.evaluation import plots, tables
from tfbig.evaluation.json_files import write_json, write_renamed
from tfbig.evaluation.statistics import Interval
from tfbig.evaluation.tables import number
from tfbig.metrics.classification import CalibrationError, PrAuc, RocAuc
from tfbig.metrics.metric import Metric, Value
from tfbig.programs.vector_metrics import to_scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 50  # classes in the table


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcome of an evaluation, to be shown and written.

    Example:

        metrics = metrics_for("classes")
        update_all(metrics, labels, predictions)
        report = Report(results(metrics), metrics=metrics, history=result.history)
        report.show()
        report.write("runs/digits")  # metrics.json, confusion_matrix.png, roc.png, …

    Args:
        figures: by name a number, numbers by class (a dict), or a confusion matrix (an array).
        metrics: the Metrics themselves; the ROC curve and the reliability diagram are theirs.
        history: `TrainResult.history`; keys that begin with val_ are the evaluation's.
        intervals: by name of a figure; shown beside it.
        class_names: in the order of class numbers; None: the numbers.
        title: what was evaluated, for the headings.
    """

    figures: Mapping[str, Value]
    metrics: Sequence[Metric] = ()
    history: Sequence[Mapping[str, float]] = ()
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] | None = None
    title: str = "Evaluation"

    def text(self) -> str:
        """The table as plain text: a line for each number, then one for each class."""
        return tables.text(self.title, self._tables())

    def show(self, file: TextIO | None = None) -> None:
        """Prints the table: with lines and weights on a terminal, else as `text`.

        Args:
            file: None: standard output.
        """
        tables.show(self.title, self._tables(), file)

    def write(self, directory: str) -> list[str]:
        """Writes metrics.json and those plots that there is something to show for.

        The plots are learning_curves.png (with history), confusion_matrix.png (with such a
        figure), roc.png and reliability.png (with a RocAuc or PrAuc and a CalibrationError among
        the metrics). Each file is written beside and renamed, so it is never half there.

        Args:
            directory: made if missing.

        Returns:
            The paths of the files.

        Raises:
            UserError: if a file cannot be written.
        """
        path = os.path.join(directory, "metrics.json")
        write_json(path, self._told())
        paths = [path]
        for name, figure in self.plots().items():
            path = os.path.join(directory, f"{name}.png")
            write_renamed(path, lambda beside, figure=figure: figure.savefig(beside, format="png"))
            paths.append(path)
        return paths

    def plots(self) -> dict[str, "Figure"]:
        """Draws what there is something to show for.

        Returns:
            By the name of its file a matplotlib Figure.
        """
        drawn: dict[str, Figure] = {}
        history = [to_scalars(point) for point in self.history]
        names = plots.curve_names(history)
        if names:
            drawn["learning_curves"] = plots.learning_curves(history, names, self.title)
        matrices = [v for v in self.figures.values() if np.ndim(v) == 2 and np.sum(v) > 0]
        if matrices:
            matrix = np.asarray(matrices[0])
            drawn["confusion_matrix"] = plots.confusion_matrix(matrix, self.title, self.name_of)
        ranked: list[RocAuc | PrAuc] = [m for m in self.metrics if isinstance(m, RocAuc)]
        ranked += [m for m in self.metrics if isinstance(m, PrAuc)]
        curves = ranked[0].curves() if ranked else {}
        curves = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
        if curves:
            named = self.class_names is not None
            drawn["roc"] = plots.roc(curves, self.title, self.name_of, named=named)
        calibrations = [m for m in self.metrics if isinstance(m, CalibrationError)]
        if calibrations and calibrations[0].bins().weight.sum() > 0:
            drawn["reliability"] = plots.reliability(calibrations[0], self.title)
        return drawn

    def name_of(self, number: int | str) -> str:
        """The name of a class by its number."""
        number = int(number)
        if self.class_names is None or number >= len(self.class_names):
            return str(number)
        return str(self.class_names[number])

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = dict(self.figures)
        if self.intervals:
            told["intervals"] = {
                name: dataclasses.asdict(value) for name, value in self.intervals.items()
            }
        if self.class_names is not None:
            told["class_names"] = [str(name) for name in self.class_names]
        return told

    def _tables(self) -> list[tuple[list[str], list[list[str]]]]:
        shown = {n: v for n, v in self.figures.items() if np.ndim(v) < 2 and not _by_class(v)}
        numbers = to_scalars(shown)
        head = ["metric", "value"] + (["low", "high"] if self.intervals else [])
        rows = []
        for name, value in numbers.items():
            interval = self.intervals.get(name)
            ends = [number(interval.low), number(interval.high)] if interval else ["", ""]
            rows.append([name, number(value)] + (ends if self.intervals else []))
        made = [(head, rows)] if rows else []
        by_class = {name: value for name, value in self.figures.items() if _by_class(value)}
        if by_class:
            made.append(self._class_table(by_class))
        return made

    def _class_table(self, by_class: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
        head = ["class"] + [name.removesuffix("_per_class") for name in by_class]
        numbers = sorted({key for value in by_class.values() for key in value}, key=_order)
        rows = [
            [self.name_of(key) if str(key).isdigit() else str(key)]
            + [number(value[key]) if key in value else "" for value in by_class.values()]
            for key in numbers[:_MOST_ROWS]
        ]
        if len(numbers) > _MOST_ROWS:
            rows.append([f"{len(numbers) - _MOST_ROWS} more"] + [""] * len(by_class))
        return head, rows


def _by_class(value: Any) -> bool:
    return isinstance(value, Mapping)


def _order(key: Any) -> tuple[int, str]:
    return (int(key), "") if str(key).isdigit() else (sys.maxsize, str(key))
