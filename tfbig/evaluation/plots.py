"""The plots of a report, drawn on Matplotlib figures without a window or a change of backend.

The colours are those of Okabe and Ito, "Color Universal Design", 2008; line styles differ too.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfbig._optional import load
from tfbig.metrics.calibration import CalibrationError
from tfbig.metrics.classification import PrAuc, RocAuc
from tfbig.metrics.metric import Metric, Value
from tfbig.programs.vector_metrics import to_scalars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_GREY = "#8A8A8A"
_NOT_CURVES = ("step", "epoch", "steps_per_sec", "examples_per_sec", "data_wait")
_MOST_PANELS = 6
_WORST_CURVES = 4  # named in the legend if there are more curves than colours
_MOST_POINTS = 1000  # in a curve
_MOST_CLASSES_WITH_NUMBERS = 20  # in a confusion matrix
_FEW = 10  # examples in a bin, too few for a reliable accuracy
_DPI = 150


def draw(
    results: Mapping[str, Value],
    *,
    metrics: Sequence[Metric],
    history: Sequence[Mapping[str, float]],
    class_names: Sequence[str] | None,
    title: str,
) -> dict[str, "Figure"]:
    """Draws the plots for which there is data.

    Args:
        results: the results by name; the confusion matrix is drawn from them.
        metrics: the Metric objects; the ROC curve and the reliability diagram are theirs.
        history: points of learning curves, as `TrainResult.history`.
        class_names: the names of the classes by class number; None shows the numbers.
        title: what was evaluated.

    Returns:
        Matplotlib figures by file name, without the extension.
    """
    drawn: dict[str, Figure] = {}
    history = [to_scalars(point) for point in history]
    names = curve_names(history)
    if names:
        drawn["learning_curves"] = learning_curves(history, names, title)
    matrices = [v for v in results.values() if np.ndim(v) == 2 and np.sum(v) > 0]
    if matrices:
        drawn["confusion_matrix"] = confusion_matrix(np.asarray(matrices[0]), class_names, title)
    ranked = [m for m in metrics if isinstance(m, RocAuc)]
    ranked += [m for m in metrics if isinstance(m, PrAuc)]
    curves = ranked[0].curves() if ranked else {}
    curves = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if curves:
        drawn["roc"] = roc(curves, class_names, title)
    calibrations = [m for m in metrics if isinstance(m, CalibrationError)]
    if calibrations and calibrations[0].bins().weight.sum() > 0:
        drawn["reliability"] = reliability(calibrations[0], title)
    return drawn


def class_name(class_names: Sequence[str] | None, number: int | str) -> str:
    """Returns the name of a class, or its number if it has no name."""
    number = int(number)
    if class_names is None or number >= len(class_names):
        return str(number)
    return str(class_names[number])


def curve_names(history: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns the names of the curves in a history: the loss, the metrics, learning_rate last."""
    keys = {key.removeprefix("val_"): None for point in history for key in point}
    names = [key for key in keys if key not in _NOT_CURVES and _curve(history, key)]
    first = [name for name in names if name == "loss"]
    last = [name for name in names if name.endswith("learning_rate")]
    rest = [name for name in names if name not in first + last]
    return first + rest[: _MOST_PANELS - len(first + last)] + last


def learning_curves(
    history: Sequence[Mapping[str, float]], names: Sequence[str], title: str
) -> "Figure":
    """Draws one panel per name over the steps, with training and evaluation curves."""
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = _figure(width=4.2 * columns + 0.4, height=3.2 * rows + 0.5)
    figure.suptitle(_literal(f"Learning curves: {title}"))
    for axes, name in itertools.zip_longest(
        figure.subplots(rows, columns, squeeze=False).flat, names
    ):
        if name is None:
            axes.remove()
            continue
        for key, label, colour, style in (
            (name, "training", _COLOURS[0], "-"),
            (f"val_{name}", "evaluation", _COLOURS[1], "--"),
        ):
            points = _points(history, key)
            if len(points[0]):
                marker = "o" if len(points[0]) <= 30 else None
                axes.plot(*points, style, color=colour, label=label, marker=marker, markersize=3)
        unit = {"loss": "loss", "learning_rate": "rate per update"}.get(name, _words(name))
        _finish(axes, _words(name), "step (updates)", unit)
        if name != "learning_rate" and any(f"val_{name}" in point for point in history):
            axes.legend(frameon=False)
        _scale(axes, history, name)
    return figure


def confusion_matrix(matrix: np.ndarray, class_names: Sequence[str] | None, title: str) -> "Figure":
    """Draws a confusion matrix; rows are labels, colours are shares of a row, numbers counts."""
    size = len(matrix)
    side = float(np.clip(0.5 * size, 4, 10))
    figure = _figure(width=side + 1.8, height=side + 0.8)
    axes = figure.subplots()
    sums = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, sums, out=np.zeros(matrix.shape), where=sums > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    correct = np.trace(matrix) / matrix.sum()
    _finish(
        axes,
        f"Confusion matrix: {title}\n{correct:.1%} of {matrix.sum():,.6g} examples correct",
        "predicted class",
        "true class",
    )
    axes.grid(False)
    step = -(-size // 30)
    ticks = range(0, size, step)
    names = [_literal(class_name(class_names, number)) for number in ticks]
    rotation = 90 if size * max(map(len, names)) > 60 else 0
    axes.set_xticks(ticks, names, rotation=rotation)
    axes.set_yticks(ticks, names)
    if size <= _MOST_CLASSES_WITH_NUMBERS:
        for row, column in np.ndindex(size, size):
            if matrix[row, column]:
                colour = "white" if share[row, column] > 0.55 else "black"
                axes.text(
                    column,
                    row,
                    f"{matrix[row, column]:.4g}",
                    ha="center",
                    va="center",
                    color=colour,
                    fontsize=11 if size <= 12 else 7,
                )
    return figure


def roc(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str] | None,
    title: str,
) -> "Figure":
    """Draws ROC curves; of many classes, those with the smallest area are named."""
    figure = _figure(width=5.6, height=5.4)
    axes = figure.subplots()
    areas = {name: float(np.trapezoid(y, x)) for name, (x, y) in curves.items()}
    most = len(curves) if len(curves) <= len(_COLOURS) else _WORST_CURVES
    named = sorted(curves, key=areas.__getitem__)[:most]
    rest = [name for name in curves if name not in named]
    for i, name in enumerate(rest):
        label = f"{len(rest)} classes with larger area" if i == 0 else None
        axes.plot(*_thinned(*curves[name]), color="#BBBBBB", linewidth=1, label=label)
    for i, name in enumerate(sorted(named, key=int)):
        label = f"{_literal(class_name(class_names, name))} (area {areas[name]:.3f})"
        axes.plot(
            *_thinned(*curves[name]),
            color=_COLOURS[i],
            linestyle=_STYLES[i % len(_STYLES)],
            linewidth=1.8,
            label=f"class {label}" if class_names is None else label,
        )
    axes.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle=(0, (1, 2)), label="chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    several = "each class against the rest" if len(curves) > 1 else "two classes"
    _finish(
        axes,
        f"ROC: {title}\n{several}",
        "false positive rate (share of the negatives)",
        "true positive rate (share of the positives)",
    )
    axes.legend(loc="lower right", framealpha=0.9, fontsize=9)
    return figure


def reliability(calibration: CalibrationError, title: str) -> "Figure":
    """Draws accuracy over confidence, and the share of examples with each confidence."""
    bins = calibration.bins()
    centres, width = (bins.edges[1:] + bins.edges[:-1]) / 2, np.diff(bins.edges)
    figure = _figure(width=5.6, height=6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    few = (bins.weight > 0) & (bins.weight < _FEW)
    for shown, colour, label in (
        (bins.weight >= _FEW, _COLOURS[5], "share of correct predictions"),
        (few, "#D5E9F5", f"the same, fewer than {_FEW} examples"),
    ):
        if shown.any():
            height = bins.accuracy[shown]
            above.bar(centres[shown], height, width[shown] * 0.92, color=colour, label=label)
    above.plot(
        bins.confidence,
        bins.accuracy,
        color=_COLOURS[0],
        marker="o",
        markersize=5,
        linestyle="",
        clip_on=False,
        label="at the bin's mean confidence",
    )
    above.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="calibrated")
    above.set(xlim=(0, 1), ylim=(0, 1.02))
    error = f"expected calibration error {calibration.result():.3f}"
    _finish(above, f"Reliability: {title}\n{error}", "", "accuracy (share of correct predictions)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    share = bins.weight / bins.weight.sum()
    below.bar(centres, share, width * 0.92, color=_GREY)
    _finish(below, "", "confidence (probability of the predicted class)", "share of\nexamples")
    return figure


def _figure(width: float, height: float) -> "Figure":
    figure = load("matplotlib.figure", "a plot")
    return figure.Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _finish(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(_literal(title), fontsize=11, wrap=True)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color="#E4E4E4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _points(history: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Returns the steps and the finite values of a key; a point without a step uses its index."""
    pairs = [
        (point.get("step", i), point[key])
        for i, point in enumerate(history)
        if key in point and np.ndim(point[key]) == 0 and np.isfinite(point[key])
    ]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _curve(history: Sequence[Mapping[str, float]], name: str) -> bool:
    return any(_points(history, key)[0] for key in (name, f"val_{name}"))


def _scale(axes: Any, history: Sequence[Mapping[str, float]], name: str) -> None:
    values = _points(history, name)[1] + _points(history, f"val_{name}")[1]
    if name == "loss" and min(values) > 0 and max(values) > 30 * min(values):
        axes.set_yscale("log")
    elif name.endswith("learning_rate"):
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))


def _words(name: str) -> str:
    return _literal(name.replace("_", " "))


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # otherwise Matplotlib renders formulas


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reduces a curve to about _MOST_POINTS points, including both ends."""
    if len(x) <= _MOST_POINTS:
        return x, y
    # Select evenly along the curve, because thresholds cluster where the curve is steep.
    length = np.cumsum(np.hypot(np.diff(x, prepend=0), np.diff(y, prepend=0)))
    indices = np.searchsorted(length, np.linspace(0, length[-1], _MOST_POINTS))
    indices = np.unique(np.minimum(indices, len(x) - 1))
    return x[indices], y[indices]
