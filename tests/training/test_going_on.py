"""From whatever checkpoint a run is started again, it comes to the same end, bit for bit."""

import json
import logging
import os
import random
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import nursery
from tests.training import pausing_run
from tests.training.small_runs import (
    BATCH,
    arrays,
    assert_same_variables,
    build,
    checkpoint,
    checkpoint_steps,
    config,
    files_below,
    saved_variables,
    source,
    train,
)

END = 40  # the last step; a pass has ten


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(arrays()).shuffle(50, seed=5).batch(BATCH)


def filtered() -> tf.data.Dataset:
    """Passes of a length that is not known, reshuffled each time."""
    data = tf.data.Dataset.from_tensor_slices(arrays())
    return data.filter(lambda x, y: True).shuffle(50).batch(BATCH)


def generated() -> tf.data.Dataset:
    """Batches of a Python generator, whose iterator TensorFlow cannot keep."""
    features, labels = arrays()

    def batches():
        for start in range(0, len(labels), BATCH):
            yield features[start : start + BATCH], labels[start : start + BATCH]

    signature = (tf.TensorSpec([None, 8]), tf.TensorSpec([None], tf.int32))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def model_fn(features, labels, mode):
    hidden = keras.layers.Dense(8, "relu")(features)
    hidden = keras.layers.Dropout(0.3)(hidden, training=mode == tfbig.ModeKeys.TRAIN)
    logits = keras.layers.Dense(3)(hidden)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return tfbig.EstimatorSpec(mode, loss=losses, optimizer=keras.optimizers.Adam(0.01))


def with_dropout() -> keras.Model:
    return build(dropout=0.3)


def averaged() -> keras.Model:
    model = build()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True), model.loss)
    return model


def never_better() -> list[keras.callbacks.Callback]:
    """Halves the rate after each pass but the first, and ends the run after the sixth."""
    return [
        keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1, min_delta=10.0),
        keras.callbacks.EarlyStopping(
            "val_loss", patience=5, min_delta=10.0, restore_best_weights=True
        ),
    ]


PASSES = dict(max_steps=None, epochs=4)
CASES = {
    "a Source": dict(model_fn=with_dropout),
    "a repeated Dataset": dict(model_fn=with_dropout, input_fn=lambda: shuffled().repeat()),
    "passes of a Dataset": dict(input_fn=shuffled, **PASSES),
    "passes of unknown length": dict(input_fn=filtered, **PASSES),
    "a generator": dict(model_fn=with_dropout, input_fn=lambda: generated().repeat()),
    "passes of a generator": dict(input_fn=generated, **PASSES),
    "a model_fn": dict(model_fn=model_fn),
    "averaged weights": dict(model_fn=averaged),
    "accumulation": dict(model_fn=with_dropout, accumulation_steps=3),
    "callbacks": dict(
        model_fn=with_dropout, eval_input_fn=source, max_steps=80, callbacks=never_better
    ),
}


def run(case: str, model_dir, callbacks=(), **changes) -> tfbig.TrainResult:
    """One run of a case, from where model_dir stands to its end."""
    keywords = {"input_fn": source, "max_steps": END, **CASES[case], **changes}
    fields = {name: keywords.pop(name) for name in ("accumulation_steps",) if name in keywords}
    callbacks = [*keywords.pop("callbacks", list)(), *callbacks]
    settings = config(save_checkpoints_steps=7, keep_checkpoint_max=1000, **fields)
    return train(**keywords, model_dir=model_dir, callbacks=callbacks, config=settings)


def loop_state(model_dir, step: int) -> dict:
    with open(checkpoint(model_dir, step) / "metadata.json") as file:
        return json.load(file)["loop"]


def assert_same_end(first, second) -> None:
    """Asserts that two runs ended at the same step with the same state."""
    end = checkpoint_steps(first)[-1]
    assert checkpoint_steps(second)[-1] == end
    assert_same_variables(saved_variables(first, end), saved_variables(second, end))
    one, other = loop_state(first, end), loop_state(second, end)
    assert one["metrics"] == pytest.approx(other["metrics"])
    assert one["meters"]["epoch"] == pytest.approx(other["meters"]["epoch"])
    for name in ("EarlyStopping#0", "ReduceLROnPlateau#0"):
        assert one["callbacks"].get(name) == other["callbacks"].get(name)


def killed_after(whole, folder, step: int):
    """A model_dir as a run leaves it that is killed after its checkpoint of a step."""
    shutil.copytree(checkpoint(whole, step), checkpoint(folder, step))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_from_any_of_its_checkpoints_a_run_comes_to_the_same_end(case, tmp_path):
    whole = tmp_path / "whole"
    run(case, whole)
    for step in (7, 21, 35):  # in the middle of the first, the third and the fourth pass
        killed = killed_after(whole, tmp_path / str(step), step)
        run(case, killed)
        assert_same_end(whole, killed)


def test_the_states_of_callbacks_are_kept(tmp_path):
    result = run("callbacks", tmp_path)
    assert result.global_step == 60
    state = loop_state(tmp_path, 60)
    assert state["ended"] == "callback"
    stopping = state["callbacks"]["EarlyStopping#0"]
    assert (stopping["wait"], stopping["stopped_epoch"]) == (5, 5)
    assert float(result.model.optimizer.learning_rate) == pytest.approx(0.01 / 2**5)


def test_a_source_is_not_read_again(tmp_path):
    read = []

    class Counting(tfbig.data.ArraySource):
        def read(self, indices):
            read.append(len(indices))
            return super().read(indices)

    def counting():
        return Counting(arrays()).batch(BATCH)

    run("a Source", tmp_path / "whole", input_fn=counting)
    assert sum(read) == 1 + 4 * len(arrays()[1])  # one for the structure, and four passes
    read.clear()
    run("a Source", killed_after(tmp_path / "whole", tmp_path / "killed", 35), input_fn=counting)
    assert sum(read) == 1 + 4 * BATCH + BATCH // 2  # the last five batches, one of them half


@pytest.mark.slow
def test_the_log_says_how_a_run_goes_on(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        run("a generator", tmp_path / "whole")
        assert (
            "the Dataset's position cannot be saved in checkpoints (PyFunc is stateful); a resumed "
            "run reads it from the start and skips the batches that were used" in caplog.messages
        )
        caplog.clear()
        killed = killed_after(tmp_path / "whole", tmp_path / "killed", 21)
        run("a generator", killed)
    assert f"resuming from {checkpoint(killed, 21)}" in caplog.messages
    assert (
        "resuming: the Dataset is read from the start, and 0 whole passes and 21 batches are "
        "skipped, because the checkpoint has no position of its iterator" in caplog.messages
    )
    assert "training on one device (CPU:0) from step 21" in caplog.messages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (lambda: shuffled().map(lambda x, y: (x + 1, y)).repeat(), "Failed to restore dataset"),
        (lambda: shuffled().rebatch(8).repeat(), "the batch size is 8, it was 16"),
        (shuffled, "Failed to restore dataset"),
    ],
)
def test_a_changed_dataset_is_read_from_its_start_with_a_warning(changed, why, tmp_path, caplog):
    run("a repeated Dataset", tmp_path)
    caplog.clear()
    result = train(with_dropout, changed, max_steps=END + 5, model_dir=tmp_path)
    assert result.global_step == END + 5
    warnings = [
        r.getMessage()
        for r in caplog.records
        if r.levelno == logging.WARNING and r.name == "tfbig"  # AutoGraph warns of lambdas
    ]
    assert len(warnings) == 1
    assert why in warnings[0]
    assert warnings[0].endswith("it is read from the start")


def test_a_run_that_has_reached_its_end_returns_what_it_had(tmp_path, caplog):
    def again():
        return train(input_fn=source, eval_input_fn=source, max_steps=END, model_dir=tmp_path)

    first = again()
    before = files_below(tmp_path)
    with caplog.at_level(logging.INFO, "tfbig"):
        second = again()
    assert (
        f"nothing to train: step {END} is reached already in {tmp_path}; give another model_dir, "
        "or a higher max_steps" in caplog.messages
    )
    assert (second.global_step, second.loss, second.metrics) == (END, first.loss, first.metrics)
    for ours, theirs in zip(first.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert files_below(tmp_path) == before


class Send(keras.callbacks.Callback):
    """Sends this process a signal: at the beginning, or in the call that ends with a step."""

    def __init__(self, name: str, step: int):
        super().__init__()
        self._number, self._step = getattr(signal, name), step

    def on_train_begin(self, logs=None):
        if self._step == 0:
            os.kill(os.getpid(), self._number)

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("step", [20, END])
def test_a_signal_ends_a_run_after_its_step_and_it_goes_on_to_the_same_end(name, step, tmp_path):
    options = dict(model_fn=with_dropout, eval_input_fn=source, max_steps=END)
    settings = config(eval_every_steps=13)
    whole = train(**options, model_dir=tmp_path / "whole", config=settings)
    before = signal.getsignal(getattr(signal, name))
    stopped = train(
        **options,
        model_dir=tmp_path / "stopped",
        callbacks=[Send(name, step)],
        config=config(eval_every_steps=13, steps_per_loop=1),
    )
    assert (stopped.preempted, stopped.global_step) == (name, step)
    assert signal.getsignal(getattr(signal, name)) is before
    assert checkpoint_steps(tmp_path / "stopped") == [step]
    end = train(**options, model_dir=tmp_path / "stopped", config=settings)
    assert (end.preempted, end.global_step) == (None, END)
    assert end.metrics == pytest.approx(whole.metrics)  # the last evaluation is made up for
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
def test_a_signal_before_the_first_step_loses_no_batch(tmp_path):
    run("a repeated Dataset", tmp_path / "whole")
    stopped = run("a repeated Dataset", tmp_path / "stopped", [Send("SIGTERM", 0)])
    assert (stopped.preempted, stopped.global_step) == ("SIGTERM", 1)
    run("a repeated Dataset", tmp_path / "stopped")
    assert_same_end(tmp_path / "whole", tmp_path / "stopped")


def wait_for(condition, process, seconds: float = 60) -> None:
    """Waits until a condition holds, while a process runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.code is None, process.out + process.err
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_kills_from_outside_at_any_moment_leave_no_trace(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    pausing_run.run(whole)
    moments = random.Random(11)
    for number in range(2):
        folder, arguments = tmp_path / f"process{number}", [str(killed), 0.02]
        process = nursery.start(pausing_run.run, folder, arguments, one_thread=False)
        try:
            already = checkpoint_steps(killed)
            wait_for(lambda before=already: checkpoint_steps(killed) != before, process)
            time.sleep(moments.uniform(0, 0.5))  # in a call, in a pause or while it saves
        finally:
            process.send(signal.SIGKILL)
        assert process.ended(10)
        assert process.code == -signal.SIGKILL
    pausing_run.run(killed)
    assert_same_end(whole, killed)
    assert sorted(files_below(killed / "checkpoints")) == sorted(files_below(whole / "checkpoints"))
