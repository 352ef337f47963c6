"""The tables, metrics.json and plots of an evaluation."""

import io
import json
import math
import os

import numpy as np
import PIL.Image
import pytest

from tests import harness
from tfbig.errors import UserError
from tfbig.evaluation import plots
from tfbig.evaluation.report import Report
from tfbig.evaluation.statistics import Interval
from tfbig.metrics.metric import results, update_all
from tfbig.metrics.tasks import metrics_for

RANDOM = np.random.default_rng(0)
LABELS = RANDOM.integers(0, 3, 300)
LOGITS = RANDOM.normal(size=[300, 3]) + 2 * np.eye(3)[LABELS]
HISTORY = [
    {"step": step, "loss": 1 / step, "accuracy": 1 - 1 / step, "learning_rate": 0.1}
    | ({"val_loss": 2 / step} if step % 20 == 0 else {})
    | {"steps_per_sec": 5.0}
    for step in range(10, 101, 10)
]


def report(task="classes", labels=LABELS, predictions=LOGITS, **more):
    metrics = metrics_for(task)
    update_all(metrics, labels, predictions)
    return Report(results(metrics), metrics=metrics, **more)


def test_the_table_has_a_line_for_each_number_and_each_class():
    figures = {"accuracy": 0.87654, "loss": 1e-5, "examples": 12345, "roc_auc": math.nan}
    figures |= {"f1_per_class": {"0": 1.0, "2": 0.5}, "recall_per_class": {"0": 0.25}}
    lines = Report(
        figures, intervals={"accuracy": Interval(0.87654, 0.85, 0.9)}, class_names=["cat", "dog"]
    ).text()
    assert lines.splitlines() == [
        "Evaluation",
        "",
        "metric        value     low    high",
        "--------  ---------  ------  ------",
        "accuracy     0.8765  0.8500  0.9000",
        "loss          1e-05",
        "examples      12345",
        "roc_auc   undefined",
        "",
        "class      f1  recall",
        "-----  ------  ------",
        "cat    1.0000  0.2500",
        "2      0.5000",
    ]


def test_the_table_of_many_classes_is_truncated():
    text = Report({"f1_per_class": {str(number): 0.5 for number in range(300)}}).text()
    assert "250 more" in text
    assert len(text.splitlines()) == 2 + 2 + 51


def test_the_table_has_borders_only_on_a_terminal():
    plain = io.StringIO()
    report().show(plain)
    assert plain.getvalue() == report().text() + "\n"
    assert plain.getvalue().isascii()

    class Terminal(io.StringIO):
        encoding = "utf-8"

        def isatty(self):
            return True

    terminal = Terminal()
    Report({"accuracy": 0.5}, title="[red]runs[/red]").show(terminal)
    assert "│" in terminal.getvalue()
    assert "[red]runs[/red]" in terminal.getvalue()


def test_metrics_json_holds_all_results_and_null_for_undefined_ones(tmp_path):
    figures = {
        "accuracy": np.float32(0.5),
        "examples": 7,
        "roc_auc": math.nan,
        "perplexity": math.inf,
        "f1_per_class": {"0": 0.5},
        "confusion_matrix": np.array([[3.0, 1.0], [2.0, 1.0]]),
    }
    intervals = {"accuracy": Interval(0.5, 0.25, 0.75)}
    Report(figures, intervals=intervals, class_names=["a", "b"]).write(str(tmp_path / "new"))
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {
        "accuracy": 0.5,
        "examples": 7,
        "roc_auc": None,
        "perplexity": None,
        "f1_per_class": {"0": 0.5},
        "confusion_matrix": [[3.0, 1.0], [2.0, 1.0]],
        "intervals": {"accuracy": {"value": 0.5, "low": 0.25, "high": 0.75, "undefined": 0}},
        "class_names": ["a", "b"],
    }


def test_all_plots_are_written_without_temporary_files(tmp_path):
    paths = report(history=HISTORY, class_names=["a $", "b_", "c"], title="$x^").write(
        str(tmp_path)
    )
    names = ["metrics.json", "learning_curves.png", "confusion_matrix.png", "roc.png"]
    names.append("reliability.png")
    assert [os.path.basename(path) for path in paths] == names
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    for path in paths[1:]:
        with PIL.Image.open(path) as image:
            assert min(image.size) > 450
            assert np.asarray(image.convert("L")).std() > 10


def test_only_plots_with_data_are_drawn(tmp_path):
    labels = RANDOM.normal(size=20)
    assert list(report("regression", labels, labels).plots()) == []
    assert list(report(labels=LABELS[:0], predictions=LOGITS[:0]).plots()) == []
    one_class = report("binary", np.ones(5), np.full(5, 0.7))
    assert list(one_class.plots()) == ["confusion_matrix", "reliability"]
    assert list(Report({}, history=HISTORY).plots()) == ["learning_curves"]


def test_learning_curves_show_training_and_evaluation_by_step():
    assert plots.curve_names(HISTORY) == ["loss", "accuracy", "learning_rate"]
    loss, accuracy, rate = Report({}, history=HISTORY).plots()["learning_curves"].axes
    training, evaluation = loss.lines
    assert list(training.get_xdata()) == list(range(10, 101, 10))
    assert list(evaluation.get_ydata()) == [2 / step for step in range(20, 101, 20)]
    assert [len(accuracy.lines), len(rate.lines)] == [1, 1]
    assert loss.get_xlabel() == "step (updates)"
    assert accuracy.get_ylabel() == "accuracy"


def test_values_that_are_not_finite_leave_a_gap():
    history = [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 3.0}]
    (axes,) = Report({}, history=history).plots()["learning_curves"].axes
    assert list(axes.lines[0].get_ydata()) == [3.0]
    assert Report({}, history=history[:1]).plots() == {}


def test_the_confusion_matrix_shows_the_counts_and_the_share_of_the_row():
    drawn = report(labels=[0, 0, 0, 1], predictions=np.eye(3)[[0, 0, 1, 1]]).plots()
    axes = drawn["confusion_matrix"].axes[0]
    np.testing.assert_allclose(
        axes.images[0].get_array(), [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]]
    )
    assert [text.get_text() for text in axes.texts] == ["2", "1", "1"]
    assert axes.get_title().endswith("75.0% of 4 examples correct")


def test_the_roc_curve_is_exact_and_shows_its_area():
    labels, chances = [0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]
    axes = report("binary", labels, chances).plots()["roc"].axes[0]
    assert np.array(axes.lines[0].get_xydata()).tolist() == [
        [0, 0],
        [0, 0.5],
        [0.5, 0.5],
        [0.5, 1],
        [1, 1],
    ]
    assert axes.lines[0].get_label() == "class 1 (area 0.750)"


def test_of_many_classes_the_worst_curves_are_named():
    labels = RANDOM.integers(0, 12, 400)
    noise = np.arange(12) * 0.1
    chances = np.exp(np.eye(12)[labels] * 2 + RANDOM.normal(size=[400, 12]) * noise)
    axes = report(labels=labels, predictions=np.log(chances)).plots()["roc"].axes[0]
    names = [line.get_label() for line in axes.lines if line.get_label()[0] != "_"]
    assert names[0] == "8 classes with larger area"
    assert len(names) == 1 + 4 + 1


def test_a_curve_of_many_points_is_thinned_and_keeps_its_area(tmp_path):
    labels = RANDOM.integers(0, 2, 50_000)
    made = report("binary", labels, labels + RANDOM.normal(size=50_000))
    line = made.plots()["roc"].axes[0].lines[0]
    x, y = line.get_xydata().T
    assert len(x) <= 1002
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(y, x) == pytest.approx(made.figures["roc_auc"], abs=1e-3)


def test_the_reliability_diagram_has_a_bar_for_each_confidence_that_occurs():
    made = report("binary", [1] * 12 + [0], [0.9] * 12 + [0.6])
    above, below = made.plots()["reliability"].axes
    assert [bar.get_height() for bar in above.patches] == [1.0, 0.0]
    heights = [bar.get_height() for bar in below.patches]
    assert len(heights) == 15
    assert max(heights) == pytest.approx(12 / 13)
    assert above.get_title().endswith("expected calibration error 0.138")


def test_the_matplotlib_backend_of_the_caller_is_unchanged(tmp_path):
    code = (
        "import sys, matplotlib; matplotlib.use('svg')\n"
        "from tfbig.evaluation.report import Report\n"
        "Report({'loss': 1.0}, history=[{'step': 1, 'loss': 1.0}]).write(sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.get_backend().lower() == 'svg'\n"
    )
    harness.run_python("-c", code, str(tmp_path), timeout=120)  # Keras imports matplotlib
    assert (tmp_path / "learning_curves.png").read_bytes()[:4] == b"\x89PNG"


def test_matplotlib_is_imported_only_to_draw():
    code = "import sys, tfbig.evaluation.report as r; assert 'matplotlib' not in sys.modules"
    harness.run_python("-c", code, timeout=120)


def test_errors_name_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="metrics.json' cannot be written: .*; pass a directory"):
        Report({"loss": 1.0}).write(str(tmp_path / "file"))
    assert os.listdir(tmp_path) == ["file"]
