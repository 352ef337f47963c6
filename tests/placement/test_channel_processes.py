"""The control channel between processes, which are killed, stopped, slow and hung."""

import ctypes
import hashlib
import logging
import logging.handlers
import os
import signal
import sys
import threading
import time

import ml_dtypes
import numpy as np
import pytest

from tfbig.errors import PeerLost
from tfbig.placement.control import preflight
from tfbig.placement.control.channel import Channel


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_process_that_disconnects_after_a_loss_is_not_ended(start, addresses):
    started = [start(hang, addresses[:2], i, "disconnects") for i in range(2)]
    for task in started:
        task.wait_for("joined")
    started[1].send(signal.SIGKILL)
    assert started[0].result() == "finished"
    assert started[0].err == ""
