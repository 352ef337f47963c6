"""docs/callbacks.md: its examples run, and the loop calls the hooks in the documented order."""

import os
import re
import signal

import pytest

from tests import docs_blocks, nursery

PAGE = "docs/callbacks.md"

ORDER = """
import keras
import tfbig
from tfbig.datasets import digits
from tfbig.models import mlp

calls = []

def note(name):
    def hook(self, *arguments, logs=None):
        numbers = [a for a in arguments if isinstance(a, int)]
        logs = next((a for a in arguments if isinstance(a, dict)), logs)
        calls.append((name, *numbers, *([sorted(logs)] if name == "on_epoch_end" else [])))
    return hook

names = (
    "set_run on_train_begin on_epoch_begin on_train_batch_begin on_train_batch_end on_calls on_log "
    "on_summary on_test_begin on_test_end on_evaluate on_epoch_end on_checkpoint on_train_end close"
).split()
Notes = type("Notes", (tfbig.callbacks.LoopCallback,), {name: note(name) for name in names})
tfbig.train_distributed(
    mlp.build, digits.input_fn, eval_input_fn=digits.input_fn, epochs=2, model_dir="run",
    params={"data": {"batch_size": 719}},  # two steps per epoch
    callbacks=[Notes(), tfbig.callbacks.Progress(live=False)],
    config=tfbig.RunConfig(steps_per_loop=1, log_step_count_steps=2, save_summary_steps=2),
)
for line in calls:
    print(*line)
"""


def run(folder, function, *arguments) -> str:
    """Calls a function in a forked process, with a folder as argument; returns its output."""
    directory = folder / "directory"
    directory.mkdir()
    process = nursery.start(function, folder / "process", [str(directory), *arguments])
    try:
        assert process.ended(300), process.out + process.err
    finally:
        process.send(signal.SIGKILL)
    assert process.code == 0, process.out + process.err[-3000:]
    return process.out


def run_order(folder: str) -> None:
    os.chdir(folder)
    exec(compile(ORDER, "ORDER", "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_the_examples_of_the_page_run_in_order(tmp_path):
    lines = [b.line for b in docs_blocks.blocks(PAGE) if b.language == "python"]
    assert len(lines) == 6
    output = run(tmp_path, docs_blocks.in_folder, PAGE, lines)
    assert re.search(r"^step \d+ of 200 was the best: loss 0\.\d+$", output, re.MULTILINE)
    assert (
        (tmp_path / "directory/log.csv")
        .read_text()
        .startswith("epoch,accuracy,loss,val_accuracy,val_lo")
    )
    assert list((tmp_path / "directory/runs/callbacks/summaries").iterdir())


@pytest.mark.slow
def test_hooks_are_called_in_the_documented_order(tmp_path):
    lines = run(tmp_path, run_order).splitlines()
    ours = [line for line in lines if re.match(r"(set_run|on_\w+|close)\b", line)]
    logs = "['accuracy', 'loss', 'val_accuracy', 'val_loss']"

    def epoch(number):
        first, last = 2 * number, 2 * number + 1
        return [
            f"on_epoch_begin {number}",
            f"on_train_batch_begin {first}",
            f"on_train_batch_end {first}",
            f"on_calls {first + 1}",
            f"on_train_batch_begin {last}",
            f"on_train_batch_end {last}",
            f"on_calls {last + 1}",
            f"on_log {last + 1}",
            f"on_summary {last + 1}",
            "on_test_begin",
            "on_test_end",
            f"on_evaluate {last + 1}",
            f"on_epoch_end {number} {logs}",
        ]

    expected = ["set_run", "on_train_begin", *epoch(0), *epoch(1), "on_train_end"]
    assert ours == [*expected, "on_checkpoint 4", "close"]
