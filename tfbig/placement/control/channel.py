"""The control channel between the tasks of a cluster: what they agree on, and who is gone."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfbig.errors import PeerLost, UserError
from tfbig.placement.control.addresses import describe_task
from tfbig.placement.control.frames import Connection, Message
from tfbig.placement.control.links import Links
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.shared_files import FileWriter, file_pieces

log = logging.getLogger("tfbig")

PATIENCE = 20.0  # a task that swaps, or whose native code holds the interpreter, is not dead
_FIRST_LINE = 60.0  # seconds of waiting for another task before the log says so
_NEXT_LINE = 300.0


def default_patience() -> float:
    """The seconds of silence after which a task is lost: TFBIG_PEER_PATIENCE, or 20.

    Raises:
        UserError: the variable holds no positive number.
    """
    text = os.environ.get("TFBIG_PEER_PATIENCE") or str(PATIENCE)
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
    """Tasks that talk over TCP, the chief in the middle of a star.

    Like TensorFlow's own servers it trusts the network that it is on.

    Example: `channel = preflight.join(["host0:2222", "host1:2222"], 0, facts)`.

    Args:
        workers: "host:port" of each task, the chief first.
        index: this task's.
        connections: the chief's to every other task, by their index; another task's to the
            chief, {0: connection}.
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
        self._call = 0  # how many collective calls have been made
        for connection in connections.values():
            connection.trusted = True
        self._links = Links(
            connections, self.describe, default_patience() if patience is None else patience
        )

    def describe(self, index: int) -> str:
        return describe_task(index, self._workers)

    def all_gather(self, value: Any) -> list:
        if not self.is_chief:
            return self._ask("gather", value).header["value"]
        own = _as_json(value)
        parts = self._open("gather")
        return self._answer("gather", [own, *(parts[i] for i in self._others)])

    def broadcast(self, value: Any = None) -> Any:
        if not self.is_chief:
            return self._ask("broadcast").header["value"]
        value = _as_json(value)
        self._open("broadcast")
        return self._answer("broadcast", value)

    def broadcast_arrays(
        self, arrays: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        if not self.is_chief:
            return self._ask("broadcast_arrays").arrays
        if arrays is None:
            raise UserError("broadcast_arrays: the chief got no arrays; pass a dict of them.")
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self._open("broadcast_arrays")
        self._answer("broadcast_arrays", None, arrays)
        return arrays

    def broadcast_files(self, directory: str | None, wanted: bool, into: str) -> None:
        name = "broadcast_files"
        if not self.is_chief:
            message = self._ask(name, bool(wanted))
            with FileWriter(into) as writer:
                while message.header["value"] is not None:
                    writer.write(*message.header["value"], message.arrays["piece"])
                    self._say(name, True)
                    message = self._hear(name)
                if wanted:
                    writer.commit()
            self.barrier()
            return
        if directory is None:
            raise UserError("broadcast_files: the chief got no directory; pass the one to copy.")
        pieces = file_pieces(directory)
        parts = self._open(name)
        takers = [i for i in self._others if parts[i]]
        if takers:
            for file, last, piece in pieces:
                self._answer(name, [file, last], {"piece": piece}, takers)
                self._collect(name, takers)  # they have written it: no more is under way
        self._answer(name, None)
        self.barrier()

    def barrier(self) -> None:
        if self.is_chief:
            self._open("barrier")
            self._answer("barrier", None)
        else:
            self._ask("barrier")

    def lost(self, within: float) -> PeerLost | None:
        with self._links.changed:
            self._links.changed.wait_for(lambda: self._links.verdict is not None, within)
            return self._links.verdict

    def on_lost(self, callback: Callable[[PeerLost], None]) -> None:
        self._links.on_lost(callback)

    def enforce(self, seconds: float = 15.0) -> None:
        self._links.enforce(seconds)

    def leave(self, reason: str | None = None) -> None:
        self._links.leave(" ".join(reason.split()) if reason else None)

    # The chief's side of a call: parts are collected, then there is an answer.

    def _open(self, name: str) -> dict[int, Any]:
        self._call += 1
        return self._collect(name, self._others)

    def _collect(self, name: str, indexes: Sequence[int]) -> dict[int, Any]:
        """The parts of some tasks in this call, by their index."""
        parts: dict[int, Message] = {}

        def missing() -> list[int]:
            for index in indexes:
                inbox = self._links.by_index[index].inbox
                if index not in parts and inbox:
                    parts[index] = inbox.popleft()
            return [index for index in indexes if index not in parts]

        self._wait(name, missing)
        for index, message in parts.items():
            if (message.header["call"], message.header["name"]) != (self._call, name):
                text = (
                    f"the tasks are out of step: {self.describe(index)} calls "
                    f"{message.header['name']} (its call {message.header['call']}) while the "
                    f"chief calls {name} (its call {self._call}). Run the same program with the "
                    "same arguments on all tasks."
                )
                self._links.send(indexes, {"kind": "answer", "name": name, "error": text})
                raise UserError(text)
        return {index: message.header["value"] for index, message in parts.items()}

    def _answer(
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

    # The side of the others.

    def _ask(self, name: str, value: Any = None) -> Message:
        self._call += 1
        self._say(name, value)
        return self._hear(name)

    def _say(self, name: str, value: Any) -> None:
        part = {"kind": "part", "name": name, "call": self._call, "value": value}
        self._links.send([0], part)

    def _hear(self, name: str) -> Message:
        inbox = self._links.by_index[0].inbox
        self._wait(name, lambda: [] if inbox else [0])
        message = inbox.popleft()
        if "error" in message.header:
            raise UserError(message.header["error"])
        return message

    def _wait(self, name: str, missing: Callable[[], list[int]]) -> None:
        """Waits until no task is missing, or one of those is gone."""
        links, started = self._links, time.monotonic()
        line = started + _FIRST_LINE
        with links.changed:
            try:
                while waited_for := missing():
                    if links.leaving:
                        raise PeerLost(f"{name} was called after this task had left the others")
                    if links.verdict is not None:
                        raise PeerLost(str(links.verdict))
                    left = [i for i in waited_for if not links.by_index[i].open]
                    if left:
                        links.lose(f"{self.describe(left[0])} has left before {name} was done")
                        continue
                    links.awaits = waited_for
                    now = time.monotonic()
                    if now >= line:
                        self._say_waiting(name, waited_for, now - started)
                        line += _NEXT_LINE
                    links.changed.wait(max(0.0, line - now))
            finally:
                links.awaits = []

    def _say_waiting(self, name: str, waited_for: list[int], seconds: float) -> None:
        """Logs who is waited for; the chief's heartbeat says for whom it waits itself."""
        if not self.is_chief:
            waited_for = [i for i in self._links.by_index[0].awaits if i != self.index] or [0]
        tasks = ", ".join(self.describe(i) for i in waited_for)
        log.warning("waiting for %s in %s (%.0f s)", tasks, name, seconds)


def _as_json(value: Any) -> Any:
    """The value as the other tasks get it, so that it is the same for all."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"a value for the other tasks cannot be sent: {error}; pass what JSON can hold: "
            "numbers, strings, lists and dicts."
        ) from None
