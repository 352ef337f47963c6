"""TrainResult.history: the log points, and the evaluations in between."""

import keras
import pytest

from tests.training.small_runs import config, source, train


def test_an_evaluation_is_in_the_entry_of_its_step_or_has_one_of_its_own():
    result = train(
        eval_input_fn=source,
        max_steps=20,
        config=config(log_step_count_steps=8, eval_every_steps=4),
    )
    assert [entry["step"] for entry in result.history] == [4, 8, 12, 16, 20]
    assert all({"val_loss", "val_accuracy"} < entry.keys() for entry in result.history)
    assert [entry["step"] for entry in result.history if "loss" in entry] == [8, 16, 20]
    assert result.history[0].keys() == {"step", "val_loss", "val_accuracy"}
    last = {f"val_{name}": value for name, value in result.metrics.items()}
    assert {name: result.history[-1][name] for name in last} == pytest.approx(last, abs=0)
    losses = [entry["val_loss"] for entry in result.history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_without_an_evaluation_the_history_has_the_log_points_alone():
    result = train(max_steps=20, config=config(log_step_count_steps=8))
    assert [entry["step"] for entry in result.history] == [8, 16, 20]
    assert not any(name.startswith("val_") for entry in result.history for name in entry)


class Largest(keras.metrics.Metric):
    """A maximum: what two spans have found does not add up."""

    def __init__(self):
        super().__init__(name="largest")
        self.largest = self.add_weight(name="largest", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.largest.assign(keras.ops.maximum(self.largest, keras.ops.max(keras.ops.abs(y_pred))))

    def result(self):
        return self.largest


def test_a_run_that_ends_with_an_epoch_logs_what_that_epoch_has_found():
    def build():
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=[Largest()])
        return model

    result = train(build, epochs=2)  # the end is no log point
    assert [logs["step"] for logs in result.history] == [20]
    assert result.history[0]["largest"] > 0.5
