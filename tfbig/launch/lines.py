"""What a task prints, passed on line by line with its name before each."""

import time
from typing import IO

_LONGEST = 2**16  # bytes; a longer line is broken
_SECONDS_BETWEEN_STATES = 10.0


class LinePrinter:
    r"""Passes bytes on to a stream as whole lines, each with a prefix.

    A line that is written over by means of "\r", a progress bar's, is passed on as it is in the
    end, and every ten seconds until then. Bytes that are not UTF-8 are passed on as they are, to
    a stream that takes bytes.

    Example: `LinePrinter("[worker 0] ", sys.stdout).feed(b"step 1\nst")` prints one line.

    Args:
        prefix: before each line.
        stream: where they go, at once.

    Attributes:
        lost: the error with which the stream took no more; all that comes later is dropped.
    """

    def __init__(self, prefix: str, stream: IO):
        self.lost: OSError | None = None
        self._prefix, self._stream = prefix.encode(), stream
        self._pending = b""
        self._state, self._shown_at = b"", float("-inf")

    def feed(self, data: bytes) -> None:
        """Takes what the task has written, wherever it is cut."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        shown = [text for line in lines for text in self._ended(line)]
        shown += self._state_to_show()
        while len(self._pending) > _LONGEST:
            cut = _LONGEST
            while cut > _LONGEST - 4 and self._pending[cut] & 0xC0 == 0x80:
                cut -= 1  # not inside of a character
            shown.append(self._pending[:cut])
            self._pending = self._pending[cut:]
        self._print(shown)

    def say(self, text: str) -> None:
        """Prints one line of text."""
        self.feed(f"{text}\n".encode())

    def close(self) -> None:
        """Prints what is left of a line that had no end."""
        rest, self._pending = self._pending, b""
        if rest:
            self._print(self._ended(rest))

    def _ended(self, line: bytes) -> list[bytes]:
        """What is seen of a line at its end, unless it was shown already."""
        text = line.rstrip(b"\r").rpartition(b"\r")[2]
        was_shown = text and text == self._state
        self._state = b""
        return [] if was_shown else [text]

    def _state_to_show(self) -> list[bytes]:
        """Keeps of a line that is written over its last state, which is shown now and then."""
        line = self._pending.rstrip(b"\r")
        before, is_progress, tail = line.rpartition(b"\r")
        if not is_progress:
            return []
        if line != self._pending:  # each state ends with "\r", else it begins with one
            before, tail = tail, b""
        state = before.rstrip(b"\r").rpartition(b"\r")[2]
        self._pending = state + b"\r" + tail  # a "\n" may follow, which makes it a line
        now = time.monotonic()
        is_due = now - self._shown_at >= _SECONDS_BETWEEN_STATES
        if not state or state == self._state or not is_due:
            return []
        self._state, self._shown_at = state, now
        return [state]

    def _print(self, lines: list[bytes]) -> None:
        if not lines or self.lost:
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
        except OSError as error:  # the task must not be held up by a pipe that nobody reads
            self.lost = error
