"""The connections to other tasks: a thread sends, receives, and detects lost tasks."""

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
from tfbig.placement.control.frames import Connection, ConnectionClosed, Message, pack

log = logging.getLogger("tfbig")

HEARTBEAT_SECONDS = 1.0  # between two heartbeats
_DISCONNECT_SECONDS = 3.0  # time for the other tasks to read what was sent before disconnecting
_FLUSH_SECONDS = 2.0  # time for the log's handlers before the process exits


class Link:
    """One connection and the state of the task at its other end.

    Attributes:
        silence: seconds since the last byte arrived.
        inbox: messages that no collective call has consumed yet.
        disconnected: whether the other task has announced that it disconnects.
        open: whether messages can be sent and received.
        waiting_for: the tasks that the other task waits for, according to its heartbeat.
    """

    def __init__(self, connection: Connection):
        self.connection = connection
        self.silence = 0.0
        self.inbox: collections.deque[Message] = collections.deque()
        self.disconnected = False
        self.open = True
        self.waiting_for: list[int] = []


class Links:
    """The connections of one task, and the thread that reads, writes and monitors them.

    The thread is separate from the main thread, so a long step does not look like a lost task.
    Time during which this process itself was stopped does not count as silence of the others.

    Args:
        connections: the connections by the index of the task at the other end.
        describe: returns a description of a task, given its index.
        patience: seconds of silence after which a task is lost.

    Attributes:
        changed: a condition that is notified when a link, its inbox or the loss changes.
        loss: the error of the first loss, or None.
        waiting_for: the tasks that a call on this task waits for; sent with the heartbeat.
        disconnecting: whether this task has announced that it disconnects.
    """

    def __init__(
        self,
        connections: Mapping[int, Connection],
        describe: Callable[[int], str],
        patience: float,
    ):
        self.by_index = {index: Link(connection) for index, connection in connections.items()}
        self.changed = threading.Condition()
        self.loss: PeerLost | None = None
        self.waiting_for: list[int] = []
        self._describe = describe
        self._patience = patience
        self._period = min(HEARTBEAT_SECONDS, patience / 4)
        self._callbacks: list[Callable[[PeerLost], None]] = []
        self._exit_after: float | None = None  # seconds after a loss
        self._exit_time: float | None = None  # when this process exits
        self.disconnecting = False
        self._disconnect_deadline = 0.0
        self._last_heartbeat = time.monotonic()
        self._wake_sender, self._wake_receiver = socket.socketpair()
        self._wake_sender.setblocking(False)
        self._wake_receiver.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="tfbig peers", daemon=True)
        self._thread.start()

    # Methods for other threads.

    def send(
        self,
        indexes: Sequence[int],
        header: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Sends a message to some tasks at once; returns when all sockets have accepted it.

        Raises:
            PeerLost: one of the tasks was lost before that.
        """
        buffers = pack(header, arrays)
        links = [self.by_index[index] for index in indexes]
        with self.changed:
            for link in links:
                if link.open:
                    link.connection.queue(buffers)
            self._wake_thread()
            # A broken link is closed, which drops its unsent bytes.
            while any(link.open and link.connection.unsent for link in links):
                self.changed.wait()
            if self.loss is not None and not all(link.open or link.disconnected for link in links):
                raise PeerLost(str(self.loss))

    def report_loss(self, text: str, index: int | None = None) -> None:
        """Records that a task is lost; the first loss is sent to all other tasks.

        Args:
            text: the message of the `PeerLost` error.
            index: the task whose link reported the loss, which needs no message about it.
        """
        with self.changed:
            if self.loss is None and not self.disconnecting:
                self.loss = PeerLost(text)
                if self._exit_after is not None:
                    self._exit_time = time.monotonic() + self._exit_after
                for callback in self._callbacks:
                    self._start_callback(callback)
                for other, link in self.by_index.items():
                    if link.open and other != index:
                        link.connection.queue(pack({"kind": "lost", "text": text}))
            self.changed.notify_all()
            self._wake_thread()

    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        """Calls a function in its own thread at the first loss, or now if that has happened."""
        with self.changed:
            self._callbacks.append(callback)
            if self.loss is not None:
                self._start_callback(callback)

    def exit_on_loss(self, seconds: float) -> None:
        """Exits the process `seconds` after a loss unless `disconnect` was called before."""
        with self.changed:
            self._exit_after = seconds
            if self.loss is not None:
                self._exit_time = time.monotonic() + seconds
        self._wake_thread()

    def disconnect(self, reason: str | None) -> None:
        """Announces the disconnection, waits until everything sent can be read, and closes."""
        with self.changed:
            if not self.disconnecting:
                for link in self.by_index.values():
                    if link.open:
                        link.connection.queue(pack({"kind": "bye", "reason": reason}))
                self._disconnect_deadline = time.monotonic() + _DISCONNECT_SECONDS
                # Set last: from now on, the thread closes a link once nothing is left to send.
                self.disconnecting = True
            self._wake_thread()
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * _DISCONNECT_SECONDS)

    def _wake_thread(self) -> None:
        """Wakes the thread, because there is something to send."""
        try:
            self._wake_sender.send(b"!")
        except (BlockingIOError, OSError):
            return  # it is awake, or has ended

    def _start_callback(self, callback: Callable[[PeerLost], None]) -> None:
        threading.Thread(
            target=callback, args=(self.loss,), name="tfbig peer lost", daemon=True
        ).start()

    # Methods of the thread.

    def _run(self) -> None:
        try:
            while not self._is_finished():
                self._poll_once()
        except Exception as error:
            log.exception("the connection to the other tasks failed")
            self.report_loss(f"the connection to the other tasks failed in this task: {error!r}")
        finally:
            with self.changed:
                for link in self.by_index.values():
                    self._close(link)
                self._wake_sender.close()
                self._wake_receiver.close()

    def _is_finished(self) -> bool:
        if not self.disconnecting:
            return False
        open_links = [link for link in self.by_index.values() if link.open]
        for link in open_links:
            if not link.connection.unsent:
                link.connection.close_write()
        # Wait for the others to close: if a socket is closed while the other side still sends,
        # the other side loses what it has not read yet.
        return not open_links or time.monotonic() > self._disconnect_deadline

    def _poll_once(self) -> None:
        poll = select.poll()
        poll.register(self._wake_receiver, select.POLLIN)
        index_of = {}
        for index, link in self.by_index.items():
            if link.open:
                index_of[link.connection.fileno()] = index
                poll.register(
                    link.connection.fileno(),
                    select.POLLIN | (select.POLLOUT if link.connection.unsent else 0),
                )
        wait = max(0.0, self._last_heartbeat + self._period - time.monotonic())
        for descriptor, events in poll.poll(wait * 1000):
            if descriptor == self._wake_receiver.fileno():
                self._wake_receiver.recv(4096)
                continue
            index = index_of[descriptor]
            try:
                # Read first: received messages may say why the connection is broken.
                if events & ~select.POLLOUT:
                    self._read(index)
                if events & select.POLLOUT and self.by_index[index].open:
                    self._write(index)
            except OSError as error:
                self._on_broken(index, error)
        if time.monotonic() >= self._last_heartbeat + self._period:
            self._heartbeat()

    def _read(self, index: int) -> None:
        link = self.by_index[index]
        messages, received = link.connection.read()
        if received:
            link.silence = 0.0
        for message in messages:
            kind = message.header["kind"]
            if kind == "beat":
                link.waiting_for = message.header["awaits"]
            elif kind == "lost":
                self.report_loss(message.header["text"], index)
            elif kind == "bye":
                link.disconnected = True
                reason = message.header["reason"]
                if reason:
                    task = self._describe(index)
                    self.report_loss(f"{task} stopped with an error: {reason}", index)
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
            self._read(index)  # messages that it sent before the connection broke
            raise
        if not link.connection.unsent:
            with self.changed:
                self.changed.notify_all()

    def _on_broken(self, index: int, error: OSError) -> None:
        if self.by_index[index].disconnected:
            return
        if isinstance(error, (ConnectionClosed, ConnectionResetError, BrokenPipeError)):
            self._lose(index, "has closed the connection (killed or crashed?)")
        else:
            self._lose(index, f"cannot be reached any more: {error}")

    def _lose(self, index: int, why: str) -> None:
        with self.changed:
            self._close(self.by_index[index])
            self.report_loss(f"{self._describe(index)} {why}", index)

    def _close(self, link: Link) -> None:
        link.open = False
        link.connection.close()
        self.changed.notify_all()

    def _heartbeat(self) -> None:
        """Sends heartbeats, and gives up tasks that have been silent for too long."""
        now = time.monotonic()
        # If this process was stopped itself, it could not receive anything in that time.
        passed = min(now - self._last_heartbeat, 2 * self._period)
        self._last_heartbeat = now
        with self.changed:
            heartbeat = pack({"kind": "beat", "awaits": self.waiting_for})
            for link in self.by_index.values():
                if link.open and not link.connection.unsent and not self.disconnecting:
                    link.connection.queue(heartbeat)
        for index, link in self.by_index.items():
            link.silence += passed
            if link.open and link.silence > self._patience and not self.disconnecting:
                self._give_up(index, link)
        if self._exit_time is not None and now > self._exit_time and not self.disconnecting:
            self._exit_process()

    def _give_up(self, index: int, link: Link) -> None:
        seconds = f"{self._patience:g} s"
        text = (
            f"this task ({self._describe(index)}) did not answer for {seconds}, so the other tasks "
            "have given it up"
        )
        try:
            link.connection.write()
            if not link.connection.unsent:  # otherwise it would end up inside another message
                link.connection.queue(pack({"kind": "lost", "text": text}))
                link.connection.write()
        except OSError as error:
            log.debug("%s cannot be notified: %s", self._describe(index), error)
        self._lose(index, f"has not answered for {seconds}")

    def _exit_process(self) -> None:
        """Exits a process whose main thread hangs in native code, where no exception reaches it."""
        flush = threading.Thread(target=_flush, daemon=True)
        flush.start()
        flush.join(_FLUSH_SECONDS)
        # Not through sys.stderr, whose lock the main thread may hold.
        os.write(2, f"error: {self.loss}\n".encode())
        os._exit(1)


def _flush() -> None:
    for name in (None, "tfbig"):
        for handler in logging.getLogger(name).handlers:
            _flush_one(handler)
    _flush_one(sys.stdout)


def _flush_one(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError) as error:  # a closed pipe must not keep a process alive
        log.debug("%r cannot be flushed: %s", stream, error)
