"""The connections to other tasks, kept by a thread: messages, heartbeats, and who is gone."""

import collections
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfbig.errors import PeerLost
from tfbig.placement.control.frames import Connection, ConnectionEnded, Message, pack

log = logging.getLogger("tfbig")

PERIOD = 1.0  # seconds between two heartbeats
_GOODBYE = 3.0  # seconds in which the others read what was sent before this task left
_FLUSH = 2.0  # seconds for the log's handlers before the process ends


class Link:
    """One connection and what is known of the task behind it.

    Attributes:
        silence: seconds in which nothing has come.
        inbox: messages that no call has taken yet.
        left: it has said goodbye.
        open: whether messages can be sent and received.
        awaits: the tasks that the chief waits for, as its heartbeat says.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.silence = 0.0
        self.inbox: collections.deque[Message] = collections.deque()
        self.left = False
        self.open = True
        self.awaits: list[int] = []


class Links:
    """The connections of one task, and the thread that reads, writes and watches them.

    The thread is apart from the main thread, so that a long step is not taken for death; and a
    time in which this process itself stood still is not counted as silence of the others.

    Args:
        connections: by the index of the task behind them.
        describe: a task in a few words, by its index.
        patience: seconds of silence after which a task is lost.

    Attributes:
        changed: the condition that is notified whenever a link, its inbox or the verdict changes.
        verdict: what the first loss was, or None.
        awaits: the tasks that a call of this one is waiting for, for the heartbeat.
        leaving: whether this task has said goodbye.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        describe: Callable[[int], str],
        patience: float,
    ):
        self.by_index = {index: Link(connection) for index, connection in connections.items()}
        self.changed = threading.Condition()
        self.verdict: PeerLost | None = None
        self.awaits: list[int] = []
        self._describe = describe
        self._patience = patience
        self._period = min(PERIOD, patience / 4)
        self._callbacks: list[Callable[[PeerLost], None]] = []
        self._deadline: float | None = None  # when this process is ended
        self._grace: float | None = None
        self.leaving = False
        self._until = 0.0  # when a goodbye has taken too long
        self._ticked = time.monotonic()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="tfbig peers", daemon=True)
        self._thread.start()

    # What other threads call.

    def send(
        self,
        indexes: Sequence[int],
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Sends a message to some tasks at once, and returns when it is on its way to all.

        Raises:
            PeerLost: one of them is gone before it was.
        """
        buffers = pack(header, arrays)
        links = [self.by_index[index] for index in indexes]
        with self.changed:
            for link in links:
                if link.open:
                    link.connection.queue(buffers)
            self._notice()
            # A link that breaks is closed, which drops what was to be sent.
            while any(link.open and link.connection.unsent for link in links):
                self.changed.wait()
            if self.verdict is not None and not all(link.open or link.left for link in links):
                raise PeerLost(str(self.verdict))

    def lose(self, text: str, index: int | None = None) -> None:
        """Takes a task for lost; all others are told, if it is the first.

        Args:
            text: the verdict.
            index: the task's, if its link is the reason.
        """
        with self.changed:
            if self.verdict is None and not self.leaving:
                self.verdict = PeerLost(text)
                if self._grace is not None:
                    self._deadline = time.monotonic() + self._grace
                for callback in self._callbacks:
                    self._call(callback)
                for other, link in self.by_index.items():
                    if link.open and other != index:
                        link.connection.queue(pack({"kind": "lost", "text": text}))
            self.changed.notify_all()
            self._notice()

    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        """Calls a function from a thread of its own at the first loss, or now if there was one."""
        with self.changed:
            self._callbacks.append(callback)
            if self.verdict is not None:
                self._call(callback)

    def enforce(self, seconds: float) -> None:
        """Ends the process `seconds` after a loss unless `leave` was called before."""
        with self.changed:
            self._grace = seconds
            if self.verdict is not None:
                self._deadline = time.monotonic() + seconds
        self._notice()

    def leave(self, reason: str | None) -> None:
        """Says goodbye, sees to it that all that was sent can be read, and closes."""
        with self.changed:
            if not self.leaving:
                for link in self.by_index.values():
                    if link.open:
                        link.connection.queue(pack({"kind": "bye", "reason": reason}))
                self._until = time.monotonic() + _GOODBYE
                self.leaving = True  # last: from here on a link with nothing to send is finished
            self._notice()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * _GOODBYE)

    def _notice(self) -> None:
        """Wakes the thread, which has something to send."""
        try:
            self._wake.send(b"!")
        except (BlockingIOError, OSError):
            return  # it is awake, or has ended

    def _call(self, callback: Callable[[PeerLost], None]) -> None:
        threading.Thread(
            target=callback, args=(self.verdict,), name="tfbig peer lost", daemon=True
        ).start()

    # What the thread does.

    def _run(self) -> None:
        try:
            while not self._ended():
                self._turn()
        except Exception as error:
            log.exception("the connection to the other tasks has failed")
            self.lose(f"the connection to the other tasks has failed in this one: {error!r}")
        finally:
            with self.changed:
                for link in self.by_index.values():
                    self._close(link)
                self._wake.close()
                self._woken.close()

    def _ended(self) -> bool:
        if not self.leaving:
            return False
        open_ = [link for link in self.by_index.values() if link.open]
        for link in open_:
            if not link.connection.unsent:
                link.connection.finish()
        # A socket that is closed while the other side sends throws away what that has not read.
        return not open_ or time.monotonic() > self._until

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        numbers = {}
        for index, link in self.by_index.items():
            if link.open:
                numbers[link.connection.fileno()] = index
                poll.register(
                    link.connection.fileno(),
                    select.POLLIN | (select.POLLOUT if link.connection.unsent else 0),
                )
        wait = max(0.0, self._ticked + self._period - time.monotonic())
        for number, events in poll.poll(wait * 1000):
            if number == self._woken.fileno():
                self._woken.recv(4096)
                continue
            index = numbers[number]
            try:
                # Reading comes first: why a connection is broken may stand in what it brought.
                if events & ~select.POLLOUT:
                    self._read(index)
                if events & select.POLLOUT and self.by_index[index].open:
                    self._write(index)
            except OSError as error:
                self._broken(index, error)
        if time.monotonic() >= self._ticked + self._period:
            self._tick()

    def _read(self, index: int) -> None:
        link = self.by_index[index]
        messages, came = link.connection.read()
        if came:
            link.silence = 0.0
        for message in messages:
            kind = message.header["kind"]
            if kind == "beat":
                link.awaits = message.header["awaits"]
            elif kind == "lost":
                self.lose(message.header["text"], index)
            elif kind == "bye":
                link.left = True
                if message.header["reason"]:
                    reason = message.header["reason"]
                    self.lose(f"{self._describe(index)} left with an error: {reason}", index)
                with self.changed:
                    self._close(link)
            else:
                with self.changed:
                    link.inbox.append(message)
                    self.changed.notify_all()

    def _write(self, index: int) -> None:
        link = self.by_index[index]
        try:
            link.connection.write()
        except OSError:
            self._read(index)  # its last words, if there are any
            raise
        if not link.connection.unsent:
            with self.changed:
                self.changed.notify_all()

    def _broken(self, index: int, error: OSError) -> None:
        if self.by_index[index].left:
            return
        gone = isinstance(error, (ConnectionEnded, ConnectionResetError, BrokenPipeError))
        why = "has closed the connection (killed or crashed?)"
        self._lost(index, why if gone else f"cannot be reached any more: {error}")

    def _lost(self, index: int, why: str) -> None:
        with self.changed:
            self._close(self.by_index[index])
            self.lose(f"{self._describe(index)} {why}", index)

    def _close(self, link: Link) -> None:
        link.open = False
        link.connection.close()
        self.changed.notify_all()

    def _tick(self) -> None:
        """Sends heartbeats, and looks for tasks from which none has come."""
        now = time.monotonic()
        # A process that stood still itself has not heard the others for that reason.
        passed = min(now - self._ticked, 2 * self._period)
        self._ticked = now
        with self.changed:
            beat = pack({"kind": "beat", "awaits": self.awaits})
            for link in self.by_index.values():
                if link.open and not link.connection.unsent and not self.leaving:
                    link.connection.queue(beat)
        for index, link in self.by_index.items():
            link.silence += passed
            if link.open and link.silence > self._patience and not self.leaving:
                self._give_up(index, link)
        if self._deadline is not None and now > self._deadline and not self.leaving:
            self._end_process()

    def _give_up(self, index: int, link: Link) -> None:
        seconds = f"{self._patience:g} s"
        text = (
            f"this task ({self._describe(index)}) did not answer for {seconds}, and the others "
            "have given it up"
        )
        try:
            link.connection.write()
            if not link.connection.unsent:  # else it would come in the midst of another message
                link.connection.queue(pack({"kind": "lost", "text": text}))
                link.connection.write()
        except OSError as error:
            log.debug("%s cannot be told: %s", self._describe(index), error)
        self._lost(index, f"has not answered for {seconds}")

    def _end_process(self) -> None:
        """Ends a process whose main thread hangs in native code, where no exception reaches it."""
        flush = threading.Thread(target=_flush, daemon=True)
        flush.start()
        flush.join(_FLUSH)
        # Not through sys.stderr, whose lock the main thread may hold.
        os.write(2, f"error: {self.verdict}\n".encode())
        os._exit(1)


def _flush() -> None:
    for name in (None, "tfbig"):
        for handler in logging.getLogger(name).handlers:
            _flush_one(handler)
    _flush_one(sys.stdout)


def _flush_one(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError) as error:  # a closed pipe does not keep a process alive
        log.debug("%r cannot be flushed: %s", stream, error)
