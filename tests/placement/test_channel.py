"""Tasks exchange values and detect lost tasks: threads and processes on loopback."""

import contextlib
import ctypes
import hashlib
import logging
import logging.handlers
import math
import os
import signal
import socket
import sys
import threading
import time

import ml_dtypes
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
        return sorted(
            os.listdir(tmp_path)
        )  # immediately: no task returns before the files are written

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
    monkeypatch.setattr(
        channel_module, "_FIRST_LOG_AFTER", 1.5
    )  # later than the chief's first heartbeat
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


# Processes.


def joined(workers: list[str], index: int, patience: float = 60.0) -> Channel:
    channel = preflight.join(workers, index, {"a": "1"}, wait_seconds=60, patience=patience)
    print("joined")
    return channel


def exchange(workers: list[str], index: int, folder: str) -> dict:
    channel = joined(workers, index)
    random = np.random.default_rng(index)
    arrays = {
        "large": random.random(13_000_000),
        "bfloat16": random.random(7).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 2)),
    }
    got = channel.broadcast_arrays(arrays if channel.is_chief else None)
    channel.broadcast_files(
        f"{folder}/saved" if channel.is_chief else None, index == 1, f"{folder}/into"
    )
    found = {
        "gathered": channel.all_gather([index, -index / 7]),
        "value": channel.broadcast(index),
        "arrays": {
            name: [str(a.dtype), list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
            for name, a in got.items()
        },
    }
    channel.disconnect()
    return found


def test_processes_exchange_values_arrays_and_files(start, addresses, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "data").write_bytes(os.urandom(40_000_000))  # three chunks
    started = [start(exchange, addresses, i, str(tmp_path)) for i in range(3)]
    found = [task.result() for task in started]
    assert found[0] == found[1] == found[2]
    assert found[0]["gathered"] == [[0, 0.0], [1, -1 / 7], [2, -2 / 7]]
    assert found[0]["value"] == 0
    assert [a[:2] for a in found[0]["arrays"].values()] == [
        ["float64", [13_000_000]],
        ["bfloat16", [7]],
        ["float64", [0, 2]],
    ]
    large = np.random.default_rng(0).random(13_000_000)
    assert found[0]["arrays"]["large"][2] == hashlib.sha256(large.tobytes()).hexdigest()
    assert (tmp_path / "into" / "data").read_bytes() == (tmp_path / "saved" / "data").read_bytes()


def wait_for_victim(workers: list[str], index: int, victim: int, patience: float) -> list[str]:
    """The errors of a task that waits for one that makes no calls."""
    channel = joined(workers, index, patience)
    if index == victim:
        lost = channel.wait_for_loss(timeout=100)
        return [str(lost)]
    notified, texts = threading.Event(), []
    channel.on_lost(lambda error: (texts.append(str(error)), notified.set()))
    for call in (channel.barrier, lambda: channel.all_gather(1)):
        try:
            call()
        except PeerLost as error:
            texts.append(str(error))
    notified.wait(30)
    channel.disconnect("PeerLost")
    return texts


@pytest.mark.parametrize("victim", [0, 1])
def test_all_other_tasks_name_a_killed_task(victim, start, addresses):
    started = [start(wait_for_victim, addresses, i, victim, 60.0) for i in range(3)]
    for task in started:
        task.wait_for("joined")
    started[victim].send(signal.SIGKILL)
    name = ["the chief", "worker 1"][victim]
    text = f"{name} at {addresses[victim]} has closed the connection (killed or crashed?)"
    for index in {0, 1, 2} - {victim}:
        assert started[index].result() == [text] * 3


@pytest.mark.parametrize("victim", [0, 1])
def test_all_other_tasks_name_a_frozen_task_which_raises_too_once_it_continues(
    victim, start, addresses
):
    started = [start(wait_for_victim, addresses, i, victim, 2.0) for i in range(3)]
    for task in started:
        task.wait_for("joined")
    started[victim].send(signal.SIGSTOP)
    name = ["the chief", "worker 1"][victim]
    text = f"{name} at {addresses[victim]} has not answered for 2 s"
    for index in {0, 1, 2} - {victim}:
        assert started[index].result() == [text] * 3
    started[victim].send(signal.SIGCONT)
    assert started[victim].result() == [
        f"this task ({name} at {addresses[victim]}) did not answer for 2 s, so the other "
        "tasks have given it up"
    ]


def send_to_a_frozen_task(workers: list[str], index: int) -> str:
    channel = joined(workers, index, patience=2.0)
    if index == 2:
        channel.barrier()
        channel._call_number += 1
        channel._send_part("broadcast_arrays", None)  # it has called, but never reads the answer
        os.kill(os.getpid(), signal.SIGSTOP)
    channel.barrier()
    try:
        arrays = channel.broadcast_arrays({"a": np.ones(50_000_000)} if index == 0 else None)
        found = str(int(arrays["a"].sum()))
    except PeerLost as error:
        found = str(error)
    lost = channel.wait_for_loss(timeout=30)
    channel.disconnect("PeerLost")
    return f"{found}; {lost}"


def test_a_task_that_freezes_while_it_receives_arrays_does_not_block_the_others(start, addresses):
    started = [start(send_to_a_frozen_task, addresses, i) for i in range(3)]
    text = f"worker 2 at {addresses[2]} has not answered for 2 s"
    assert started[0].result() == f"{text}; {text}"
    assert started[1].result() == f"50000000; {text}"


def be_slow(workers: list[str], index: int) -> list:
    channel = joined(workers, index, patience=1.5)
    if index == 1:
        time.sleep(3)
    if index == 2:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            sum(range(1000))
    found = channel.all_gather(index)
    channel.disconnect()
    return [found, str(channel.wait_for_loss(timeout=0))]


def test_a_task_that_is_busy_for_longer_than_the_patience_is_not_lost(start, addresses):
    started = [start(be_slow, addresses, i) for i in range(3)]
    assert [task.result() for task in started] == [[[0, 1, 2], "None"]] * 3


def pause(workers: list[str], index: int) -> list:
    channel = joined(workers, index, patience=1.0 if index == 0 else 60.0)
    channel.all_gather(index)
    time.sleep(3)
    found = channel.all_gather(index)
    channel.disconnect()
    return [found, str(channel.wait_for_loss(timeout=0))]


def test_a_task_that_was_stopped_itself_does_not_consider_the_others_lost(start, addresses):
    started = [start(pause, addresses, i) for i in range(3)]
    for task in started:
        task.wait_for("joined")
    time.sleep(0.3)
    started[0].send(signal.SIGSTOP)
    time.sleep(2.5)
    started[0].send(signal.SIGCONT)
    assert [task.result() for task in started] == [[[0, 1, 2], "None"]] * 3


def hang(workers: list[str], index: int, how: str) -> str:
    """Keeps the main thread busy in some way while another task is lost."""
    buffered = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stdout))
    logging.getLogger("tfbig").addHandler(buffered)
    logging.getLogger("tfbig").warning("the last log line")
    channel = joined(workers, index, patience=2.0)
    channel.exit_on_loss(seconds=1.0)
    if index == 1 or how == "sleep":
        time.sleep(100)
    elif how == "native":
        ctypes.CDLL(None).sleep(100)
    elif how == "disconnects":
        channel.wait_for_loss(timeout=100)
        channel.disconnect()
        time.sleep(2.5)
    return "finished"


@pytest.mark.parametrize("how", ["sleep", "native"])
def test_a_process_that_hangs_after_a_loss_exits(how, start, addresses):
    started = [start(hang, addresses[:2], i, how) for i in range(2)]
    for task in started:
        task.wait_for("joined")
    started[1].send(signal.SIGKILL)
    assert started[0].ends() == 1
    assert started[0].err == (
        f"error: worker 1 at {addresses[1]} has closed the connection (killed or crashed?)\n"
    )
    assert "the last log line" in started[0].out


def test_a_process_that_disconnects_after_a_loss_is_not_ended(start, addresses):
    started = [start(hang, addresses[:2], i, "disconnects") for i in range(2)]
    for task in started:
        task.wait_for("joined")
    started[1].send(signal.SIGKILL)
    assert started[0].result() == "finished"
    assert started[0].err == ""


def test_a_channel_of_a_single_task_needs_no_connection():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    channel = preflight.join([address], 0, {})
    assert channel.all_gather(1) == [1]
    assert channel.broadcast(2) == 2
    assert channel.wait_for_loss(0) is None
    channel.barrier()
    channel.disconnect()
