"""The plots of a report, drawn on matplotlib's Figure: no window, no change to the backend.

Colours are those of Okabe and Ito, "Color Universal Design", 2008, and differ in line style too.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfbig._optional import load
from tfbig.metrics.classification import CalibrationError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_GREY = "#8A8A8A"
_NOT_CURVES = ("step", "epoch", "steps_per_sec", "examples_per_sec", "data_wait")
_MOST_PANELS = 6
_WORST_CURVES = 4  # named where there are more curves than colours
_MOST_POINTS = 1000  # of a curve
_MOST_CELLS_WITH_NUMBERS = 20  # classes of a confusion matrix
_FEW = 10  # examples in a bin, whose share says little
_DPI = 150


def curve_names(history: Sequence[Mapping[str, float]]) -> list[str]:
    """What a history has curves of: loss, its metrics, learning_rate last."""
    keys = {key.removeprefix("val_"): None for point in history for key in point}
    names = [key for key in keys if key not in _NOT_CURVES and _curve(history, key)]
    first = [name for name in names if name == "loss"]
    last = [name for name in names if name.endswith("learning_rate")]
    rest = [name for name in names if name not in first + last]
    return first + rest[: _MOST_PANELS - len(first + last)] + last


def learning_curves(
    history: Sequence[Mapping[str, float]], names: Sequence[str], title: str
) -> "Figure":
    """A panel for each name over the steps, training and evaluation together."""
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


def confusion_matrix(
    matrix: np.ndarray, title: str, name_of: Callable[[int | str], str]
) -> "Figure":
    """Rows are labels; the colour is the share of the row, the numbers are examples."""
    size = len(matrix)
    side = float(np.clip(0.5 * size, 4, 10))
    figure = _figure(width=side + 1.8, height=side + 0.8)
    axes = figure.subplots()
    sums = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, sums, out=np.zeros(matrix.shape), where=sums > 0)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    right = np.trace(matrix) / matrix.sum()
    _finish(
        axes,
        f"Confusion matrix: {title}\n{right:.1%} of {matrix.sum():,.6g} examples right",
        "predicted class",
        "true class",
    )
    axes.grid(False)
    step = -(-size // 30)
    ticks = range(0, size, step)
    names = [_literal(name_of(number)) for number in ticks]
    turned = 90 if size * max(map(len, names)) > 60 else 0
    axes.set_xticks(ticks, names, rotation=turned)
    axes.set_yticks(ticks, names)
    if size <= _MOST_CELLS_WITH_NUMBERS:
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
    title: str,
    name_of: Callable[[int | str], str],
    *,
    named: bool,
) -> "Figure":
    """Draws the true over the false positive rate.

    Args:
        curves: by class number the rates; of many classes those of the smallest area have names.
        title: what was evaluated.
        name_of: the name of a class by its number.
        named: whether the classes have names other than their numbers.
    """
    figure = _figure(width=5.6, height=5.4)
    axes = figure.subplots()
    areas = {name: float(np.trapezoid(y, x)) for name, (x, y) in curves.items()}
    most = len(curves) if len(curves) <= len(_COLOURS) else _WORST_CURVES
    worst = sorted(curves, key=areas.__getitem__)[:most]
    rest = [name for name in curves if name not in worst]
    for place, name in enumerate(rest):
        label = f"{len(rest)} classes of larger area" if place == 0 else None
        axes.plot(*_thinned(*curves[name]), color="#BBBBBB", linewidth=1, label=label)
    for place, name in enumerate(sorted(worst, key=int)):
        label = f"{_literal(name_of(name))} (area {areas[name]:.3f})"
        axes.plot(
            *_thinned(*curves[name]),
            color=_COLOURS[place],
            linestyle=_STYLES[place % len(_STYLES)],
            linewidth=1.8,
            label=f"class {label}" if not named else label,
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
    """How often a confidence was right, and how many examples have it."""
    bins = calibration.bins()
    centres, width = (bins.edges[1:] + bins.edges[:-1]) / 2, np.diff(bins.edges)
    figure = _figure(width=5.6, height=6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    few = (bins.weight > 0) & (bins.weight < _FEW)
    for there, colour, label in (
        (bins.weight >= _FEW, _COLOURS[5], "share that was right"),
        (few, "#D5E9F5", f"the same, fewer than {_FEW} examples"),
    ):
        if there.any():
            height = bins.accuracy[there]
            above.bar(centres[there], height, width[there] * 0.92, color=colour, label=label)
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
    _finish(above, f"Reliability: {title}\n{error}", "", "accuracy (share right)")
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
    """The steps and the finite values of a key; a point without a step has its place."""
    pairs = [
        (point.get("step", place), point[key])
        for place, point in enumerate(history)
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
    return text.replace("$", r"\$")  # else matplotlib sets formulas


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points, both ends among them."""
    if len(x) <= _MOST_POINTS:
        return x, y
    # Evenly along the curve, not over the thresholds: they crowd where the curve is steep.
    along = np.cumsum(np.hypot(np.diff(x, prepend=0), np.diff(y, prepend=0)))
    places = np.searchsorted(along, np.linspace(0, along[-1], _MOST_POINTS))
    places = np.unique(np.minimum(places, len(x) - 1))
    return x[places], y[places]
