"""A metric with a value for each class has, wherever `fit` shows it, the name and array of fit."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.training.small_runs import BATCH, arrays, config, train
from tfbig.errors import UserError
from tfbig.evaluation.curves import read_history
from tfbig.programs.vector_metrics import to_fit_logs, to_scalars

FEATURES = arrays()[0]
LABELS = np.eye(3, dtype="float32")[arrays()[1]]
STEPS = -(-len(LABELS) // BATCH)


def build(**of_metric) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="softmax")])
    metric = keras.metrics.F1Score(name="f1_score", **of_metric)
    model.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy", metrics=[metric])
    return model


def data() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((FEATURES, LABELS)).batch(BATCH)


class Told(keras.callbacks.Callback):
    """Keeps the logs of each hook."""

    def __init__(self):
        super().__init__()
        self.logs = {"epoch": [], "batch": [], "test": [], "test batch": []}

    def on_epoch_end(self, epoch, logs=None):
        self.logs["epoch"].append(logs)

    def on_train_batch_end(self, batch, logs=None):
        self.logs["batch"].append(logs)

    def on_test_end(self, logs=None):
        self.logs["test"].append(logs)

    def on_test_batch_end(self, batch, logs=None):
        self.logs["test batch"].append(logs)


def same(ours: dict, fits: dict) -> None:
    assert list(ours) == list(fits)
    for name, value in fits.items():
        assert type(ours[name]) is type(value), name
        assert np.shape(ours[name]) == np.shape(value)
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_callbacks_results_and_files_have_what_fit_gives(tmp_path):
    expected, ours = Told(), Told()
    paths = [str(tmp_path / name) for name in ("fit.csv", "ours.csv")]
    model = build()
    model.fit(
        data(), validation_data=data(), epochs=2, verbose=0,
        callbacks=[expected, keras.callbacks.CSVLogger(paths[0])],
    )  # fmt: skip
    stopping = keras.callbacks.EarlyStopping("val_f1_score_1", mode="max", patience=9)
    board = keras.callbacks.TensorBoard(str(tmp_path / "board"), update_freq=4)
    settings = config(steps_per_loop=1, log_step_count_steps=STEPS, save_summary_steps=STEPS)
    result = train(
        build, data, eval_input_fn=data, epochs=2, model_dir=tmp_path / "run", config=settings,
        callbacks=[ours, keras.callbacks.CSVLogger(paths[1]), stopping, board],
    )  # fmt: skip
    for hook in ("epoch", "test"):
        assert len(ours.logs[hook]) == len(expected.logs[hook]) == 2
        for told, wanted in zip(ours.logs[hook], expected.logs[hook], strict=True):
            same(told, wanted)
    same(ours.logs["batch"][STEPS - 1], expected.logs["batch"][STEPS - 1])
    assert ours.logs["test batch"][-1]["f1_score"].shape == (3,)

    last = expected.logs["epoch"][-1]
    np.testing.assert_allclose(result.metrics["f1_score"], last["val_f1_score"], rtol=1e-5)
    for name in ("f1_score", "val_f1_score"):
        np.testing.assert_allclose(result.history[-1][name], last[name], rtol=1e-5)
    assert stopping.best == pytest.approx(last["val_f1_score"][1], rel=1e-5)

    rows = [list(csv.DictReader(open(path))) for path in paths]
    assert list(rows[1][0]) == list(rows[0][0])
    numbers = [[float(n) for n in r[-1]["f1_score"].strip('"[]').split(", ")] for r in rows]
    np.testing.assert_allclose(numbers[1], numbers[0], rtol=1e-5)

    kept = read_history(str(tmp_path / "run"))[-1]  # of the summaries, one number a name
    for name in ("f1_score", "val_f1_score"):
        found = [kept[f"{name}_{number}"] for number in range(3)]
        np.testing.assert_allclose(found, last[name], rtol=1e-5)

    again = train(
        build, data, eval_input_fn=data, epochs=2, model_dir=tmp_path / "run", config=settings
    )  # what the checkpoint has kept as JSON
    same(again.metrics, result.metrics)


def test_evaluate_and_its_report_have_the_array(tmp_path):
    model = build()
    figures = tfbig.evaluate(
        model, data, metrics=[], strategy="one_device", model_dir=tmp_path / "run"
    )
    expected = model.evaluate(data(), verbose=0, return_dict=True)
    np.testing.assert_allclose(figures["f1_score"], expected["f1_score"], rtol=1e-5)
    report = tfbig.evaluation.report.Report(figures, history=[figures]).text()
    assert all(f"f1_score_{number}" in report for number in range(3))


def test_a_metric_with_several_values_cannot_be_monitored():
    callback = keras.callbacks.EarlyStopping(monitor="val_f1_score", mode="max")
    with pytest.raises(UserError) as error:
        train(build, data, eval_input_fn=data, max_steps=2, callbacks=[callback])
    assert str(error.value) == (
        "EarlyStopping(monitor='val_f1_score'): the metric has 3 values, one for each class. "
        "Monitor one of them, such as 'val_f1_score_0', or use a metric with one value, such as "
        'keras.metrics.F1Score(average="macro").'
    )
    macro = lambda: build(average="macro")  # noqa: E731
    result = train(macro, data, eval_input_fn=data, max_steps=2, callbacks=[callback])
    assert callback.best == pytest.approx(result.metrics["f1_score"])


def test_figures_in_both_forms():
    kept = {"loss": 0.5, "f1": [0.25, 1.0], "matrix": [[1.0, 2.0], [3.0, 4.0]]}
    arrays = to_fit_logs(kept)
    assert arrays["loss"] == 0.5
    assert arrays["f1"].dtype == np.float32
    assert arrays["matrix"].shape == (2, 2)
    numbers = {"loss": 0.5, "f1_0": 0.25, "f1_1": 1.0}
    numbers |= {f"matrix_{i}": i + 1.0 for i in range(4)}
    assert to_scalars(kept) == to_scalars(arrays) == numbers
