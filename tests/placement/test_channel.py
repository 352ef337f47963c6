"""Tasks exchange values and detect lost tasks: threads and processes on loopback."""

import contextlib
import logging
import logging.handlers
import math
import os
import socket
import threading
import time

import numpy as np
import pytest

from tfbig.errors import PeerLost, UserError
from tfbig.placement.control import channel as channel_module, preflight
from tfbig.placement.control.channel import Channel, default_patience
from tfbig.placement.control.frames import Connection

# Several tasks in this process, each in its own thread.

WORKERS = ["host0:1", "host1:2", "host2:3"]


@pytest.fixture
def star():
    """The channels of three tasks, the chief's first."""
    chief, others = {}, []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for index in (1, 2):
            others.append(socket.create_connection(listener.getsockname(), timeout=30))
            chief[index] = Connection(listener.accept()[0])
    channels = [Channel(WORKERS, 0, chief)]
    channels += [Channel(WORKERS, i, {0: Connection(sock)}) for i, sock in enumerate(others, 1)]
    yield channels
    for channel in channels:
        channel.disconnect()


def call_on_all(channels, function) -> list:
    """Calls `function(channel)` for all channels at once; returns the results and errors."""
    found = [None] * len(channels)

    def run(i):
        try:
            found[i] = function(channels[i])
        except Exception as error:
            found[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(channels))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return found


def test_every_task_knows_its_index_and_the_count(star):
    assert [c.index for c in star] == [0, 1, 2]
    assert {c.count for c in star} == {3}
    assert [c.is_chief for c in star] == [True, False, False]
    assert star[2].describe(0) == "the chief at host0:1"
    assert star[0].describe(2) == "worker 2 at host2:3"


def test_all_gather_returns_the_same_list_in_the_order_of_the_tasks(star):
    found = call_on_all(star, lambda c: c.all_gather({"task": c.index, "pair": (1, math.inf)}))
    assert found == [[{"task": i, "pair": [1, math.inf]} for i in range(3)]] * 3
    assert all(
        math.isnan(v) for row in call_on_all(star, lambda c: c.all_gather(math.nan)) for v in row
    )


def test_broadcast_returns_the_chiefs_value_and_arrays(star):
    assert call_on_all(star, lambda c: c.broadcast(["chief", c.index])) == [["chief", 0]] * 3
    assert call_on_all(star, lambda c: c.broadcast(*[1][c.index :])) == [1] * 3
    arrays = {"a": np.arange(3), "b": np.array(True)}
    for found in call_on_all(star, lambda c: c.broadcast_arrays(None if c.index else arrays)):
        assert list(found) == ["a", "b"]
        assert found["a"].tolist() == [0, 1, 2]
        assert found["b"].shape == ()
        assert found["b"]


def test_no_task_passes_a_barrier_before_the_last_has_reached_it(star):
    passed = []
    threads = [threading.Thread(target=lambda c=c: passed.append(c.barrier())) for c in star[:2]]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    assert passed == []
    star[2].barrier()
    for thread in threads:
        thread.join(30)
    assert passed == [None, None]


@pytest.mark.parametrize(
    ("calls", "text"),
    [
        (
            [lambda c: c.broadcast(1), lambda c: c.broadcast(), lambda c: c.all_gather(1)],
            "worker 2 at host2:3 calls gather (its call 2) while the chief calls broadcast (its "
            "call 2)",
        ),
        (
            [lambda c: c.all_gather(1), lambda c: c.barrier(), lambda c: c.all_gather(1)],
            "worker 1 at host1:2 calls barrier (its call 2) while the chief calls gather (its "
            "call 2)",
        ),
    ],
)
def test_tasks_that_make_different_calls_are_named_with_their_calls(calls, text, star):
    call_on_all(star, lambda c: c.barrier())
    found = call_on_all(star, lambda c: calls[c.index](c))
    assert [type(error) for error in found] == [UserError] * 3
    for error in found:
        assert str(error) == (
            f"the tasks are out of step: {text}. Run the same program with the same arguments on "
            "all tasks."
        )


def test_a_value_that_cannot_be_sent_is_rejected_by_the_caller(star):
    for call in (star[0].all_gather, star[1].all_gather, star[0].broadcast):
        with pytest.raises(UserError, match="^a value for the other tasks cannot be sent: "):
            call({1, 2})
    with pytest.raises(UserError, match="^broadcast_arrays: the chief got no arrays; pass a dict"):
        star[0].broadcast_arrays()
    with pytest.raises(UserError, match="^broadcast_files: the chief got no directory; pass the"):
        star[0].broadcast_files(None, False, "x")


def test_files_of_any_size_are_copied_to_the_tasks_that_want_them(star, tmp_path, monkeypatch):
    monkeypatch.setattr("tfbig.placement.control.shared_files.CHUNK_BYTES", 1000)
    (tmp_path / "saved").mkdir()
    contents = {"empty": b"", "exact": b"x" * 2000, "large": os.urandom(12345), "é.index": b"1"}
    for name, content in contents.items():
        (tmp_path / "saved" / name).write_bytes(content)
    (tmp_path / "into2").mkdir()
    (tmp_path / "into2" / "exact").write_bytes(b"old")

    def send(c):
        directory = None if c.index else str(tmp_path / "saved")
        c.broadcast_files(
            directory, wanted=c.index == 2, destination=str(tmp_path / f"into{c.index}")
        )
        # No task returns before the files are written.
        return sorted(os.listdir(tmp_path))

    assert call_on_all(star, send) == [["into2", "saved"]] * 3
    found = {path.name: path.read_bytes() for path in (tmp_path / "into2").iterdir()}
    assert found == contents


def test_only_a_directory_of_files_can_be_sent(star, tmp_path):
    (tmp_path / "saved" / "inner").mkdir(parents=True)
    with pytest.raises(UserError, match="inner is not a file; only files can be sent.$"):
        star[0].broadcast_files(str(tmp_path / "saved"), False, "x")
    with pytest.raises(UserError, match="none is not a directory, so its files cannot be sent"):
        star[0].broadcast_files(str(tmp_path / "none"), False, "x")


def test_a_disconnected_task_is_lost_only_once_a_call_needs_it(star):
    seen = []
    for channel in star:
        channel.on_lost(seen.append)
    star[2].disconnect()
    star[2].disconnect()
    assert star[0].wait_for_loss(timeout=0.5) is None
    assert star[1].wait_for_loss(timeout=0) is None
    assert not seen
    for error in call_on_all(star[:2], lambda c: c.all_gather(1)):
        assert type(error) is PeerLost
        assert str(error) == "worker 2 at host2:3 disconnected before gather was complete"
    with pytest.raises(PeerLost, match="^gather was called after this task had disconnected$"):
        star[2].all_gather(1)


def test_a_disconnected_chief_is_lost_only_once_a_call_needs_it(star):
    call_on_all(star, lambda c: c.barrier())
    star[0].disconnect()
    assert star[1].wait_for_loss(timeout=0.3) is None
    with pytest.raises(
        PeerLost, match="^the chief at host0:1 disconnected before barrier was complete$"
    ):
        star[1].barrier()


@pytest.mark.parametrize("failed", [0, 2])
def test_all_tasks_raise_the_error_that_stopped_another_task(failed, star):
    others = [c for c in star if c.index != failed]
    called = []
    others[0].on_lost(called.append)
    star[failed].disconnect("ValueError: no\n  such file")
    name = star[1].describe(failed)
    for channel in others:
        text = f"{name} stopped with an error: ValueError: no such file"
        assert str(channel.wait_for_loss(timeout=30)) == text
        for call in (channel.barrier, lambda c=channel: c.all_gather(1)):
            with pytest.raises(PeerLost) as raised:
                call()
            assert str(raised.value) == text
    late = []
    others[0].on_lost(late.append)
    until = time.monotonic() + 30
    while not (called and late) and time.monotonic() < until:
        time.sleep(0.01)
    assert [str(error) for error in called + late] == [text, text]


def test_a_message_that_arrived_before_a_loss_is_still_read(star):
    found = []
    waiting = [threading.Thread(target=lambda c=c: found.append(c.all_gather(1))) for c in star[1:]]
    for thread in waiting:
        thread.start()
    star[0].all_gather(0)
    star[0].disconnect("an error")
    for thread in waiting:
        thread.join(30)
    assert found == [[0, 1, 1]] * 2


def test_the_log_names_the_tasks_that_a_call_waits_for(star, caplog, monkeypatch):
    # Later than the chief's first heartbeat.
    monkeypatch.setattr(channel_module, "_FIRST_LOG_AFTER", 1.5)
    monkeypatch.setattr(channel_module, "_LOG_EVERY", 100.0)
    with caplog.at_level(logging.INFO, "tfbig"):
        waiting = [threading.Thread(target=lambda c=c: c.all_gather(1)) for c in star[:2]]
        for thread in waiting:
            thread.start()
        until = time.monotonic() + 30
        while len(caplog.messages) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        star[2].all_gather(1)
        for thread in waiting:
            thread.join(30)
    # Worker 1 knows from the chief's heartbeat which task all of them wait for.
    assert [message.rpartition(" (")[0] for message in caplog.messages] == [
        "waiting for worker 2 at host2:3 in gather"
    ] * 2


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_an_invalid_patience_is_rejected(text, monkeypatch):
    monkeypatch.setenv("TFBIG_PEER_PATIENCE", text)
    with pytest.raises(UserError, match=f"^TFBIG_PEER_PATIENCE='{text}': expected a number of se"):
        default_patience()


def test_patience_is_20_seconds_or_the_value_in_the_environment(monkeypatch):
    monkeypatch.delenv("TFBIG_PEER_PATIENCE", raising=False)
    assert default_patience() == 20.0
    monkeypatch.setenv("TFBIG_PEER_PATIENCE", "7.5")
    assert default_patience() == 7.5


def test_a_channel_of_a_single_task_needs_no_connection():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    channel = preflight.join([address], 0, {})
    assert channel.all_gather(1) == [1]
    assert channel.broadcast(2) == 2
    assert channel.wait_for_loss(0) is None
    channel.barrier()
    channel.disconnect()
