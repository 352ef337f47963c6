"""Report: the results of an evaluation as a table, metrics.json and plots."""

import dataclasses
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from tfbig.evaluation import plots
from tfbig.evaluation.output import (
    format_number,
    print_tables,
    table_text,
    write_atomically,
    write_json,
)
from tfbig.evaluation.statistics import Interval
from tfbig.metrics.metric import Metric, Value
from tfbig.programs.vector_metrics import to_scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_ROWS = 50  # of classes in the table


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of an evaluation, which can be printed and written to files.

    Example:

        metrics = metrics_for("classes")
        update_all(metrics, labels, predictions)
        report = Report(results(metrics), metrics=metrics, history=result.history)
        report.show()
        report.write("runs/digits")  # metrics.json, confusion_matrix.png, roc.png, …

    Args:
        figures: the results by name: a number, a dict of numbers by class, or a confusion matrix
            (an array).
        metrics: the Metric objects, from which the ROC curve and the reliability diagram are
            drawn.
        history: `TrainResult.history`; keys with the prefix val_ are evaluation results.
        intervals: intervals by the name of a result.
        class_names: the names of the classes by class number; None shows the numbers.
        title: the heading, such as what was evaluated.
    """

    figures: Mapping[str, Value]
    metrics: Sequence[Metric] = ()
    history: Sequence[Mapping[str, float]] = ()
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    class_names: Sequence[str] | None = None
    title: str = "Evaluation"

    def text(self) -> str:
        """Returns the tables as plain text: a line per result, then a line per class."""
        return table_text(self.title, self._tables())

    def show(self, file: TextIO | None = None) -> None:
        """Prints the tables, with borders on a terminal, otherwise as `text`.

        Args:
            file: the output file; None for standard output.
        """
        print_tables(self.title, self._tables(), file)

    def write(self, directory: str) -> list[str]:
        """Writes metrics.json and the plots for which there is data.

        The plots are learning_curves.png (if there is a history), confusion_matrix.png (if there
        is a confusion matrix), roc.png (if a metric is a RocAuc or PrAuc) and reliability.png (if
        a metric is a CalibrationError). Files are written atomically.

        Args:
            directory: created if it does not exist.

        Returns:
            The paths of the files.

        Raises:
            UserError: a file cannot be written.
        """
        path = os.path.join(directory, "metrics.json")
        write_json(path, self._json())
        paths = [path]
        for name, figure in self.plots().items():
            path = os.path.join(directory, f"{name}.png")
            write_atomically(path, lambda file, figure=figure: figure.savefig(file, format="png"))
            paths.append(path)
        return paths

    def plots(self) -> dict[str, "Figure"]:
        """Draws the plots for which there is data; returns Matplotlib figures by file name."""
        return plots.draw(
            self.figures,
            metrics=self.metrics,
            history=self.history,
            class_names=self.class_names,
            title=self.title,
        )

    def _json(self) -> dict[str, Any]:
        content: dict[str, Any] = dict(self.figures)
        if self.intervals:
            content["intervals"] = {
                name: dataclasses.asdict(value) for name, value in self.intervals.items()
            }
        if self.class_names is not None:
            content["class_names"] = [str(name) for name in self.class_names]
        return content

    def _tables(self) -> list[tuple[list[str], list[list[str]]]]:
        shown = {n: v for n, v in self.figures.items() if np.ndim(v) < 2 and not _is_by_class(v)}
        values = to_scalars(shown)
        head = ["metric", "value"] + (["low", "high"] if self.intervals else [])
        rows = []
        for name, value in values.items():
            interval = self.intervals.get(name)
            ends = (
                [format_number(interval.low), format_number(interval.high)]
                if interval
                else ["", ""]
            )
            rows.append([name, format_number(value)] + (ends if self.intervals else []))
        tables = [(head, rows)] if rows else []
        by_class = {name: value for name, value in self.figures.items() if _is_by_class(value)}
        if by_class:
            tables.append(self._class_table(by_class))
        return tables

    def _class_table(self, by_class: dict[str, dict]) -> tuple[list[str], list[list[str]]]:
        head = ["class"] + [name.removesuffix("_per_class") for name in by_class]
        classes = sorted({key for value in by_class.values() for key in value}, key=_order)
        rows = [
            [plots.class_name(self.class_names, key) if str(key).isdigit() else str(key)]
            + [format_number(value[key]) if key in value else "" for value in by_class.values()]
            for key in classes[:_MOST_ROWS]
        ]
        if len(classes) > _MOST_ROWS:
            rows.append([f"{len(classes) - _MOST_ROWS} more"] + [""] * len(by_class))
        return head, rows


def _is_by_class(value: Any) -> bool:
    return isinstance(value, Mapping)


def _order(key: Any) -> tuple[int, str]:
    return (int(key), "") if str(key).isdigit() else (sys.maxsize, str(key))
