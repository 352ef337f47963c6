"""tfbig's callbacks, driven by hand as the loop drives them."""

import io
import logging
import math
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

import tfbig
from tfbig.errors import TrainingDiverged, UserError
from tfbig.training.callbacks.callback import LoopCallback, RunInfo
from tfbig.training.callbacks.nan_guard import NaNGuard, locate_first_bad_op
from tfbig.training.callbacks.progress import Progress
from tfbig.training.callbacks.summaries import Summaries
from tfbig.training.callbacks.throughput import Throughput


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def run_info(**changes):
    facts = dict(model_dir=None, max_steps=2000, steps_per_epoch=None, epochs=None, log_steps=100)
    facts |= dict(summary_steps=100, start_step=0, batch_size=64, num_replicas=1)
    return RunInfo(**(facts | changes))


def begin(callback, **changes):
    callback.set_run(run_info(**changes))
    callback.on_train_begin()
    return callback


LOGS = dict(
    loss=0.1234,
    accuracy=0.975,
    learning_rate=1e-3,
    steps_per_sec=141.7,
    examples_per_sec=61000.4,
)


# The base class


def test_every_public_name_is_there_and_importing_the_package_loads_no_keras():
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


def test_a_loop_callback_takes_part_in_kerass_list_and_its_hooks_do_nothing():
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
def test_the_last_step_is_known_from_max_steps_or_from_epochs_and_length(limits, total):
    assert run_info(**limits).total_steps == total


# Progress, plain


def test_without_a_terminal_each_log_point_and_evaluation_is_one_plain_line(capsys):
    progress = begin(Progress())
    progress.on_calls(150, {"loss": 0.5})
    progress.on_log(300, LOGS)
    progress.on_test_begin()
    progress.on_test_end()
    progress.on_evaluate(400, {"loss": 0.08, "accuracy": 0.981})
    progress.on_train_end()
    progress.close()
    assert capsys.readouterr().out.splitlines() == [
        "step 300/2000  loss 0.1234  accuracy 0.975  examples/s 61000  eta 0:00:12",
        "evaluation at step 400: loss 0.08  accuracy 0.981",
    ]


def test_with_the_end_unknown_the_plain_line_counts_without_an_eta(capsys):
    progress = begin(Progress(), max_steps=None)
    progress.on_log(300, LOGS)
    assert capsys.readouterr().out == "step 300  loss 0.1234  accuracy 0.975  examples/s 61000\n"


def test_force_color_does_not_put_a_live_line_into_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = begin(Progress())
    progress.on_log(2000, {"accuracy": 1.0, "loss": 123456.0, "steps_per_sec": 2.0})
    progress.on_train_end()
    assert capsys.readouterr().out == (
        "step 2000/2000  loss 123456  accuracy 1  examples/s 128  eta 0:00:00\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00001234, "1.234e-05"), (0.98125, "0.9812"), (12345.6, "12346"), (math.nan, "nan")],
)
def test_numbers_have_four_digits(capsys, value, text):
    begin(Progress(), max_steps=None).on_log(1, {"loss": value})
    assert capsys.readouterr().out == f"step 1  loss {text}\n"


def test_an_eta_of_more_than_a_day_is_in_hours(capsys):
    begin(Progress(), max_steps=100_001).on_log(1, {"loss": 1.0, "steps_per_sec": 1.0})
    assert capsys.readouterr().out.endswith("eta 27:46:40\n")


# Progress, live


def terminal(width=120):
    return Console(force_terminal=True, file=io.StringIO(), width=width, color_system=None)


def drawn(console):
    """The states of the live line, in order, without control codes."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_the_live_line_is_drawn_at_most_eight_times_a_second():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock))
    for step in range(1, 1001):  # ten seconds
        clock.now += 0.01
        progress.on_calls(step, {"loss": 1.0 / step})
    states = len(drawn(console))
    progress.on_train_end()
    assert 70 <= states <= 82
    assert drawn(console)[-1].endswith("step 1000/2000  loss 0.001  examples/s 6400  eta 0:00:10")


def test_the_live_line_has_bar_step_loss_metrics_rate_and_eta():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock))
    progress.on_log(500, LOGS | {"steps_per_sec": 100.0, "examples_per_sec": 6400.0})
    clock.now += 1
    progress.on_calls(500, {})
    assert drawn(console)[-1] == (
        "━" * 6 + "─" * 18 + "  step 500/2000  loss 0.1234  accuracy 0.975"
        "  examples/s 6400  eta 0:00:15"
    )
    progress.close()


def test_before_the_first_log_point_the_rate_leaves_the_first_call_out():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock), max_steps=110)
    clock.now += 30  # compiling
    progress.on_calls(10, {"loss": 2.0})
    clock.now += 2
    progress.on_calls(30, {"loss": 1.0})
    assert drawn(console)[-1].endswith("step 30/110  loss 1  examples/s 640  eta 0:00:08")
    progress.close()


def test_with_the_end_unknown_the_live_line_has_no_bar_and_no_eta():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock), max_steps=None)
    progress.on_calls(7, {"loss": 0.5})
    assert drawn(console)[-1] == "step 7  loss 0.5"
    progress.close()


def test_on_a_narrow_terminal_the_live_line_stays_one_line():
    console = terminal(width=30)
    progress = begin(Progress(console=console, clock=Clock()))
    progress.on_calls(7, {f"metric_{i}": 0.5 for i in range(20)})
    assert drawn(console)[-1] == "step 7/2000  metric_0 0.5  met"
    progress.close()
    assert console.file.getvalue().count("\n") == 1


def test_an_evaluation_says_so_and_leaves_its_result_above_the_live_line():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock))
    progress.on_calls(400, {"loss": 0.5})
    progress.on_test_begin()
    assert drawn(console)[-1].endswith("  evaluating")
    progress.on_test_end()
    progress.on_evaluate(400, {"loss": 0.08})
    assert "evaluation at step 400: loss 0.08" in drawn(console)
    clock.now += 1
    progress.on_calls(450, {})
    assert "step 450/2000" in drawn(console)[-1]
    assert not drawn(console)[-1].endswith("evaluating")
    progress.close()


def test_closing_ends_the_live_line_once_and_leaves_the_cursor_visible():
    console = terminal()
    progress = begin(Progress(console=console, clock=Clock()))
    progress.on_calls(3, {})
    progress.close()  # an error: on_train_end is never called
    text = console.file.getvalue()
    assert text.endswith("\x1b[?25h")
    progress.close()
    progress.on_train_end()
    progress.on_calls(4, {})
    assert console.file.getvalue() == text
    begin(progress)  # and the next run has a new one
    assert len(console.file.getvalue()) > len(text)
    progress.close()


def test_while_running_the_cursor_is_never_left_hidden_for_a_kill_to_find():
    console = terminal()
    progress = begin(Progress(console=console, clock=Clock()))
    text = console.file.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    progress.close()


def test_log_handlers_of_the_terminal_write_above_the_line_and_are_given_back():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    console, stream, file = terminal(), Terminal(), io.StringIO()
    log = logging.getLogger("tfbig")
    to_terminal, to_file = logging.StreamHandler(stream), logging.StreamHandler(file)
    log.addHandler(to_terminal)
    log.addHandler(to_file)
    try:
        progress = begin(Progress(console=console, clock=Clock()))
        log.warning("checkpoint 12 is damaged")
        progress.close()
        log.warning("after")
    finally:
        log.removeHandler(to_terminal)
        log.removeHandler(to_file)
    assert "checkpoint 12 is damaged" in drawn(console)
    assert stream.getvalue() == "after\n"
    assert file.getvalue() == "checkpoint 12 is damaged\nafter\n"


TERMINAL_PROGRAM = """
    import logging, sys
    from tfbig.training.callbacks.callback import RunInfo
    from tfbig.training.callbacks.progress import Progress

    log = logging.getLogger("tfbig")
    log.addHandler(logging.StreamHandler(sys.stderr))
    now = [0.0]
    progress = Progress(clock=lambda: now[0])
    progress.set_run(RunInfo(None, 200, None, None, 100, 100, 0, 64, 1))
    progress.on_train_begin()
    print("terminal", sys.stdout.isatty())
    for step in range(1, 201):
        now[0] += 0.05
        progress.on_calls(step, {"loss": 1.0 / step})
        if step == 50:
            log.warning("a log record")
        if step == 60:
            print("a print")
        if step == 100:
            progress.on_evaluate(100, {"loss": 0.25})
        if step == 150 and sys.argv[1] == "error":
            raise SystemExit("an error")
    progress.on_train_end()
    print("done")
"""


def screen_of(output):
    """What a terminal shows after this output: just the codes that a live line needs."""
    rows, row, column = [""], 0, 0
    for code, char in re.findall(r"(\x1b\[[0-9;?]*[a-zA-Z])|(.)", output, re.DOTALL):
        if code.endswith("A"):
            row -= int(code[2:-1] or 1)
        elif code == "\x1b[2K":
            rows[row] = ""
        elif code:
            assert code[-1] in "mhl", code
        elif char == "\r":
            column = 0
        elif char == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        else:
            rows[row] = rows[row].ljust(column)[:column] + char + rows[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in rows if line.strip()]


def in_terminal(how):
    """Runs TERMINAL_PROGRAM with a pseudo-terminal for its standard streams."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    environment.pop("NO_COLOR", None)
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(TERMINAL_PROGRAM), how],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    output, deadline = b"", time.monotonic() + 120
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                data = os.read(ours, 65536)
            except OSError:  # Linux says EIO when the other end is closed
                break
            if not data:
                break
            output += data
        child.wait(timeout=30)
    finally:
        child.kill()
        child.wait()
        os.close(ours)
    text = output.decode()
    # TensorFlow's C++ runtime may write lines of its own before the line is there.
    return text[text.index("\x1b[?25l") :], child.returncode


def test_on_a_real_terminal_only_one_line_is_live():
    output, code = in_terminal("ends")
    assert code == 0
    assert output.count("step ") > 50  # it was drawn many times
    assert screen_of(output) == [
        "terminal True",
        "a log record",
        "a print",
        "evaluation at step 100: loss 0.25",
        "━" * 24 + "  step 200/200  loss 0.005  examples/s 1280  eta 0:00:00",
        "done",
    ]


def test_on_a_real_terminal_an_error_leaves_the_last_state_and_a_usable_terminal():
    output, code = in_terminal("error")
    assert code == 1
    screen = screen_of(output)
    assert sum("step 150/200" in line for line in screen) == 1
    assert screen.count("an error") == 1
    assert sum("step 1" in line and "/200" in line for line in screen) == 1
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
    assert output.endswith(("\n", "\x1b[?25h"))


# Summaries


def written(directory):
    """{tag: [(step, value), …]} of all event files of a directory, files in order of age."""
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


def test_summaries_before_a_checkpoint_are_on_disk_before_the_run_goes_on(tmp_path):
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


# Throughput


def test_throughput_leaves_out_the_first_calls_and_the_evaluations(caplog):
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


def test_throughput_begins_again_with_the_next_run():
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
def test_throughput_refuses_what_is_no_number_of_steps(skip_steps):
    with pytest.raises(UserError, match=r"^Throughput\(skip_steps=.*an int of 0 or more.*[^\n]$"):
        Throughput(skip_steps=skip_steps)


# NaNGuard


def message_of(guard, step, describe=None):
    with pytest.raises(TrainingDiverged) as caught:
        guard.on_nonfinite(step, describe)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_nan_guard_names_the_first_step_and_what_to_try():
    assert message_of(NaNGuard(), 37, lambda: None) == (
        "the loss is NaN or infinite, for the first time at step 37; try a lower learning rate, "
        "or clipping (global_clipnorm=1.0 on the optimizer), and check the input; "
        "NaNGuard(find_op=True) names the op it began with."
    )


def test_the_nan_guard_says_first_what_is_wrong_with_the_input():
    assert message_of(NaNGuard(), 1, lambda: "features['x'] has NaN in example 3") == (
        "features['x'] has NaN in example 3; the loss is NaN or infinite, for the first time at "
        "step 1; repair or leave out such examples in input_fn, and check the input; "
        "NaNGuard(find_op=True) names the op it began with."
    )


def test_the_nan_guard_names_the_op_on_request_only():
    guard = NaNGuard(find_op=True)
    guard.locate_op = lambda: "Log (float32, shape (2,)), model.py line 12"
    assert message_of(guard, 5) == (
        "the loss is NaN or infinite, for the first time at step 5; the first op with a NaN or "
        "infinite output is Log (float32, shape (2,)), model.py line 12; try a lower learning "
        "rate, or clipping (global_clipnorm=1.0 on the optimizer), and check the input."
    )
    guard.locate_op = lambda: None
    assert "no op had a NaN or infinite output when the step was run once more" in message_of(
        guard, 5
    )
    asked = []
    guard = NaNGuard()
    guard.locate_op = lambda: asked.append(1)
    message_of(guard, 5)
    assert asked == []


def test_a_diagnosis_that_fails_does_not_hide_the_nan(caplog):
    def fail():
        raise RuntimeError("no batch\nany more")

    guard = NaNGuard(find_op=True)
    guard.locate_op = fail
    assert "for the first time at step 5" in message_of(guard, 5, fail)
    assert "describing the input batch failed: no batch any more" in caplog.text


# locate_first_bad_op


def log_of(x):
    return tf.reduce_sum(tf.math.log(x) * 2.0)


def test_locating_names_the_first_op_its_output_and_the_line(caplog):
    line = log_of.__code__.co_firstlineno + 1
    expected = f"Log (float32, shape (2,)), test_callbacks.py line {line}"
    assert locate_first_bad_op(log_of, tf.constant([1.0, -1.0])) == expected
    assert locate_first_bad_op(log_of, tf.constant([1.0, 2.0])) is None


@pytest.mark.parametrize("jit_compile", [False, True])
def test_locating_looks_inside_functions_that_are_traced_and_compiled_already(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def steps(x):
        for _ in tf.range(3):
            x = x / (x - 1.0)
        return x

    steps(tf.constant([2.0]))
    found = locate_first_bad_op(steps, tf.constant([1.0]))
    assert re.match(r"RealDiv \(float32, shape \(1,\)\), test_callbacks\.py line \d+$", found)
    assert not tf.config.functions_run_eagerly()
    steps(tf.constant([1.0]))  # the checks are off again: infinite, and no error


def test_locating_finds_an_op_of_the_gradient():
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.sqrt(x)
        return tape.gradient(y, x)

    assert locate_first_bad_op(gradient, tf.constant([0.0])).startswith("SqrtGrad (float32, ")


def test_locating_runs_as_a_graph_what_needs_one():
    def graph_only(x):
        y = tf.sqrt(x, name="root")
        return tf.gradients(tf.reduce_sum(y), x)

    found = locate_first_bad_op(graph_only, tf.constant([0.0, 1.0]))
    assert found.startswith("SqrtGrad (named gradients/root_grad/SqrtGrad, float32, shape (2,))")
    assert "test_callbacks.py line" in found
    assert locate_first_bad_op(graph_only, tf.constant([1.0])) is None


def test_locating_names_the_layer_of_a_keras_model():
    class Logarithm(keras.layers.Layer):
        def call(self, x):
            return keras.ops.log(x)

    model = keras.Sequential([keras.Input((2,)), Logarithm()])
    found = locate_first_bad_op(model, tf.constant([[1.0, -1.0]]))
    assert found.startswith("Log (float32, shape (1, 2)) in Logarithm.call()")


def test_locating_works_inside_the_replicas_of_a_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])

    @tf.function
    def step(x):
        return strategy.run(log_of, args=(x,))

    assert locate_first_bad_op(step, tf.constant([-1.0])).startswith("Log (float32, shape (1,))")


def test_locating_gives_up_with_a_warning_when_the_function_fails_by_itself(caplog):
    def fail():
        raise KeyError("labels")

    assert locate_first_bad_op(fail) is None
    assert "looking for the first op with a NaN failed" in caplog.text
    assert np.isnan(tf.math.log(tf.constant(-1.0)))  # the checks are off again
