"""When a task is gone, all others end soon, in an error that names it.

These tests guard abort_collectives and disable_health_check of tfbig._private_api.
"""

import re
import signal
import time

import pytest

from tests.cluster import lost_runs
from tests.cluster.conftest import CPP_LINE

pytestmark = pytest.mark.slow  # clusters take their time

TRAIN = ["-m", "tfbig", "train", "--config=tests/cluster/lost_runs.py"]


def own_lines(err: str) -> list[str]:
    """The lines on standard error that are not TensorFlow's C++ runtime's."""
    lines, of_cpp = [], False
    for line in err.splitlines():
        is_cpp = re.match(CPP_LINE, line) is not None
        # What its lines go on with: the text of an error of several lines.
        of_cpp = is_cpp or (of_cpp and not line.startswith("error: "))
        if line and not of_cpp:
            lines.append(line)
    return lines


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("gone", [0, 1])
def test_a_task_that_is_killed_or_stands_still_is_named_by_the_other(gone, number, cluster):
    cluster.start(lost_runs.trained, TFBIG_PEER_PATIENCE="3")
    for index in (0, 1):
        cluster.wait_for(lost_runs.READING, index)
    cluster.tasks[gone].send(number)

    assert cluster.ends(30, 1 - gone) == [0], cluster
    told = cluster.tasks[1 - gone].result()["lost"]  # an exception, in the main thread
    why = "killed or crashed" if number == signal.SIGKILL else "has not answered for 3 s"
    assert told.startswith(cluster.name(gone))
    assert why in told
    if number == signal.SIGSTOP:
        cluster.tasks[gone].send(signal.SIGCONT)
        assert cluster.ends(30, gone) == [0], cluster
        assert "did not answer for 3 s" in cluster.tasks[gone].result()["lost"]


@pytest.mark.parametrize("gone", [0, 1])
def test_a_task_that_waits_in_a_step_for_one_that_stands_still_gets_an_error(gone, cluster):
    cluster.start(lost_runs.trained_in_long_calls, TFBIG_PEER_PATIENCE="3")
    for index in (0, 1):
        cluster.wait_for(lost_runs.STEPPING, index)
    time.sleep(1)  # the first call has one batch, the second one lasts 20 seconds
    cluster.tasks[gone].send(signal.SIGSTOP)

    # Else the process would be ended from outside, with 1.
    assert cluster.ends(30, 1 - gone) == [0], cluster
    assert cluster.tasks[1 - gone].result()["lost"].startswith(cluster.name(gone))


def test_a_task_that_is_killed_while_the_strategy_is_made_does_not_hold_the_other(cluster):
    cluster.start(lost_runs.dies_while_the_strategy_is_made)

    assert cluster.ends(40) == [1, -signal.SIGKILL], cluster
    assert "_strategy" in cluster.tasks[0].err  # where it was


def test_of_three_tasks_the_two_that_are_left_name_the_third(cluster):
    cluster.start(lost_runs.trained, workers=3)
    for index in range(3):
        cluster.wait_for(lost_runs.READING, index)
    cluster.tasks[1].send(signal.SIGKILL)

    assert cluster.ends(30, 0, 2) == [0, 0], cluster
    for index in (0, 2):
        assert cluster.tasks[index].result()["lost"].startswith(cluster.name(1))


@pytest.mark.parametrize("gone", [0, 1])
def test_the_command_ends_with_1_and_one_line(gone, cluster):
    cluster.start(None, words=TRAIN)
    for index in (0, 1):
        cluster.wait_for(lost_runs.READING, index)
    cluster.tasks[gone].send(signal.SIGKILL)

    assert cluster.ends(30, 1 - gone) == [1], cluster
    last = own_lines(cluster.tasks[1 - gone].err)[-1]
    assert last.startswith(f"error: {cluster.name(gone)} has closed the connection"), cluster
    assert [line for line in own_lines(cluster.tasks[1 - gone].err) if "rror" in line] == [last]
    assert "Traceback" not in cluster.tasks[1 - gone].err + cluster.tasks[1 - gone].out


@pytest.mark.long  # the same with a patience of 3 s is above; tests/placement has the usual value
def test_with_the_usual_patience_a_task_that_stands_still_ends_the_other_within_a_minute(
    cluster, second_cluster
):
    clusters = {0: cluster, 1: second_cluster}
    for each in clusters.values():
        each.start(None, words=TRAIN)
        for index in (0, 1):
            each.wait_for(lost_runs.READING, index)
    for gone, each in clusters.items():
        each.tasks[gone].send(signal.SIGSTOP)

    until = time.monotonic() + 60
    for gone, each in clusters.items():
        assert each.ends(until - time.monotonic(), 1 - gone) == [1], each
        last = own_lines(each.tasks[1 - gone].err)[-1]
        assert last == f"error: {each.name(gone)} has not answered for 20 s"


def test_a_task_that_stands_still_for_a_while_is_waited_for(cluster):
    cluster.start(lost_runs.trained, None, 400, TFBIG_PEER_PATIENCE="60")
    cluster.wait_for(lost_runs.READING, 1)
    cluster.tasks[1].send(signal.SIGSTOP)
    assert not cluster.tasks[0].ended(25)  # TensorFlow itself gives a task up after 10
    cluster.tasks[1].send(signal.SIGCONT)

    assert cluster.results(60) == [{"step": 400}] * 2


def test_a_task_that_does_not_come_is_named(cluster):
    cluster.start(None, words=[*TRAIN, "--cluster_timeout=9"], workers=3, only=(0, 2))

    assert cluster.ends(40) == [1, 1], cluster
    for task in cluster.tasks.values():
        last = own_lines(task.err)[-1]  # one of them may have given up, and left, before the other
        assert last.startswith(f"error: {cluster.name(1)}")
        assert "did not join within 9 s" in last


def test_while_a_task_does_not_come_a_line_says_so(cluster, second_cluster):
    clusters = {0: cluster, 1: second_cluster}
    for there, each in clusters.items():
        each.start(None, words=[*TRAIN, "--cluster_timeout=33"], only=[there])

    for there, each in clusters.items():
        assert each.ends(70) == [1], each
        *_, waiting, error = own_lines(each.tasks[there].err)
        assert waiting.startswith(f"warning: waiting for {each.name(1 - there)} (30 s)")
        assert error.startswith(f"error: {each.name(1 - there)} did not join within 33 s")


FAULTS = {
    "model_fn": (1, "this model is broken"),
    "data": (1, "the disk of this task is broken"),
    "callback": (0, "this callback is broken"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_error_in_one_task_is_told_by_the_other(fault, cluster):
    index, words = FAULTS[fault]
    cluster.start(lost_runs.trained, fault)

    codes = cluster.ends(40)
    assert codes[index] == 1
    assert f"ValueError: {words}" in cluster.tasks[index].out
    assert codes[1 - index] == 0, cluster
    told = cluster.tasks[1 - index].result()["lost"]
    assert f"{cluster.name(index)} stopped with an error" in told
    assert words in told


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_an_error_in_the_data_of_one_task_is_told_by_the_other(verb, cluster):
    cluster.start(lost_runs.used, verb)

    assert cluster.ends(40) == [0, 1], cluster
    assert "ValueError: the disk of this task is broken" in cluster.tasks[1].out
    told = cluster.tasks[0].result()["lost"]
    assert f"{cluster.name(1)} stopped with an error: the disk of this task is broken" in told
