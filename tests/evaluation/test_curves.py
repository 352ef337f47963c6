"""Reading the learning curves of an earlier run."""

import os
import time

import pytest

from tests.training.callback_helpers import begin
from tests.training.small_runs import config, source, train
from tfbig.evaluation.curves import read_history
from tfbig.training.callbacks.summaries import Summaries


def test_the_curves_of_a_run_are_its_history(tmp_path):
    steps = config(eval_every_steps=8, log_step_count_steps=10, save_summary_steps=10)
    result = train(max_steps=20, eval_input_fn=source, model_dir=str(tmp_path), config=steps)
    rates = ("steps_per_sec", "examples_per_sec")
    logged = [{k: v for k, v in entry.items() if k not in rates} for entry in result.history]
    found = read_history(str(tmp_path))
    assert [entry["step"] for entry in found] == [8, 10, 16, 20]
    for entry, expected in zip(found, logged, strict=True):
        assert entry == pytest.approx(expected, rel=1e-6)


def written(folder, start, losses):
    summaries = begin(Summaries(), model_dir=str(folder), start_step=start)
    for step, loss in losses.items():
        summaries.on_summary(step, {"loss": loss})
    summaries.on_train_end()
    time.sleep(1.1)  # the names of the files contain the time in seconds


def test_repeated_steps_of_a_killed_run_use_the_later_values(tmp_path):
    written(tmp_path, 0, {10: 1.0, 20: 0.5, 25: 7.0, 30: 0.25})
    written(tmp_path, 10, {20: 0.625, 30: 0.375})
    losses = {entry["step"]: entry["loss"] for entry in read_history(str(tmp_path))}
    assert losses == {10: 1.0, 20: 0.625, 30: 0.375}


def test_a_file_with_a_truncated_last_record_is_read_up_to_it(tmp_path):
    written(tmp_path, 0, {10: 1.0, 20: 0.5})
    (file,) = (tmp_path / "summaries").iterdir()
    os.truncate(file, file.stat().st_size - 5)
    assert read_history(str(tmp_path)) == [{"step": 10, "loss": 1.0}]


def test_a_folder_without_summaries_has_no_curves(tmp_path):
    assert read_history(str(tmp_path), None, str(tmp_path / "none")) == []
