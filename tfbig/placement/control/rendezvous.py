"""How the tasks of a cluster find each other: the chief listens, the others connect_to_chief."""

import logging
import os
import select
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

from tfbig.errors import PeerLost, UserError
from tfbig.placement.control.addresses import Address, connect, describe_task, listen
from tfbig.placement.control.frames import Connection, OtherVersion, pack

log = logging.getLogger("tfbig")

_SAY_EVERY = 30.0  # seconds
_BEAT_EVERY = 1.0
_HELLO_WITHIN = 10.0  # seconds, else a connection is no task's
_STALE_AFTER = 5.0  # seconds of silence, after which another task may take the place
_RETRY_AFTER = 0.5
_GOODBYE = 3.0
_ERRORS = {"UserError": UserError, "PeerLost": PeerLost}


class _Wait:
    """A time of waiting that says, now and then, for whom, and ends at some point."""

    def __init__(self, workers: Sequence[str], seconds: float, say: Callable[[str], None]):
        self._workers = workers
        self._seconds = seconds
        self._say = say
        self._started = time.monotonic()
        self._line = self._started + _SAY_EVERY

    def go_on(self, missing: Iterable[int], why: str = "") -> None:
        """Says who is missing when it is time to.

        Raises:
            PeerLost: the time is over.
        """
        tasks = [describe_task(index, self._workers) for index in missing]
        now = time.monotonic()
        if now >= self._started + self._seconds:
            have = "has" if len(tasks) == 1 else "have"
            raise PeerLost(
                f"{', '.join(tasks)} {have} not come within {self._seconds:g} s{why}; is it "
                "started, and is the address right?"
            )
        if now >= self._line:
            self._say(f"waiting for {', '.join(tasks)} ({now - self._started:.0f} s){why}")
            self._line += _SAY_EVERY


class _Arrival:
    """A connection to the chief, whoever made it."""

    def __init__(self, sock: socket.socket, where: str):
        self.connection = Connection(sock)
        self.where = where
        self.heard = time.monotonic()
        self.hello: dict | None = None

    def __str__(self) -> str:
        return f"pid {self.hello['pid']} on host {self.hello['host']}"


class RendezvousServer:
    """The chief's part: it listens until all tasks are there.

    Args:
        address: the chief's.
        workers: all tasks, the chief first.
        seconds: how long it waits for them.
        patience: seconds of silence after which a task that has come is not there any more.
        say: gets a line about who is missing.
    """

    def __init__(
        self,
        address: Address,
        workers: Sequence[str],
        seconds: float,
        patience: float,
        say: Callable[[str], None],
    ):
        self._workers = list(workers)
        self._patience = patience
        self._say = say
        self._wait = _Wait(workers, seconds, say)
        self._arrivals: list[_Arrival] = []
        self._present: dict[int, _Arrival] = {}
        self._beat = time.monotonic()
        self._listener = listen(address)
        self._listener.setblocking(False)

    def receive(self) -> dict[int, Connection]:
        """Returns the connections to all other tasks, by their index.

        The port is free again when it returns.

        Raises:
            UserError: the tasks do not belong together.
            PeerLost: not all have come in time.
        """
        try:
            while missing := self._missing():
                self._wait.go_on(missing)
                self._turn()
        except (UserError, PeerLost) as error:
            self._dismiss(error)
            raise
        except BaseException:
            self._close_all()
            raise
        finally:
            self._listener.close()
        for arrival in self._arrivals:
            if arrival not in self._present.values():
                arrival.connection.close()
        for arrival in self._present.values():
            arrival.connection.queue(pack({"kind": "welcome"}))
        return {index: arrival.connection for index, arrival in self._present.items()}

    def _missing(self) -> list[int]:
        return [i for i in range(1, len(self._workers)) if i not in self._present]

    def _turn(self) -> None:
        ready = _poll([arrival.connection for arrival in self._arrivals], self._listener)
        if self._listener.fileno() in ready:
            self._accept()
        for arrival in list(self._arrivals):
            if arrival in self._arrivals and arrival.connection.fileno() in ready:
                try:
                    self._exchange(arrival)
                except OtherVersion as error:
                    self._say(f"a task at {arrival.where} has another version of tfbig: {error}")
                    self._drop(arrival)
                except OSError as error:
                    log.debug("the connection from %s has ended: %s", arrival.where, error)
                    self._drop(arrival)
        now = time.monotonic()
        if now >= self._beat + _BEAT_EVERY:
            self._beat = now
            news = pack({"kind": "waiting", "missing": self._missing()})
            for arrival in list(self._arrivals):
                limit = self._patience if arrival.hello else _HELLO_WITHIN
                if now - arrival.heard > limit:
                    self._drop(arrival)
                elif arrival.hello and not arrival.connection.unsent:
                    arrival.connection.queue(news)

    def _accept(self) -> None:
        try:
            sock, where = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # whoever it was has gone again
        self._arrivals.append(_Arrival(sock, f"{where[0]}:{where[1]}"))

    def _exchange(self, arrival: _Arrival) -> None:
        arrival.connection.write()  # first, as one of another version shall know ours
        messages, came = arrival.connection.read()
        arrival.heard = time.monotonic() if came else arrival.heard
        for message in messages:
            if arrival.hello is None and self._is_hello(message.header):
                arrival.hello = message.header
                self._admit(arrival)
            elif arrival.hello is None:
                raise ConnectionError(f"it did not say who it is: {message.header}")

    def _drop(self, arrival: _Arrival) -> None:
        self._arrivals.remove(arrival)
        arrival.connection.close()
        for index, present in list(self._present.items()):
            if present is arrival:
                del self._present[index]

    @staticmethod
    def _is_hello(header: dict) -> bool:
        expected = {"kind": str, "index": int, "workers": list, "pid": int, "host": str, "id": str}
        return all(isinstance(header.get(name), kind) for name, kind in expected.items())

    def _admit(self, arrival: _Arrival) -> None:
        index, workers = arrival.hello["index"], arrival.hello["workers"]
        if workers != self._workers:
            raise UserError(
                f"the tasks were given different clusters: worker {index} ({arrival}) has "
                f"{_difference(workers, self._workers)}, the chief (pid {os.getpid()} on host "
                f"{socket.gethostname()}) has {_difference(self._workers, workers)}. Give all "
                "tasks the same list."
            )
        if not 0 < index < len(workers):
            raise UserError(
                f"a task ({arrival}) says that it is worker {index}; expected 1 to "
                f"{len(workers) - 1}, as the chief is pid {os.getpid()} on host "
                f"{socket.gethostname()}. Give every task an index of its own."
            )
        before = self._present.get(index)
        if before is not None:
            same = before.hello["id"] == arrival.hello["id"]  # which has lost its connection
            if not same and time.monotonic() - before.heard <= _STALE_AFTER:
                raise UserError(
                    f"two tasks say that they are worker {index}: {before}, and {arrival}; end "
                    "the one that is too many, or give every task an index of its own."
                )
            self._drop(before)
        self._present[index] = arrival

    def _dismiss(self, error: Exception) -> None:
        """Tells all tasks why it ends, those too that come a moment later; they read it."""
        end = pack({"kind": "end", "error": type(error).__name__, "text": str(error)})
        told: set[_Arrival] = set()
        seen = set(self._present)
        until = time.monotonic() + _GOODBYE
        while (self._arrivals or len(seen) < len(self._workers) - 1) and time.monotonic() < until:
            for arrival in set(self._arrivals) - told:
                told.add(arrival)
                arrival.connection.queue(end)
            ready = _poll([arrival.connection for arrival in self._arrivals], self._listener)
            if self._listener.fileno() in ready:
                self._accept()
            for arrival in list(self._arrivals):
                if arrival.connection.fileno() not in ready:
                    continue
                try:
                    messages, _ = arrival.connection.read()
                    seen |= {m.header["index"] for m in messages if self._is_hello(m.header)}
                    arrival.connection.write()
                    if arrival in told and not arrival.connection.unsent:
                        arrival.connection.finish()
                except OSError:  # it has read all, and closed
                    self._drop(arrival)
        self._close_all()

    def _close_all(self) -> None:
        for arrival in self._arrivals:
            arrival.connection.close()


def _difference(workers: Sequence, others: Sequence) -> str:
    """What one list of workers has that another does not."""
    if len(workers) != len(others):
        return f"{len(workers)} tasks ({', '.join(map(str, workers))})"
    return ", ".join(
        describe_task(i, workers) for i in range(len(workers)) if workers[i] != others[i]
    )


def connect_to_chief(
    address: Address,
    workers: Sequence[str],
    index: int,
    seconds: float,
    patience: float,
    say: Callable[[str], None],
) -> Connection:
    """Another task's part: returns the connection to the chief once all tasks are there.

    Args:
        address: the chief's.
        workers: all tasks, the chief first.
        index: this task's.
        seconds: how long it waits for the chief and the others.
        patience: seconds of silence after which it connects to the chief anew.
        say: gets a line about who is missing.

    Raises:
        UserError: the chief says that the tasks do not belong together.
        PeerLost: not all have come in time.
    """
    hello = pack(
        {
            "kind": "hello",
            "index": index,
            "workers": list(workers),
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "id": uuid.uuid4().hex,
        }
    )
    wait, why = _Wait(workers, seconds, say), ""
    while True:
        wait.go_on([0], why)
        try:
            connection = Connection(connect(address, min(5.0, seconds)))
        except socket.gaierror as error:
            why = f" (its name {address.host!r} cannot be resolved: {error.strerror})"
        except OSError as error:
            why = f" ({error.strerror or error})"
        else:
            connection.queue(hello)
            welcome = False
            try:
                welcome = _wait_inside(connection, wait, patience)
            except OtherVersion as error:
                raise UserError(
                    f"{describe_task(0, workers)} has another version of tfbig: {error}; "
                    "install the same version for all tasks."
                ) from None
            except OSError as error:
                why = f" ({error})"
            finally:
                if not welcome:
                    connection.close()
            if welcome:
                return connection
        time.sleep(_RETRY_AFTER)


def _wait_inside(connection: Connection, wait: _Wait, patience: float) -> bool:
    """Waits with a connection to the chief until all others are there."""
    missing, heard = [0], time.monotonic()
    beat = heard
    while True:
        wait.go_on(missing)
        if connection.fileno() in _poll([connection]):
            # One at a time: what follows the welcome is read by others.
            messages, came = connection.read(most=1)
            heard = time.monotonic() if came else heard
            connection.write()
            for message in messages:
                kind = message.header.get("kind")
                if kind == "welcome":
                    return True
                if kind == "end":
                    raise _ERRORS[message.header["error"]](message.header["text"])
                if kind != "waiting":
                    raise ConnectionError(f"it sends {message.header}")
                missing = message.header["missing"] or [0]
        now = time.monotonic()
        if now - heard > patience:
            raise ConnectionError(f"it has not answered for {patience:g} s")
        if now >= beat + _BEAT_EVERY and not connection.unsent:
            beat = now
            connection.queue(pack({"kind": "beat", "awaits": []}))


def _poll(connections: Iterable[Connection], listener: socket.socket | None = None) -> set[int]:
    """The numbers of the sockets that can be read or written, after a second at most."""
    poll = select.poll()
    for connection in connections:
        writes = select.POLLOUT if connection.unsent else 0
        poll.register(connection.fileno(), select.POLLIN | writes)
    if listener is not None:
        poll.register(listener.fileno(), select.POLLIN)
    return {number for number, _ in poll.poll(1000 * min(_BEAT_EVERY, _RETRY_AFTER))}
