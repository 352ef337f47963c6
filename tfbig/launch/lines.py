"""LinePrinter: prints the output of a task line by line with the name of the task."""

import time
from typing import IO

_LONGEST_LINE = 2**16  # bytes; longer lines are split
_PROGRESS_SECONDS = 10.0


class LinePrinter:
    r"""Writes bytes to a stream as whole lines, each with a prefix.

    A line that is overwritten with "\r", like a progress bar, is printed every ten seconds and
    once at its end. Bytes that are not valid UTF-8 are written unchanged if the stream is binary.

    Example: `LinePrinter("[worker 0] ", sys.stdout).feed(b"step 1\nst")` prints one line.

    Args:
        prefix: the text before each line.
        stream: the output stream; it is flushed after each write.

    Attributes:
        error: the first error of a write, after which all output is discarded; or None.
    """

    def __init__(self, prefix: str, stream: IO):
        self.error: OSError | None = None
        self._prefix, self._stream = prefix.encode(), stream
        self._pending = b""
        self._state, self._printed_at = b"", float("-inf")

    def feed(self, data: bytes) -> None:
        """Adds output of the task; a chunk may end inside a line."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        shown = [text for line in lines for text in self._finish_line(line)]
        shown += self._progress_to_show()
        while len(self._pending) > _LONGEST_LINE:
            cut = _LONGEST_LINE
            while cut > _LONGEST_LINE - 4 and self._pending[cut] & 0xC0 == 0x80:
                cut -= 1  # do not split a UTF-8 character
            shown.append(self._pending[:cut])
            self._pending = self._pending[cut:]
        self._print(shown)

    def print_line(self, text: str) -> None:
        """Prints one line of text."""
        self.feed(f"{text}\n".encode())

    def close(self) -> None:
        """Prints the rest of an incomplete line."""
        rest, self._pending = self._pending, b""
        if rest:
            self._print(self._finish_line(rest))

    def _finish_line(self, line: bytes) -> list[bytes]:
        """Returns the final text of a line, unless it was printed already."""
        text = line.rstrip(b"\r").rpartition(b"\r")[2]
        was_printed = text and text == self._state
        self._state = b""
        return [] if was_printed else [text]

    def _progress_to_show(self) -> list[bytes]:
        """Reduces an overwritten line to its last state; returns it if it is due to be printed."""
        line = self._pending.rstrip(b"\r")
        before, is_progress, tail = line.rpartition(b"\r")
        if not is_progress:
            return []
        if line != self._pending:  # states end with "\r"; otherwise they start with it
            before, tail = tail, b""
        state = before.rstrip(b"\r").rpartition(b"\r")[2]
        self._pending = state + b"\r" + tail  # a "\n" may follow and end the line
        now = time.monotonic()
        is_due = now - self._printed_at >= _PROGRESS_SECONDS
        if not state or state == self._state or not is_due:
            return []
        self._state, self._printed_at = state, now
        return [state]

    def _print(self, lines: list[bytes]) -> None:
        if not lines or self.error:
            return
        whole = b"".join(self._prefix + line + b"\n" for line in lines)
        binary = getattr(self._stream, "buffer", None)
        try:
            if binary is None:
                self._stream.write(whole.decode(errors="replace"))
            else:
                self._stream.flush()
                binary.write(whole)
            self._stream.flush()
        except OSError as error:  # a closed pipe must not block the task
            self.error = error
