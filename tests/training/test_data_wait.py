"""How long the step waited for data is measured, reported, and warned of."""

import logging
import time

import pytest

import tfbig
from tests.training import small_runs
from tfbig.training.loop.meters import DataWait


class Slow(tfbig.data.Source):
    """Takes so many seconds for each read."""

    def __init__(self, seconds):
        self.inner, self.seconds = small_runs.source(), seconds
        self.batch_size = small_runs.BATCH

    def __len__(self):
        return len(self.inner)

    def read(self, indices):
        time.sleep(self.seconds)
        return self.inner.read(indices)


@pytest.mark.slow
def test_a_run_that_waits_for_its_data_says_so_and_what_to_do(caplog):
    caplog.set_level(logging.INFO, "tfbig")
    config = tfbig.RunConfig(steps_per_loop=1)
    result = tfbig.train_distributed(
        small_runs.build, lambda: Slow(0.06), max_steps=30, config=config
    )
    assert 0.5 < result.data_wait < 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert f"waited for data {100 * result.data_wait:.0f} % of the time: make read()" in warnings[0]


def test_the_share_is_the_waiting_of_all_calls_over_their_time(caplog):
    caplog.set_level(logging.INFO, "tfbig")
    wait = DataWait()
    wait.add(0.05, 0.95)
    wait.add(0.05, 0.95)
    assert wait.share == pytest.approx(0.05)
    wait.report("read faster")
    assert caplog.messages == ["the step waited for data 5.0 % of the time"]
    wait.add(0.5, 0.5)
    wait.report("read faster")
    assert caplog.messages[-1] == "the step waited for data 20 % of the time: read faster"


def test_a_short_run_is_reported_without_a_warning_and_an_empty_one_not_at_all(caplog):
    caplog.set_level(logging.INFO, "tfbig")
    wait = DataWait()
    wait.report("read faster")
    assert wait.share is None
    assert not caplog.messages
    wait.add(0.3, 0.3)
    wait.report("read faster")
    assert caplog.messages == ["the step waited for data 50.0 % of the time"]
