"""The base class of tfbig's callbacks, and Throughput."""

import logging
import subprocess
import sys

import keras
import pytest

import tfbig
from tests.training.callback_helpers import Clock, begin, run_info
from tfbig.errors import UserError
from tfbig.training.callbacks.callback import LoopCallback
from tfbig.training.callbacks.throughput import Throughput


def test_every_public_name_exists_and_importing_the_package_does_not_load_keras():
    for name in tfbig.callbacks.__all__:
        assert getattr(tfbig.callbacks, name).__name__ == name
    assert set(tfbig.callbacks.__all__) <= set(dir(tfbig.callbacks))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        tfbig.callbacks.Nothing  # noqa: B018
    code = (
        "import sys, tfbig; tfbig.callbacks; print('keras' in sys.modules, 'rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_a_loop_callback_works_in_a_keras_callback_list_and_its_hooks_do_nothing():
    callback = LoopCallback()
    callbacks = keras.callbacks.CallbackList([callback])
    callback.set_run(run_info())
    callbacks.on_train_begin()
    callbacks.on_train_batch_end(4, {"loss": 1.0})
    callback.on_calls(5, {})
    callback.on_log(5, {})
    callback.on_summary(5, {})
    callback.on_evaluate(5, {})
    callback.on_checkpoint(5, "ckpt-5")
    callback.close()
    assert callback.run.max_steps == 2000
    with pytest.raises(AttributeError):
        callback.run.max_steps = 3


@pytest.mark.parametrize(
    ("limits", "total"),
    [
        (dict(max_steps=7), 7),
        (dict(max_steps=None, epochs=3, steps_per_epoch=29), 87),
        (dict(max_steps=None, epochs=3), None),
        (dict(max_steps=None, steps_per_epoch=29), None),
    ],
)
def test_total_steps_follows_from_max_steps_or_from_epochs_and_length(limits, total):
    assert run_info(**limits).total_steps == total


def test_throughput_excludes_the_first_calls_and_the_evaluations(caplog):
    clock = Clock()
    throughput = begin(Throughput(skip_steps=20, clock=clock), start_step=1000)
    for step, seconds in ((1010, 30.0), (1020, 5.0), (1060, 2.0), (1100, 2.0)):
        clock.now += seconds
        throughput.on_calls(step, {})
    throughput.on_test_begin()
    clock.now += 50.0
    throughput.on_test_end()
    clock.now += 1.0
    throughput.on_calls(1120, {})
    throughput.on_test_begin()
    clock.now += 70.0
    throughput.on_test_end()
    with caplog.at_level(logging.INFO, "tfbig"):
        throughput.on_train_end()
    assert throughput.steps_per_sec == pytest.approx(100 / 5.0)  # 1020 to 1120
    assert throughput.examples_per_sec == pytest.approx(64 * 100 / 5.0)
    assert [record.getMessage() for record in caplog.records] == [
        "throughput: 20 steps/s, 1280 examples/s over 100 steps (batch 64, 1 replicas)"
    ]


def test_throughput_of_a_run_too_short_to_measure_is_none(caplog):
    throughput = begin(Throughput(skip_steps=0, clock=Clock()))
    throughput.on_calls(32, {})
    with caplog.at_level(logging.INFO, "tfbig"):
        throughput.on_train_end()
    assert throughput.steps_per_sec is None
    assert throughput.examples_per_sec is None
    assert "not measured" in caplog.text


def test_throughput_restarts_with_the_next_run():
    clock = Clock()
    throughput = Throughput(skip_steps=1, clock=clock)
    for rate in (10, 40):
        begin(throughput)
        for step in (1, 101):
            clock.now += 100 / rate
            throughput.on_calls(step, {})
        throughput.on_train_end()
        assert throughput.steps_per_sec == pytest.approx(rate)


@pytest.mark.parametrize("skip_steps", [-1, 1.5, True, "10"])
def test_throughput_rejects_an_invalid_number_of_steps(skip_steps):
    with pytest.raises(UserError, match=r"^Throughput\(skip_steps=.*an int of 0 or more.*[^\n]$"):
        Throughput(skip_steps=skip_steps)
