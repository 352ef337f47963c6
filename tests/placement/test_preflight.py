"""Before the first step: every task names the tasks that are missing or that differ."""

import contextlib
import os
import re
import signal
import socket
import threading
import time

import pytest

from tests.harness import free_addresses
from tfbig.errors import PeerLost, UserError
from tfbig.placement.control import addresses as addresses_module, preflight, rendezvous
from tfbig.placement.control.addresses import (
    Address,
    check_port_is_free,
    connect,
    listen,
    parse_address,
)
from tfbig.placement.control.peers import Peers


def join_and_gather(
    workers: list[str],
    index: int,
    facts: dict | None = None,
    wait_seconds: float = 60.0,
    warn_every: float = 30.0,
) -> dict:
    """Joins a cluster; returns the warnings, and the error or the gathered indices."""
    rendezvous._WARN_EVERY = warn_every
    warnings: list[str] = []
    print("starts", os.getpid())
    try:
        channel = preflight.join(
            workers,
            index,
            facts or {},
            wait_seconds=wait_seconds,
            patience=10.0,
            warn=warnings.append,
        )
    except (UserError, PeerLost) as error:
        return {"warnings": warnings, "error": type(error).__name__, "text": str(error)}
    found = channel.all_gather(index)
    channel.disconnect()
    return {"warnings": warnings, "gathered": found}


@pytest.mark.slow
def test_tasks_can_join_again_immediately_on_the_same_ports(start, addresses):
    for _ in range(2):
        started = [start(join_and_gather, addresses, i) for i in (2, 1, 0)]
        assert [task.result() for task in started] == [{"warnings": [], "gathered": [0, 1, 2]}] * 3


@pytest.mark.slow
def test_all_tasks_warn_about_a_missing_task_and_name_it_in_the_error(start, addresses):
    second = start(join_and_gather, addresses, 1, None, 60.0, 1.5)
    second.wait_for("starts")
    chief, worker = start(join_and_gather, addresses, 0, None, 4.0, 1.5).result(), second.result()
    text = (
        f"worker 2 at {addresses[2]} did not join within 4 s; check that all tasks are running "
        "and that their addresses are right."
    )
    assert [chief["error"], chief["text"]] == ["PeerLost", text]
    assert [worker["error"], worker["text"]] == ["PeerLost", text]
    line = re.compile(rf"waiting for worker 2 at {addresses[2]} \(\d+ s\)")
    assert any(map(line.fullmatch, chief["warnings"]))
    assert any(map(line.fullmatch, worker["warnings"]))
    assert len(chief["warnings"]) == 2  # after 1.5 and 3 s


@pytest.mark.slow
def test_a_connected_task_does_not_wait_forever_for_the_others(start, addresses):
    start(join_and_gather, addresses, 0).wait_for("starts")
    assert start(join_and_gather, addresses, 1, None, 3.0).result()["text"] == (
        f"worker 2 at {addresses[2]} did not join within 3 s; check that all tasks are running "
        "and that their addresses are right."
    )


def test_a_missing_chief_is_named_with_the_reason(addresses):
    warnings = []
    with pytest.raises(PeerLost) as raised:
        preflight.join(addresses, 1, {}, wait_seconds=0.7, warn=warnings.append)
    assert str(raised.value) == (
        f"the chief at {addresses[0]} did not join within 0.7 s (Connection refused); check "
        "that all tasks are running and that their addresses are right."
    )


def test_a_host_that_cannot_be_resolved_is_retried_and_named(addresses, monkeypatch):
    tried = []

    def unknown(host, *rest, **more):
        tried.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(addresses_module.socket, "getaddrinfo", unknown)
    with pytest.raises(PeerLost) as raised:
        preflight.join(["pod-0.job:2222", addresses[1]], 1, {}, wait_seconds=1.2)
    assert str(raised.value) == (
        "the chief at pod-0.job:2222 did not join within 1.2 s (its name 'pod-0.job' cannot be "
        "resolved: Name or service not known); check that all tasks are running and that their "
        "addresses are right."
    )
    assert len(tried) > 1


@pytest.mark.slow
def test_all_tasks_name_both_tasks_with_the_same_index(start, addresses):
    started = [start(join_and_gather, addresses, i) for i in (0, 1)]
    for task in started:
        task.wait_for("starts")
    time.sleep(1)
    started.append(start(join_and_gather, addresses, 1))
    found = [task.result() for task in started]
    host = socket.gethostname()
    first, second = (f"pid {task.pid} on host {host}" for task in started[1:])
    assert found[0] == found[1] == found[2]
    assert found[0] == {
        "warnings": [],
        "error": "UserError",
        "text": f"two tasks claim to be worker 1: {first}, and {second}; end one of "
        "them, or give every task its own index.",
    }


@pytest.mark.slow
def test_different_clusters_are_named_on_both_sides(start, addresses):
    other = [*addresses[:2], free_addresses(1)[0]]
    started = [start(join_and_gather, addresses, 0), start(join_and_gather, other, 1)]
    host = socket.gethostname()
    chief, worker = (f"pid {task.pid} on host {host}" for task in started)
    for task in started:
        found = task.result()
        assert found["error"] == "UserError"
        assert found["text"] == (
            f"the tasks were given different clusters: worker 1 ({worker}) has worker 2 at "
            f"{other[2]}, the chief ({chief}) has worker 2 at {addresses[2]}. Give all tasks the "
            "same list."
        )


@pytest.mark.slow
def test_a_cluster_of_another_size_is_named(start, addresses):
    started = [start(join_and_gather, addresses, 0), start(join_and_gather, addresses[:2], 1)]
    for task in started:
        text = task.result()["text"]
        assert f"has 2 tasks ({', '.join(addresses[:2])}), the chief (" in text
        assert f"has 3 tasks ({', '.join(addresses)}). Give all tasks the same list." in text


@pytest.mark.slow
def test_a_task_that_connects_after_the_error_raises_it_too(start, addresses):
    started = [start(join_and_gather, addresses, 0), start(join_and_gather, addresses[:2], 1)]
    started[0].wait_for("starts")
    late = start(join_and_gather, addresses, 2)
    texts = {task.result()["text"] for task in [*started, late]}
    assert len(texts) == 1
    assert texts.pop().startswith("the tasks were given different clusters: ")


def test_all_tasks_name_the_facts_that_differ(start, addresses):
    facts = [
        {"tensorflow": "2.21.0", "keras": "3.15.0", "python": "3.11"},
        {"tensorflow": "2.20.0", "keras": "3.15.0", "python": "3.12"},
        {"tensorflow": "2.21.0", "python": "3.11"},
    ]
    started = [start(join_and_gather, addresses, i, facts[i]) for i in range(3)]
    for task in started:
        found = task.result()
        assert found["error"] == "UserError"
        assert found["text"] == (
            f"worker 1 at {addresses[1]} differs from the chief in tensorflow: 2.20.0, the chief "
            f"has 2.21.0, python: 3.12, the chief has 3.11; worker 2 at {addresses[2]} differs "
            "from the chief in keras: nothing, the chief has 3.15.0. Run the same program, with "
            "the same versions, config and data, on all tasks."
        )


def test_a_single_task_differs_from_no_other():
    assert preflight.compare(Peers(), {"config": "1"}) is None


def test_a_task_that_restarts_while_the_others_wait_can_join(start, addresses):
    waiting = [start(join_and_gather, addresses, i) for i in (0, 1)]
    for task in waiting:
        task.wait_for("starts")
    time.sleep(1)  # until worker 1 is connected
    waiting[1].send(signal.SIGKILL)
    again = [start(join_and_gather, addresses, i) for i in (1, 2)]
    found = [task.result() for task in [waiting[0], *again]]
    assert [result["gathered"] for result in found] == [[0, 1, 2]] * 3


def test_tasks_find_a_chief_that_restarts(start, addresses):
    waiting = [start(join_and_gather, addresses, i) for i in (0, 1)]
    for task in waiting:
        task.wait_for("starts")
    time.sleep(1)
    waiting[0].send(signal.SIGKILL)
    waiting[0].ends()
    again = [start(join_and_gather, addresses, i) for i in (0, 2)]
    found = [task.result() for task in [waiting[1], *again]]
    assert [result["gathered"] for result in found] == [[0, 1, 2]] * 3


def test_foreign_connections_to_the_port_do_no_harm(start, addresses):
    chief = start(join_and_gather, addresses[:2], 0)
    address = parse_address(addresses[0])
    until = time.monotonic() + 30
    while True:
        try:
            stranger = connect(address, 5.0)
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)
    silent = connect(address, 5.0)
    connect(address, 5.0).close()
    stranger.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    stranger.settimeout(30)
    received = b""
    try:
        while piece := stranger.recv(100):
            received += piece
    except ConnectionResetError:
        pass
    assert received in (b"", b"tfbig-peers-1\n")  # and the connection was closed
    nameless = connect(address, 5.0)
    nameless.sendall(b"tfbig-peers-1\n" + bytes(3) + b"\x02" + bytes(8) + b"{}")
    worker = start(join_and_gather, addresses[:2], 1)
    assert [chief.result()["gathered"], worker.result()["gathered"]] == [[0, 1]] * 2
    for sock in (stranger, silent, nameless):
        sock.close()


def answer(address: str, data: bytes) -> socket.socket:
    """Listens at the chief's address and sends the data to every connection."""
    listener = listen(parse_address(address))

    def serve():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # the test is over
            with sock:
                sock.sendall(data)
                with contextlib.suppress(ConnectionResetError):
                    sock.recv(100)

    threading.Thread(target=serve, daemon=True).start()
    return listener


def test_another_program_at_the_chiefs_address_is_named(addresses):
    with answer(addresses[0], b"HTTP/1.1 400 Bad Request\r\n"):
        with pytest.raises(PeerLost) as raised:
            preflight.join(addresses, 1, {}, wait_seconds=1.0)
    assert str(raised.value) == (
        f"the chief at {addresses[0]} did not join within 1 s (it uses another protocol: "
        "b'HTTP/1.1 400 B'); check that all tasks are running and that their addresses are right."
    )


def test_another_version_of_the_protocol_is_an_immediate_error(addresses):
    with answer(addresses[0], b"tfbig-peers-9\n"), pytest.raises(UserError) as raised:
        preflight.join(addresses, 1, {})
    assert str(raised.value) == (
        f"the chief at {addresses[0]} has another version of tfbig: it uses "
        "b'tfbig-peers-9\\n' and not b'tfbig-peers-1\\n'; install the same version for all tasks."
    )


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "127.0.0.2"])
@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_is_in_use_is_an_error_of_its_task(index, host, shares, addresses):
    address = parse_address(addresses[index])
    with socket.socket() as sock:
        if shares:  # as TensorFlow's server does
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, address.port))
        sock.listen()
        with pytest.raises(UserError) as raised:
            preflight.join(addresses, index, {}, wait_seconds=1.0)
    assert str(raised.value) == (
        f"port {address.port} is in use (by another process) on this machine, where the task at "
        f"{address} has to listen; end that process, which may be left over from an earlier run, "
        "or give the task another port."
    )
    check_port_is_free(address)


def test_a_loopback_address_listens_on_loopback_only_and_others_on_all_interfaces(
    addresses, monkeypatch
):
    port = parse_address(addresses[0]).port
    everywhere = ("::", "0.0.0.0")

    def bound_ip(host):
        with listen(Address(host, port)) as sock:
            return sock.getsockname()[0]

    assert bound_ip("127.0.0.1") == "127.0.0.1"
    assert bound_ip("localhost") in ("127.0.0.1", "::1")
    assert bound_ip("192.0.2.1") in everywhere  # an address that no machine has
    found = {"own-name": "127.0.1.1", "other": "192.0.2.1"}

    def resolved(host, port, **more):
        if host not in found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found[host], port))]

    monkeypatch.setattr(addresses_module.socket, "getaddrinfo", resolved)
    # Debian gives a machine's own name such an address, on that machine only.
    assert bound_ip("own-name") in everywhere
    assert bound_ip("other") in everywhere
    assert bound_ip("unknown") in everywhere


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("host:1", "host", 1),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
        ("[::1]:2222", "::1", 2222),
        ("a.b-c.d:22", "a.b-c.d", 22),
    ],
)
def test_addresses_are_parsed(text, host, port):
    assert parse_address(text) == Address(host, port)
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["host", "host:", ":1", "host:0", "host:65536", "host:-1", "host:x", "::1:2", "", None]
)
def test_an_invalid_address_is_rejected(text):
    with pytest.raises(UserError) as raised:
        preflight.join(["host:1", text], 0, {})
    assert str(raised.value) == (
        f'{text!r} is not the address of a task; expected "host:port", such as '
        '"10.0.0.1:2222" or "[::1]:2222".'
    )


def test_invalid_arguments_are_rejected(addresses):
    for index in (3, -1, True, "0", None):
        with pytest.raises(UserError, match=f"^index={index!r}: expected 0 to 2, as there are 3 t"):
            preflight.join(addresses, index, {})
    with pytest.raises(UserError, match="two tasks have the same address; give each its own.$"):
        preflight.join([addresses[0], addresses[0]], 0, {})
    with pytest.raises(UserError, match="^wait_seconds=0: expected a number of seconds above 0.$"):
        preflight.join(addresses, 0, {}, wait_seconds=0)
    with pytest.raises(UserError, match="^patience=-1: expected a number of seconds above 0.$"):
        preflight.join(addresses, 0, {}, patience=-1)


def serve_tensorflow(workers: list[str], index: int) -> list:
    """Starts TensorFlow's server on the task's port and keeps using the channel."""
    channel = preflight.join(workers, index, {}, wait_seconds=60)
    import tensorflow as tf

    server = tf.distribute.Server({"worker": workers}, job_name="worker", task_index=index)
    found = [server.target, channel.all_gather(index)]
    try:
        check_port_is_free(parse_address(workers[index]))
    except UserError as error:
        found.append(str(error).split(" (")[0])
    channel.barrier()
    channel.disconnect()
    return found


def test_tensorflows_server_can_use_the_ports_while_the_channel_is_open(start, addresses):
    started = [start(serve_tensorflow, addresses[:2], i) for i in range(2)]
    for index, task in enumerate(started):
        port = addresses[index].partition(":")[2]
        assert task.result(timeout=120) == [
            f"grpc://{addresses[index]}",
            [0, 1],
            f"port {port} is in use",
        ]
