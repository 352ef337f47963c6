"""The control channel between the tasks of a cluster: agreement and loss detection."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.errors import PeerLost, UserError
from tfbig.placement.control.addresses import describe_task
from tfbig.placement.control.frames import Connection, Message
from tfbig.placement.control.links import Links
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.shared_files import FileWriter, file_chunks

log = logging.getLogger("tfbig")

# Seconds. A task that is swapping, or whose native code holds the interpreter lock, is not lost.
DEFAULT_PATIENCE = 20.0
_FIRST_LOG_AFTER = 60.0  # seconds of waiting for another task
_LOG_EVERY = 300.0  # seconds


def default_patience() -> float:
    """The seconds of silence after which a task is lost: TFBIG_PEER_PATIENCE, or 20.

    Raises:
        UserError: the variable is not a positive number.
    """
    text = os.environ.get("TFBIG_PEER_PATIENCE") or str(DEFAULT_PATIENCE)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise UserError(
            f"TFBIG_PEER_PATIENCE={text!r}: expected a number of seconds above 0, such as 20."
        )
    return seconds


class Channel(Peers):
    """Exchanges values between tasks over TCP, in a star with the chief at its center.

    Like TensorFlow's own servers, it trusts the network that it runs on.

    Example: `channel = preflight.join(["host0:2222", "host1:2222"], 0, facts)`.

    Args:
        workers: "host:port" of each task, the chief first.
        index: the index of this task.
        connections: on the chief, the connections to all other tasks by their index; on another
            task, {0: the connection to the chief}.
        patience: seconds of silence after which a task is lost; None for `default_patience`.
    """

    def __init__(
        self,
        workers: Sequence[str],
        index: int,
        connections: Mapping[int, Connection],
        *,
        patience: float | None = None,
    ):
        self.index = index
        self.count = len(workers)
        self._workers = list(workers)
        self._others = [i for i in range(self.count) if i != index]
        self._call_number = 0  # the number of collective calls so far
        for connection in connections.values():
            connection.trusted = True
        self._links = Links(
            connections, self.describe, default_patience() if patience is None else patience
        )

    @override
    def describe(self, index: int) -> str:
        return describe_task(index, self._workers)

    @override
    def all_gather(self, value: Any) -> list:
        if not self.is_chief:
            return self._request("gather", value).header["value"]
        own = _as_json(value)
        parts = self._collect_from_all("gather")
        return self._send_answer("gather", [own, *(parts[i] for i in self._others)])

    @override
    def broadcast(self, value: Any = None) -> Any:
        if not self.is_chief:
            return self._request("broadcast").header["value"]
        value = _as_json(value)
        self._collect_from_all("broadcast")
        return self._send_answer("broadcast", value)

    @override
    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        if not self.is_chief:
            return self._request("broadcast_arrays").arrays
        if arrays is None:
            raise UserError("broadcast_arrays: the chief got no arrays; pass a dict of them.")
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._collect_from_all("broadcast_arrays")
        self._send_answer("broadcast_arrays", None, arrays)
        return arrays

    @override
    def broadcast_files(self, directory: str | None, wanted: bool, destination: str) -> None:
        name = "broadcast_files"
        if not self.is_chief:
            message = self._request(name, bool(wanted))
            with FileWriter(destination) as writer:
                while message.header["value"] is not None:
                    writer.write(*message.header["value"], message.arrays["piece"])  # type: ignore[call-arg]
                    self._send_part(name, True)
                    message = self._receive_answer(name)
                if wanted:
                    writer.commit()
            self.barrier()
            return
        if directory is None:
            raise UserError("broadcast_files: the chief got no directory; pass the one to copy.")
        chunks = file_chunks(directory)
        parts = self._collect_from_all(name)
        receivers = [i for i in self._others if parts[i]]
        if receivers:
            for file, last, chunk in chunks:
                self._send_answer(name, [file, last], {"piece": chunk}, receivers)
                self._collect(name, receivers)  # at most one chunk is in transit
        self._send_answer(name, None)
        self.barrier()

    @override
    def barrier(self) -> None:
        if self.is_chief:
            self._collect_from_all("barrier")
            self._send_answer("barrier", None)
        else:
            self._request("barrier")

    @override
    def wait_for_loss(self, timeout: float) -> PeerLost | None:
        with self._links.changed:
            self._links.changed.wait_for(lambda: self._links.loss is not None, timeout)
            return self._links.loss

    @override
    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        self._links.on_lost(callback)

    @override
    def exit_on_loss(self, seconds: float = 15.0) -> None:
        self._links.exit_on_loss(seconds)

    @override
    def disconnect(self, reason: str | None = None) -> None:
        self._links.disconnect(" ".join(reason.split()) if reason else None)

    # The chief's side of a collective call: collect a part from each task, then send the answer.

    def _collect_from_all(self, name: str) -> dict[int, Any]:
        self._call_number += 1
        return self._collect(name, self._others)

    def _collect(self, name: str, indexes: Sequence[int]) -> dict[int, Any]:
        """Receives the parts of some tasks in this call; returns them by task index."""
        parts: dict[int, Message] = {}

        def missing() -> list[int]:
            for index in indexes:
                inbox = self._links.by_index[index].inbox
                if index not in parts and inbox:
                    parts[index] = inbox.popleft()
            return [index for index in indexes if index not in parts]

        self._wait(name, missing)
        for index, message in parts.items():
            if (message.header["call"], message.header["name"]) != (self._call_number, name):
                text = (
                    f"the tasks are out of step: {self.describe(index)} calls "
                    f"{message.header['name']} (its call {message.header['call']}) while the "
                    f"chief calls {name} (its call {self._call_number}). Run the same program with "
                    "the same arguments on all tasks."
                )
                self._links.send(indexes, {"kind": "answer", "name": name, "error": text})
                raise UserError(text)
        return {index: message.header["value"] for index, message in parts.items()}

    def _send_answer(
        self,
        name: str,
        value: Any,
        arrays: Mapping[str, np.ndarray] | None = None,
        indexes: Sequence[int] | None = None,
    ) -> Any:
        self._links.send(
            self._others if indexes is None else indexes,
            {"kind": "answer", "name": name, "value": value},
            arrays,
        )
        return value

    # The other tasks' side: send a part, then receive the answer.

    def _request(self, name: str, value: Any = None) -> Message:
        self._call_number += 1
        self._send_part(name, value)
        return self._receive_answer(name)

    def _send_part(self, name: str, value: Any) -> None:
        part = {"kind": "part", "name": name, "call": self._call_number, "value": value}
        self._links.send([0], part)

    def _receive_answer(self, name: str) -> Message:
        inbox = self._links.by_index[0].inbox
        self._wait(name, lambda: [] if inbox else [0])
        message = inbox.popleft()
        if "error" in message.header:
            raise UserError(message.header["error"])
        return message

    def _wait(self, name: str, missing: Callable[[], list[int]]) -> None:
        """Waits until `missing` returns no task.

        Raises:
            PeerLost: a task was lost, or a missing one has disconnected.
        """
        links, started = self._links, time.monotonic()
        next_log = started + _FIRST_LOG_AFTER
        with links.changed:
            try:
                while waited_for := missing():
                    if links.disconnecting:
                        raise PeerLost(f"{name} was called after this task had disconnected")
                    if links.loss is not None:
                        raise PeerLost(str(links.loss))
                    closed = [i for i in waited_for if not links.by_index[i].open]
                    if closed:
                        task = self.describe(closed[0])
                        links.report_loss(f"{task} disconnected before {name} was complete")
                        continue
                    links.waiting_for = waited_for
                    now = time.monotonic()
                    if now >= next_log:
                        self._log_waiting(name, waited_for, now - started)
                        next_log += _LOG_EVERY
                    links.changed.wait(max(0.0, next_log - now))
            finally:
                links.waiting_for = []

    def _log_waiting(self, name: str, waited_for: list[int], seconds: float) -> None:
        """Logs the missing tasks; a worker knows them from the chief's heartbeat."""
        if not self.is_chief:
            chief = self._links.by_index[0]
            waited_for = [i for i in chief.waiting_for if i != self.index] or [0]
        tasks = ", ".join(self.describe(i) for i in waited_for)
        log.warning("waiting for %s in %s (%.0f s)", tasks, name, seconds)


def _as_json(value: Any) -> Any:
    """Converts a value to JSON and back, so that the chief has the same value as the others."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"a value for the other tasks cannot be sent: {error}; pass values that JSON can "
            "represent: numbers, strings, lists and dicts."
        ) from None
