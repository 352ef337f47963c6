"""TrainResult.history: the log points, and the evaluations in between."""

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
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_without_an_evaluation_the_history_has_the_log_points_alone():
    result = train(max_steps=20, config=config(log_step_count_steps=8))
    assert [entry["step"] for entry in result.history] == [8, 16, 20]
    assert not any(name.startswith("val_") for entry in result.history for name in entry)
