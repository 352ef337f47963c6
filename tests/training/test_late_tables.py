"""Tables of a checkpoint that are written while training goes on."""

import os
import shutil
import threading

import numpy as np
import pytest
import tensorflow as tf

from tfbig.errors import CheckpointError
from tfbig.layers.sharded_tables import Shard, mark_shard
from tfbig.placement.parameter_server.late_tables import LateTables
from tfbig.training.checkpoints.checkpoints import Checkpoints

ROWS, WIDTH, SHARDS = 7, 3, 2


def variables(value: float) -> dict[str, tf.Variable]:
    made = {"model/kernel": tf.Variable(tf.fill([4], float(value)))}
    table = object()
    for i in range(SHARDS):
        rows = -(-(ROWS - i) // SHARDS)
        made[f"model/table_{i}"] = tf.Variable(tf.fill([rows, WIDTH], float(value + i)))
        mark_shard(made[f"model/table_{i}"], Shard(table, i, SHARDS, ROWS))
    return made


class Held(LateTables):
    """Writes only when it is let."""

    def __init__(self, consistent: bool):
        super().__init__(consistent)
        self.let, self.begun = threading.Event(), threading.Event()

    def write(self, folder, tensors):
        self.begun.set()
        assert self.let.wait(20)
        return super().write(folder, tensors)


def checkpoints_in(tmp_path, late: LateTables) -> Checkpoints:
    checkpoints = Checkpoints(str(tmp_path), keep=2, late=late)
    checkpoints.make_writable()
    return checkpoints


def values_in(checkpoints: Checkpoints) -> tuple[int, dict[str, np.ndarray]]:
    into = variables(0)
    restored = checkpoints.restore(into, lambda metadata: {})
    return restored.step, {name: variable.numpy() for name, variable in into.items()}


def add_to(saved: dict[str, tf.Variable], number: int) -> None:
    for variable in saved.values():
        variable.assign_add(tf.fill(variable.shape, float(number)))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("consistent", [False, True])
def test_training_goes_on_while_tables_are_written(tmp_path, consistent, named):
    late = Held(consistent)
    checkpoints = checkpoints_in(tmp_path, late)
    saved = variables(5)
    checkpoints.save(20, saved, {}, {}, {}, named=named)
    assert late.busy
    assert not checkpoints.completed_saves()
    assert not checkpoints.steps()
    add_to(saved, 100)
    late.let.set()

    path = os.path.join(checkpoints.directory, "ckpt-00000020")
    assert checkpoints.completed_saves(wait=True) == [(20, path)]
    step, found = values_in(checkpoints)
    later = 0 if consistent else 100  # of a row that is read when its turn comes
    assert step == 20
    np.testing.assert_array_equal(found["model/kernel"], np.full([4], 5))
    np.testing.assert_array_equal(found["model/table_0"], np.full([4, WIDTH], 5 + later))
    np.testing.assert_array_equal(found["model/table_1"], np.full([3, WIDTH], 6 + later))
    assert sorted(os.listdir(path))[:2] == ["arrays.npz", "metadata.json"]
    assert not any(name.startswith(("late", "parts")) for name in os.listdir(path))


def test_the_next_checkpoint_waits_for_the_one_before(tmp_path):
    late = Held(True)
    checkpoints = checkpoints_in(tmp_path, late)
    saved = variables(5)
    checkpoints.save(20, saved, {}, {}, {})
    add_to(saved, 1)
    threading.Timer(0.2, late.let.set).start()
    checkpoints.save(40, saved, {}, {}, {})

    assert [step for step, _ in checkpoints.completed_saves(wait=True)] == [20, 40]
    step, found = values_in(checkpoints)
    assert (step, found["model/table_1"][0, 0]) == (40, 7)


def test_tables_that_cannot_be_written_are_told_and_leave_the_one_before(tmp_path):
    late = Held(False)
    checkpoints = checkpoints_in(tmp_path, late)
    late.let.set()
    checkpoints.save(20, variables(5), {}, {}, {})
    assert [step for step, _ in checkpoints.completed_saves(wait=True)] == [20]

    for event in (late.let, late.begun):
        event.clear()
    checkpoints.save(40, variables(6), {}, {}, {})
    assert late.begun.wait(20)
    [temporary] = [n for n in os.listdir(checkpoints.directory) if n.startswith(".tmp-")]
    shutil.rmtree(os.path.join(checkpoints.directory, temporary))
    with open(os.path.join(checkpoints.directory, temporary), "w"):  # a file where a folder was
        late.let.set()
        with pytest.raises(CheckpointError, match="the checkpoint of step 40 cannot be written"):
            checkpoints.completed_saves(wait=True)
    assert checkpoints.steps() == [20]
    assert values_in(checkpoints)[0] == 20


def test_a_run_that_fails_gives_what_is_being_written_its_time(tmp_path, caplog):
    late = Held(True)
    checkpoints = checkpoints_in(tmp_path, late)
    checkpoints.save(20, variables(5), {}, {}, {})
    checkpoints.abandon(0.05)
    assert not checkpoints.steps()
    assert late.busy

    late.let.set()
    checkpoints.abandon(20)
    assert checkpoints.steps() == [20]
    assert not late.busy
