"""The rendezvous of a cluster's tasks: the chief listens, and the other tasks connect to it."""

import logging
import os
import select
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

from tfbig.errors import PeerLost, UserError
from tfbig.placement.control.addresses import Address, connect, describe_task, listen
from tfbig.placement.control.frames import Connection, ProtocolVersionError, pack

log = logging.getLogger("tfbig")

# All in seconds.
_WARN_EVERY = 30.0
_HEARTBEAT_EVERY = 1.0
_HELLO_TIMEOUT = 10.0  # a connection without a hello in this time is not from a task
_STALE_AFTER = 5.0  # of silence, after which another task may connect with the same index
_RETRY_AFTER = 0.5
_REJECT_SECONDS = 3.0  # time for the other tasks to read why the rendezvous failed
_ERRORS = {"UserError": UserError, "PeerLost": PeerLost}


class _Deadline:
    """The time limit of the rendezvous; warns about missing tasks until it is reached."""

    def __init__(self, workers: Sequence[str], seconds: float, warn: Callable[[str], None]):
        self._workers = workers
        self._seconds = seconds
        self._warn = warn
        self._started = time.monotonic()
        self._next_warning = self._started + _WARN_EVERY

    def check(self, missing: Iterable[int], why: str = "") -> None:
        """Warns about the missing tasks if the next warning is due.

        Args:
            missing: the indices of the missing tasks.
            why: the reason of the last failure, in parentheses after a space; may be empty.

        Raises:
            PeerLost: the time limit is reached.
        """
        tasks = ", ".join(describe_task(index, self._workers) for index in missing)
        now = time.monotonic()
        if now >= self._started + self._seconds:
            raise PeerLost(
                f"{tasks} did not join within {self._seconds:g} s{why}; check that all tasks are "
                "running and that their addresses are right."
            )
        if now >= self._next_warning:
            self._warn(f"waiting for {tasks} ({now - self._started:.0f} s){why}")
            self._next_warning += _WARN_EVERY


class _Incoming:
    """A connection that the chief has accepted, from a task or from anything else.

    Attributes:
        source: "ip:port" of the other side.
        last_received: when the last byte arrived.
        hello: the header with which a task identifies itself; None: not received yet.
    """

    def __init__(self, sock: socket.socket, source: str):
        self.connection = Connection(sock)
        self.source = source
        self.last_received = time.monotonic()
        self.hello: dict | None = None

    def __str__(self) -> str:
        return f"pid {self.hello['pid']} on host {self.hello['host']}"


class RendezvousServer:
    """The chief's side: listens until all tasks are connected.

    Args:
        address: the chief's address.
        workers: "host:port" of all tasks, the chief first.
        seconds: how long to wait for the tasks.
        patience: seconds of silence after which a connected task counts as missing again.
        warn: receives lines about missing tasks.
    """

    def __init__(
        self,
        address: Address,
        workers: Sequence[str],
        seconds: float,
        patience: float,
        warn: Callable[[str], None],
    ):
        self._workers = list(workers)
        self._patience = patience
        self._warn = warn
        self._deadline = _Deadline(workers, seconds, warn)
        self._incoming: list[_Incoming] = []
        self._registered: dict[int, _Incoming] = {}
        self._last_heartbeat = time.monotonic()
        self._listener = listen(address)
        self._listener.setblocking(False)

    def receive(self) -> dict[int, Connection]:
        """Returns the connections to all other tasks, by their index.

        The port is free again when this returns.

        Raises:
            UserError: the tasks belong to different clusters, or two have the same index.
            PeerLost: some tasks did not join in time.
        """
        try:
            while missing := self._missing():
                self._deadline.check(missing)
                self._poll_once()
        except (UserError, PeerLost) as error:
            self._reject_all(error)
            raise
        except BaseException:
            self._close_all()
            raise
        finally:
            self._listener.close()
        for incoming in self._incoming:
            if incoming not in self._registered.values():
                incoming.connection.close()
        for incoming in self._registered.values():
            incoming.connection.queue(pack({"kind": "welcome"}))
        return {index: incoming.connection for index, incoming in self._registered.items()}

    def _missing(self) -> list[int]:
        return [i for i in range(1, len(self._workers)) if i not in self._registered]

    def _poll_once(self) -> None:
        ready = _poll([incoming.connection for incoming in self._incoming], self._listener)
        if self._listener.fileno() in ready:
            self._accept()
        for incoming in list(self._incoming):
            if incoming in self._incoming and incoming.connection.fileno() in ready:
                try:
                    self._exchange(incoming)
                except ProtocolVersionError as error:
                    self._warn(f"a task at {incoming.source} has another version of tfbig: {error}")
                    self._drop(incoming)
                except OSError as error:
                    log.debug("the connection from %s was closed: %s", incoming.source, error)
                    self._drop(incoming)
        now = time.monotonic()
        if now >= self._last_heartbeat + _HEARTBEAT_EVERY:
            self._last_heartbeat = now
            status = pack({"kind": "waiting", "missing": self._missing()})
            for incoming in list(self._incoming):
                limit = self._patience if incoming.hello else _HELLO_TIMEOUT
                if now - incoming.last_received > limit:
                    self._drop(incoming)
                elif incoming.hello and not incoming.connection.unsent:
                    incoming.connection.queue(status)

    def _accept(self) -> None:
        try:
            sock, sockaddr = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the other side has closed the connection already
        self._incoming.append(_Incoming(sock, f"{sockaddr[0]}:{sockaddr[1]}"))

    def _exchange(self, incoming: _Incoming) -> None:
        # Write first, so that a task of another version learns which version the chief has.
        incoming.connection.write()
        messages, received = incoming.connection.read()
        if received:
            incoming.last_received = time.monotonic()
        for message in messages:
            if incoming.hello is None and self._is_hello(message.header):
                incoming.hello = message.header
                self._register(incoming)
            elif incoming.hello is None:
                raise ConnectionError(f"it did not identify itself: {message.header}")

    def _drop(self, incoming: _Incoming) -> None:
        self._incoming.remove(incoming)
        incoming.connection.close()
        for index, registered in list(self._registered.items()):
            if registered is incoming:
                del self._registered[index]

    @staticmethod
    def _is_hello(header: dict) -> bool:
        expected = {"kind": str, "index": int, "workers": list, "pid": int, "host": str, "id": str}
        return all(isinstance(header.get(name), kind) for name, kind in expected.items())

    def _register(self, incoming: _Incoming) -> None:
        index, workers = incoming.hello["index"], incoming.hello["workers"]
        chief = f"pid {os.getpid()} on host {socket.gethostname()}"
        if workers != self._workers:
            raise UserError(
                f"the tasks were given different clusters: worker {index} ({incoming}) has "
                f"{_difference(workers, self._workers)}, the chief ({chief}) has "
                f"{_difference(self._workers, workers)}. Give all tasks the same list."
            )
        if not 0 < index < len(workers):
            raise UserError(
                f"a task ({incoming}) claims to be worker {index}; expected 1 to "
                f"{len(workers) - 1}, as the chief is {chief}. Give every task its own index."
            )
        before = self._registered.get(index)
        if before is not None:
            # The same process reconnects after its connection was lost.
            same = before.hello["id"] == incoming.hello["id"]
            if not same and time.monotonic() - before.last_received <= _STALE_AFTER:
                raise UserError(
                    f"two tasks claim to be worker {index}: {before}, and {incoming}; end one of "
                    "them, or give every task its own index."
                )
            self._drop(before)
        self._registered[index] = incoming

    def _reject_all(self, error: Exception) -> None:
        """Sends the error to all tasks, also to those that connect within the next seconds."""
        end = pack({"kind": "end", "error": type(error).__name__, "text": str(error)})
        notified: set[_Incoming] = set()
        seen = set(self._registered)
        until = time.monotonic() + _REJECT_SECONDS
        while (self._incoming or len(seen) < len(self._workers) - 1) and time.monotonic() < until:
            for incoming in set(self._incoming) - notified:
                notified.add(incoming)
                incoming.connection.queue(end)
            ready = _poll([incoming.connection for incoming in self._incoming], self._listener)
            if self._listener.fileno() in ready:
                self._accept()
            for incoming in list(self._incoming):
                if incoming.connection.fileno() not in ready:
                    continue
                try:
                    messages, _ = incoming.connection.read()
                    seen |= {m.header["index"] for m in messages if self._is_hello(m.header)}
                    incoming.connection.write()
                    if incoming in notified and not incoming.connection.unsent:
                        incoming.connection.close_write()
                except OSError:  # the task has read the error and closed the connection
                    self._drop(incoming)
        self._close_all()

    def _close_all(self) -> None:
        for incoming in self._incoming:
            incoming.connection.close()


def _difference(workers: Sequence, others: Sequence) -> str:
    """Describes the entries of one list of workers that differ from another list."""
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
    warn: Callable[[str], None],
) -> Connection:
    """Another task's side: returns the connection to the chief once all tasks are connected.

    Args:
        address: the chief's address.
        workers: "host:port" of all tasks, the chief first.
        index: the index of this task.
        seconds: how long to wait for the chief and the other tasks.
        patience: seconds of silence after which it reconnects to the chief.
        warn: receives lines about missing tasks.

    Raises:
        UserError: the chief rejects the tasks, because they do not belong to one cluster.
        PeerLost: some tasks did not join in time.
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
    deadline, why = _Deadline(workers, seconds, warn), ""
    while True:
        deadline.check([0], why)
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
                welcome = _wait_for_welcome(connection, deadline, patience)
            except ProtocolVersionError as error:
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


def _wait_for_welcome(connection: Connection, deadline: _Deadline, patience: float) -> bool:
    """Waits, connected to the chief, until all other tasks are connected too; returns True."""
    missing, last_received = [0], time.monotonic()
    last_heartbeat = last_received
    while True:
        deadline.check(missing)
        if connection.fileno() in _poll([connection]):
            # One message at a time: the channel reads what follows the welcome.
            messages, received = connection.read(max_messages=1)
            last_received = time.monotonic() if received else last_received
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
        if now - last_received > patience:
            raise ConnectionError(f"it has not answered for {patience:g} s")
        if now >= last_heartbeat + _HEARTBEAT_EVERY and not connection.unsent:
            last_heartbeat = now
            connection.queue(pack({"kind": "beat", "awaits": []}))


def _poll(connections: Iterable[Connection], listener: socket.socket | None = None) -> set[int]:
    """Waits at most half a second; returns the descriptors of the sockets that are ready."""
    poll = select.poll()
    for connection in connections:
        writes = select.POLLOUT if connection.unsent else 0
        poll.register(connection.fileno(), select.POLLIN | writes)
    if listener is not None:
        poll.register(listener.fileno(), select.POLLIN)
    timeout = 1000 * min(_HEARTBEAT_EVERY, _RETRY_AFTER)
    return {descriptor for descriptor, _ in poll.poll(timeout)}
