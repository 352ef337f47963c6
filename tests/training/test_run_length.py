"""How long a run will be, where a Dataset may be shorter than max_steps."""

import pytest

import tfbig
from tests import harness
from tests.training import small_runs
from tests.training.callback_helpers import run_info
from tfbig.training.run_length import RunLength


@pytest.mark.parametrize(
    ("input_fn", "limits", "total"),
    [
        (small_runs.dataset, dict(max_steps=16, epochs=None), 10),
        (small_runs.dataset, dict(max_steps=4, epochs=None), 4),
        (small_runs.dataset, dict(max_steps=None, epochs=3), 30),
        (lambda: small_runs.dataset().repeat(), dict(max_steps=16, epochs=None), 16),
        (small_runs.source, dict(max_steps=16, epochs=None), 16),
    ],
)
def test_the_last_step_is_the_datas_end_or_max_steps_whichever_comes_first(input_fn, limits, total):
    length = RunLength(input_fn, **limits)
    length.input_fn()
    assert length.total_steps() == total


class Facts(tfbig.callbacks.LoopCallback):
    def on_train_begin(self, logs=None):
        self._total = self.run.total_steps


def test_callbacks_and_schedules_know_where_a_short_dataset_ends(tmp_path, capsys):
    facts = Facts()
    recipe = tfbig.Recipe(learning_rate={"schedule": "cosine", "peak": 0.1})
    result = tfbig.fine_tune(
        small_runs.build(),
        small_runs.dataset,
        recipe=recipe,
        max_steps=500,
        strategy="one_device",
        config=small_runs.config(log_step_count_steps=5),
        callbacks=[facts],
    )
    assert (result.global_step, facts._total) == (10, 10)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split()[1] for line in lines] == ["5/10", "10/10"]
    # The rate of the next step, which a cosine over 10 steps has brought to its end.
    assert result.history[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-6)
    assert run_info(max_steps=500, data_end=10).total_steps == 10


SCRIPT = """
from tests import harness
from tests.training import small_runs
small_runs.train(input_fn=small_runs.dataset, max_steps=16)
"""


def test_a_plain_script_shows_once_that_max_steps_was_not_reached(tmp_path):
    done = harness.run_forked("-c", SCRIPT, folder=tmp_path)
    line = "the data ended after step 10; max_steps=16 was not reached; return dataset.repeat() "
    assert done.err.count(line) == 1
