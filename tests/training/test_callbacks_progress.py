"""Progress: plain lines, and the live line on a terminal."""

import io
import logging
import math
import os
import pty
import re
import select
import signal
import textwrap

import pytest
from rich.console import Console

from tests import nursery
from tests.training.callback_helpers import LOGS, Clock, begin
from tfbig.training.callbacks.progress import Progress


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


def test_without_a_known_end_the_plain_line_has_no_eta(capsys):
    progress = begin(Progress(), max_steps=None)
    progress.on_log(300, LOGS)
    assert capsys.readouterr().out == "step 300  loss 0.1234  accuracy 0.975  examples/s 61000\n"


def test_dropped_gradients_are_shown_only_if_there_are_any(capsys):
    for dropped in (0.0, 2.0):
        progress = begin(Progress(), max_steps=None)
        progress.on_log(1, {"loss": 0.0, "gradients_dropped": dropped})
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 1  loss 0", "step 1  loss 0  gradients_dropped 2"]


def test_force_color_does_not_write_a_live_line_to_a_pipe(capsys, monkeypatch):
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


def terminal(width=120):
    return Console(force_terminal=True, file=io.StringIO(), width=width, color_system=None)


def drawn(console):
    """The successive states of the live line, without control codes."""
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


def test_before_the_first_log_point_the_rate_excludes_the_first_call():
    clock, console = Clock(), terminal()
    progress = begin(Progress(console=console, clock=clock), max_steps=110)
    clock.now += 30  # compiling
    progress.on_calls(10, {"loss": 2.0})
    clock.now += 2
    progress.on_calls(30, {"loss": 1.0})
    assert drawn(console)[-1].endswith("step 30/110  loss 1  examples/s 640  eta 0:00:08")
    progress.close()


def test_without_a_known_end_the_live_line_has_no_bar_and_no_eta():
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


def test_an_evaluation_is_shown_and_prints_its_result_above_the_live_line():
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
    progress.close()  # after an error, on_train_end is never called
    text = console.file.getvalue()
    assert text.endswith("\x1b[?25h")
    progress.close()
    progress.on_train_end()
    progress.on_calls(4, {})
    assert console.file.getvalue() == text
    begin(progress)  # the next run has a new line
    assert len(console.file.getvalue()) > len(text)
    progress.close()


def test_the_cursor_is_visible_during_a_run_in_case_of_a_kill():
    console = terminal()
    progress = begin(Progress(console=console, clock=Clock()))
    text = console.file.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    progress.close()


def test_log_handlers_of_the_terminal_write_above_the_line_and_are_restored():
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
    import logging, os, sys

    terminal = os.open(sys.argv[2], os.O_RDWR)
    for number in range(3):
        os.dup2(terminal, number)
    os.close(terminal)
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
    """The screen of a terminal after this output; supports the codes that a live line uses."""
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


@pytest.fixture
def in_terminal(tmp_path, monkeypatch):
    """Runs TERMINAL_PROGRAM with a pseudo-terminal for its standard streams."""

    def run(end):
        parent, child_end = pty.openpty()
        words = ["-c", textwrap.dedent(TERMINAL_PROGRAM), end, os.ttyname(child_end)]
        child = nursery.python(words, tmp_path / "process", tmp_path, TERM="xterm", COLUMNS="100")
        output = b""
        try:
            while not child.ended(0) or select.select([parent], [], [], 0)[0]:
                if select.select([parent], [], [], 0.1)[0]:
                    output += os.read(parent, 65536)
        finally:
            child.send(signal.SIGKILL)
            os.close(parent)
            os.close(child_end)
        text = output.decode()
        return text[text.index("\x1b[?25l") :], child.code

    monkeypatch.delenv("NO_COLOR", raising=False)
    return run


def test_on_a_real_terminal_only_one_line_is_redrawn(in_terminal):
    output, code = in_terminal("ends")
    assert code == 0
    assert output.count("step ") > 50  # it was redrawn many times
    assert screen_of(output) == [
        "terminal True",
        "a log record",
        "a print",
        "evaluation at step 100: loss 0.25",
        "━" * 24 + "  step 200/200  loss 0.005  examples/s 1280  eta 0:00:00",
        "done",
    ]


def test_after_an_error_a_real_terminal_shows_the_last_state_and_is_usable(in_terminal):
    output, code = in_terminal("error")
    assert code == 1
    screen = screen_of(output)
    assert sum("step 150/200" in line for line in screen) == 1
    assert screen.count("an error") == 1
    assert sum("step 1" in line and "/200" in line for line in screen) == 1
    assert output.rfind("\x1b[?25h") > output.rfind("\x1b[?25l")
    assert output.endswith(("\n", "\x1b[?25h"))
