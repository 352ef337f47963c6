"""Progress: a live line on a terminal, one plain line per log point elsewhere."""

import atexit
import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import override

from tfbig.training.callbacks.callback import LoopCallback

_REFRESH_SECONDS = 0.125
_BAR_WIDTH = 24
_NOT_METRICS = ("learning_rate", "steps_per_sec", "examples_per_sec")
_RARE_COUNTS = ("gradients_dropped",)  # not shown while they are zero
_LOGGERS = (None, "tfbig", "absl", "tensorflow", "keras")


class Progress(LoopCallback):
    """Shows the progress of a run: step, loss, metrics, examples per second, remaining time.

    On a terminal, it shows one live line with a bar; log records and prints appear above it.
    Elsewhere (a pipe, a file, a notebook), each log point and evaluation prints one plain line:

    ```
    step 300/2000  loss 0.1234  accuracy 0.975  examples/s 61000  eta 0:00:12
    evaluation at step 400: loss 0.08  accuracy 0.981
    ```

    If the last step is not known, the line has a step counter but no bar and no remaining time.

    Example:

    ```python
    progress = tfbig.callbacks.Progress(live=False)  # plain lines on a terminal too
    tfbig.train_distributed(model_fn, input_fn, max_steps=2000, callbacks=[progress])
    ```

    Args:
        live: whether to show a live line; None: if standard output is a terminal that supports it.
        console: a rich.console.Console to write to; None: standard output.
        clock: a function that returns seconds, for tests.
    """

    def __init__(
        self,
        live: bool | None = None,
        *,
        console: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        super().__init__()
        self._live = live
        self._console = console
        self._clock = clock
        self._line: _LiveLine | None = None
        self._restart()

    def _restart(self) -> None:
        self._step = self.run.start_step if self.run else 0
        self._logs: dict[str, float] = {}
        self._activity = "starting"
        self._next_refresh = -math.inf
        self._first_call: tuple[float, int] | None = None

    @override
    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.close()
        self._restart()
        if self._is_live():
            self._line = _LiveLine(self._console)
            # If the caller never reaches on_train_end or close, the interpreter's exit closes it.
            atexit.register(self.close)
            self._refresh()

    @override
    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        if self._line is None:
            return
        now = self._clock()
        self._step = step
        if logs:
            self._logs.update(logs)
        if self._first_call is None:
            self._first_call = (now, step)  # the first call is mostly compilation
            self._activity = ""
        if now >= self._next_refresh:
            self._next_refresh = now + _REFRESH_SECONDS
            self._refresh()

    @override
    def on_log(self, step: int, logs: dict[str, float]) -> None:
        self._step, self._logs = step, dict(logs)
        if self._line is None:
            self._print(self._text(self._logs.get("steps_per_sec")))

    @override
    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._activity = "evaluating"
        self._refresh()

    @override
    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._activity = ""

    @override
    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        self._print(f"evaluation at step {step}: {'  '.join(_numbers(metrics))}")

    @override
    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.close()

    def close(self) -> None:
        """Stops the live line, whose last state stays visible, and restores the terminal."""
        if self._line is not None:
            line, self._line = self._line, None
            atexit.unregister(self.close)
            self._activity = ""
            line.stop(self._step, self._total(), self._live_text())

    def _is_live(self) -> bool:
        if self._live is not None:
            return self._live
        # Ask the stream itself, because with FORCE_COLOR rich treats a pipe as a terminal.
        is_terminal = hasattr(sys.stdout, "isatty") and sys.stdout.isatty()
        if self._console is None and not is_terminal:
            return False
        from rich.console import Console

        console = self._console or Console()
        return console.is_terminal and not console.is_jupyter and not console.is_dumb_terminal

    def _total(self) -> int | None:
        return self.run.total_steps if self.run else None

    def _refresh(self) -> None:
        if self._line is not None:
            self._line.show(self._step, self._total(), self._live_text())

    def _live_text(self) -> str:
        rate = self._logs.get("steps_per_sec")
        if rate is None and self._first_call is not None:  # before the first log point
            seconds = self._clock() - self._first_call[0]
            steps = self._step - self._first_call[1]
            rate = steps / seconds if seconds > 0 and steps > 0 else None
        text = self._text(rate)
        return f"{text}  {self._activity}" if self._activity else text

    def _text(self, steps_per_sec: float | None) -> str:
        """The text of a plain line, and of the live line after its bar."""
        total = self._total()
        parts = [f"step {self._step}" if total is None else f"step {self._step}/{total}"]
        parts += _numbers(self._logs)
        examples_per_sec = self._logs.get("examples_per_sec")
        if examples_per_sec is None and steps_per_sec is not None and self.run is not None:
            examples_per_sec = steps_per_sec * self.run.batch_size
        if examples_per_sec is not None and math.isfinite(examples_per_sec):
            parts.append(f"examples/s {_rate(examples_per_sec)}")
        if total is not None and steps_per_sec and math.isfinite(steps_per_sec):
            parts.append(f"eta {_duration(max(total - self._step, 0) / steps_per_sec)}")
        return "  ".join(parts)

    def _print(self, text: str) -> None:
        if self._line is not None:
            self._line.print(text)
        elif self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)


class _LiveLine:
    """One line at the bottom of a terminal, which is redrawn in place."""

    def __init__(self, console: Any):
        from rich.console import Console
        from rich.live import Live

        self._console = console if console is not None else Console()
        # No refresh thread, which would compete with the loop for the interpreter lock. A stream
        # that is not a terminal (2> errors.log) is not redirected.
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._handlers = contextlib.ExitStack()
        self._live.start()
        # rich hides the cursor, and a process that is killed could not show it again.
        self._console.show_cursor(True)
        self._handlers.enter_context(_redirect_log_handlers(self._console))

    def show(self, step: int, total: int | None, text: str) -> None:
        self._live.update(self._render(step, total, text), refresh=True)

    def print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def stop(self, step: int, total: int | None, text: str) -> None:
        self._live.update(self._render(step, total, text))
        self._handlers.close()
        self._live.stop()

    def _render(self, step: int, total: int | None, text: str) -> Any:
        from rich.text import Text

        line = Text(no_wrap=True, overflow="crop", end="")
        # The numbers are more important than the bar, which is omitted on a narrow terminal.
        if total and len(text) + _BAR_WIDTH + 2 <= self._console.width:
            full, empty = ("#", "-") if self._console.options.ascii_only else ("━", "─")
            done = min(_BAR_WIDTH, _BAR_WIDTH * step // total)
            line.append(full * done, style="green")
            line.append(empty * (_BAR_WIDTH - done), style="bright_black")
            line.append("  ")
        return line.append(text)


@contextlib.contextmanager
def _redirect_log_handlers(console: Any) -> Iterator[None]:
    """Redirects log handlers that write to a terminal to the console, inside the block.

    A handler keeps the stream it was created with, so redirecting sys.stderr does not affect it.
    """
    from rich.file_proxy import FileProxy

    moved = []
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            # absl's handler wraps the real one.
            handler = getattr(handler, "python_handler", handler)
            stream = getattr(handler, "stream", None)
            if not isinstance(handler, logging.StreamHandler) or isinstance(stream, FileProxy):
                continue
            if _is_terminal(stream):
                proxy = FileProxy(console, stream)
                handler.setStream(proxy)
                moved.append((handler, stream, proxy))
    try:
        yield
    finally:
        for handler, stream, proxy in moved:
            if handler.stream is proxy:
                handler.setStream(stream)


def _is_terminal(stream: Any) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # not a file, or closed
        return False


def _numbers(values: dict[str, float]) -> list[str]:
    """Formats the loss and the metrics as "name value", the loss first."""
    # A stable sort, so that the metrics keep their order.
    names = sorted(values, key=lambda name: name != "loss")
    names = [name for name in names if name not in _NOT_METRICS]
    shown = [name for name in names if values[name] or name not in _RARE_COUNTS]
    return [f"{name} {_number(values[name])}" for name in shown]


def _number(value: float) -> str:
    # Four digits; no exponent for numbers that are still easy to read.
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
