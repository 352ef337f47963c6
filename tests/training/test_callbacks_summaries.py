"""Summaries: the contents of the event files for TensorBoard."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tests.training.callback_helpers import LOGS, begin
from tfbig.training.callbacks.summaries import Summaries


def written(directory):
    """Reads all event files of a directory, oldest first: {tag: [(step, value), …]}."""
    scalars = {}
    for name in sorted(tf.io.gfile.glob(os.path.join(directory, "events*"))):
        for event in tf.compat.v1.train.summary_iterator(name):
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                scalars.setdefault(value.tag, []).append((event.step, number))
    return scalars


def test_summaries_of_training_and_evaluation_are_one_run_over_the_global_step(tmp_path):
    summaries = begin(Summaries(), model_dir=str(tmp_path))
    summaries.on_summary(100, dict(LOGS))
    summaries.on_evaluate(150, {"loss": 0.25, "accuracy": 0.5})
    summaries.on_summary(200, dict(LOGS, loss=0.0625))
    summaries.on_train_end()
    f32 = np.float32
    assert written(tmp_path / "summaries") == {
        "train/loss": [(100, f32(0.1234)), (200, 0.0625)],
        "train/accuracy": [(100, f32(0.975)), (200, f32(0.975))],
        "train/learning_rate": [(100, f32(1e-3)), (200, f32(1e-3))],
        "rates/steps_per_sec": [(100, f32(141.7)), (200, f32(141.7))],
        "rates/examples_per_sec": [(100, f32(61000.4)), (200, f32(61000.4))],
        "eval/loss": [(150, 0.25)],
        "eval/accuracy": [(150, 0.5)],
    }
    assert os.listdir(tmp_path) == ["summaries"]
    assert len(os.listdir(tmp_path / "summaries")) == 1


def test_tensorboard_reads_the_summaries_as_its_own_scalars(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    summaries = begin(Summaries(), model_dir=str(tmp_path))
    summaries.on_summary(100, {"loss": 0.5})
    summaries.close()
    with tf.summary.create_file_writer(str(tmp_path / "other")).as_default():
        tf.summary.scalar("train/loss", 0.5, step=100)
    read = []
    for name in ("summaries", "other"):
        accumulator = accumulators.EventAccumulator(str(tmp_path / name))
        accumulator.Reload()
        assert accumulator.Tags()["tensors"] == ["train/loss"]
        (event,) = accumulator.Tensors("train/loss")
        assert (event.step, tf.make_ndarray(event.tensor_proto).item()) == (100, 0.5)
        read.append(accumulator.SummaryMetadata("train/loss"))
    assert read[0] == read[1]
    assert read[0].plugin_data.plugin_name == "scalars"


def test_summaries_before_a_checkpoint_are_flushed_at_the_checkpoint(tmp_path):
    summaries = begin(Summaries(), model_dir=str(tmp_path))
    summaries.on_summary(100, {"loss": 0.5})
    summaries.on_checkpoint(100, "ckpt-100")
    assert written(tmp_path / "summaries") == {"train/loss": [(100, 0.5)]}
    summaries.close()


def test_a_resumed_run_adds_a_file_and_keeps_the_old_one(tmp_path):
    for start, steps in ((0, (100, 200, 300)), (200, (300, 400))):
        summaries = begin(Summaries(), model_dir=str(tmp_path), start_step=start)
        for step in steps:
            summaries.on_summary(step, {"loss": float(step)})
        summaries.on_train_end()
    steps = [step for step, _ in written(tmp_path / "summaries")["train/loss"]]
    assert sorted(steps) == [100, 200, 300, 300, 400]


def test_without_a_model_dir_no_summary_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    summaries = begin(Summaries(), model_dir=None)
    summaries.on_summary(100, {"loss": 0.5})
    summaries.on_evaluate(100, {"loss": 0.5})
    summaries.on_checkpoint(100, "ckpt-100")
    summaries.on_train_end()
    assert os.listdir(tmp_path) == []
