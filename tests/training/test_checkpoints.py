"""Checkpoints: what is kept, what is skipped when it is damaged, and what is refused."""

import json
import logging
import os
import re
import resource
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.training.small_runs import files_below
from tfbig.errors import CheckpointError, UserError
from tfbig.training.checkpoints.checkpoints import Checkpoints


def variables(value: float, size: int = 6) -> dict[str, tf.Variable]:
    return {
        "model/kernel": tf.Variable(tf.fill([size], float(value))),
        "optimizer/iterations": tf.Variable(int(value), dtype=tf.int64),
    }


def save(checkpoints: Checkpoints, step: int, size: int = 6) -> str:
    """Saves a state in which everything tells the step."""
    checkpoints.make_writable()
    arrays = {"EarlyStopping#0.best_weights.0": np.full([2, 3], step, np.float32)}
    checkpoints.save(step, variables(step, size), {}, {"seed": step}, arrays)
    [(saved_step, path)] = checkpoints.completed_saves()
    assert saved_step == step
    return path


def restore(checkpoints: Checkpoints, size: int = 6):
    """Returns what was restored, and the variables' values."""
    into = variables(0, size)
    restored = checkpoints.restore(into, lambda metadata: {})
    return restored, [variable.numpy() for variable in into.values()]


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path / "run"), keep=3)


def test_a_checkpoint_gives_back_variables_metadata_and_arrays(checkpoints):
    path = save(checkpoints, 40)
    restored, (kernel, iterations) = restore(checkpoints)
    assert (restored.step, restored.path) == (40, path)
    assert restored.metadata["seed"] == 40
    np.testing.assert_array_equal(kernel, np.full([6], 40, np.float32))
    assert iterations == 40
    np.testing.assert_array_equal(
        restored.arrays["EarlyStopping#0.best_weights.0"], np.full([2, 3], 40, np.float32)
    )


def test_other_trackables_are_saved_and_restored_too(checkpoints):
    checkpoints.make_writable()
    iterator = iter(tf.data.Dataset.range(100))
    for _ in range(7):
        next(iterator)
    checkpoints.save(7, variables(7), {"iterator": iterator}, {}, {})
    again = iter(tf.data.Dataset.range(100))
    checkpoints.restore(variables(0), lambda metadata: {"iterator": again})
    assert next(again).numpy() == 7


def test_the_last_n_are_kept(checkpoints):
    for step in (10, 20, 30, 40, 50):
        save(checkpoints, step)
    assert checkpoints.steps() == [30, 40, 50]
    assert sorted(os.listdir(checkpoints.directory)) == [
        "ckpt-00000030", "ckpt-00000040", "ckpt-00000050"
    ]  # fmt: skip


def test_the_same_step_can_be_saved_again(checkpoints):
    save(checkpoints, 10)
    checkpoints.save(10, variables(11), {}, {"seed": 11}, {})
    restored, (kernel, _) = restore(checkpoints)
    assert (restored.step, restored.metadata["seed"], kernel[0]) == (10, 11, 11)
    assert os.listdir(checkpoints.directory) == ["ckpt-00000010"]


def test_a_kill_while_a_step_is_saved_again_leaves_one_of_the_two(checkpoints, monkeypatch):
    save(checkpoints, 10)
    rename, renamed = os.rename, []

    def killed_at_the_second(old, new):
        renamed.append(new)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        rename(old, new)

    monkeypatch.setattr(os, "rename", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(10, variables(11), {}, {"seed": 11}, {})
    monkeypatch.undo()
    checkpoints.clear_up()
    restored, (kernel, _) = restore(checkpoints)
    assert (restored.step, restored.metadata["seed"], kernel[0]) == (10, 10, 10)
    assert os.listdir(checkpoints.directory) == ["ckpt-00000010"]


def test_what_a_killed_process_left_is_cleared_by_the_next(checkpoints):
    save(checkpoints, 10)
    left = os.path.join(checkpoints.directory, ".tmp-1-20")
    shutil.copytree(os.path.join(checkpoints.directory, "ckpt-00000010"), left)
    checkpoints.clear_up()
    assert os.listdir(checkpoints.directory) == ["ckpt-00000010"]


def test_nothing_is_restored_where_nothing_is(checkpoints):
    assert restore(checkpoints)[0] is None
    assert not os.path.exists(os.path.dirname(checkpoints.directory))


def test_without_a_model_dir_nothing_is_kept():
    checkpoints = Checkpoints(None, keep=3)
    checkpoints.make_writable()
    assert checkpoints.steps() == []
    assert restore(checkpoints)[0] is None


def cut(path: str, share: float) -> None:
    with open(path, "r+b") as file:
        file.truncate(int(os.path.getsize(path) * share))


def flip(path: str) -> None:
    """Turns one bit in the middle of a file."""
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


FILES = ("metadata.json", "arrays.npz", "state.index", "state.data-00000-of-00001")
DAMAGE = {
    **{f"{name}, cut to {share:.0%}": (name, share) for name in FILES for share in (0, 0.6)},
    **{f"{name}, missing": (name, None) for name in FILES},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(checkpoints, caplog, damage):
    save(checkpoints, 10, size=100)
    newest = save(checkpoints, 20, size=100)
    name, share = DAMAGE[damage]
    path = os.path.join(newest, name)
    os.remove(path) if share is None else cut(path, share)
    with caplog.at_level(logging.WARNING, "tfbig"):
        restored, (kernel, iterations) = restore(checkpoints, size=100)
    assert restored.step == 10
    np.testing.assert_array_equal(kernel, np.full([100], 10, np.float32))
    assert iterations == 10
    assert restored.arrays["EarlyStopping#0.best_weights.0"][0, 0] == 10
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{newest} is damaged and is skipped: ")
    assert "\n" not in warnings[0]


@pytest.mark.parametrize("name", ["arrays.npz", "state.data-00000-of-00001"])
def test_a_bit_that_has_turned_is_seen(checkpoints, name):
    save(checkpoints, 10, size=1000)
    checkpoints.save(
        20, variables(20, 1000), {}, {"seed": 0}, {"EarlyStopping#0.best": np.ones([1000])}
    )
    flip(os.path.join(checkpoints.directory, "ckpt-00000020", name))
    assert restore(checkpoints, size=1000)[0].step == 10


def test_when_all_are_damaged_nothing_is_trained_anew(checkpoints):
    for step in (10, 20):
        cut(os.path.join(save(checkpoints, step), "state.data-00000-of-00001"), 0.5)
    with pytest.raises(
        CheckpointError,
        match=rf"every checkpoint in {re.escape(checkpoints.directory)} is damaged "
        r"\(ckpt-00000020, ckpt-00000010\); give another model_dir",
    ):
        restore(checkpoints)


def test_another_models_checkpoint_is_refused_with_the_variables_that_differ(checkpoints):
    path = save(checkpoints, 10)
    other = {
        "model/kernel": tf.Variable(tf.zeros([6, 2])),
        "model/bias": tf.Variable(tf.zeros([2], tf.bfloat16)),
    }
    with pytest.raises(CheckpointError) as raised:
        checkpoints.restore(other, lambda metadata: {})
    assert str(raised.value) == (
        f"{path} belongs to another model: model/bias is absent there and bfloat16[2] here; "
        "model/kernel is float32[6] there and float32[6, 2] here; optimizer/iterations is "
        "int64[] there and absent here. Give another model_dir, or the model that it was "
        "trained with."
    )


def test_a_long_list_of_differing_variables_is_cut(checkpoints):
    save(checkpoints, 10)
    many = {f"model/{i:02d}": tf.Variable(0.0) for i in range(20)}
    with pytest.raises(CheckpointError, match=r"model/07 .* here; and 14 more\. Give another"):
        checkpoints.restore(many, lambda metadata: {})


def test_a_newer_format_is_refused(checkpoints):
    path = os.path.join(save(checkpoints, 10), "metadata.json")
    with open(path) as file:
        metadata = json.load(file)
    with open(path, "w") as file:
        json.dump({**metadata, "format": 99}, file)
    with pytest.raises(CheckpointError, match=r"newer tfbig \(format 99, this one reads 3\)"):
        restore(checkpoints)


def test_a_directory_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    folder = str(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=rf"model_dir='{re.escape(folder)}' cannot be written: Not"):
        Checkpoints(folder, keep=1).make_writable()


def assert_refused_and_the_previous_survives(checkpoints) -> None:
    """What a save that did not fit has to leave."""
    before = files_below(checkpoints.directory)
    with pytest.raises(CheckpointError) as raised:
        save(checkpoints, 20, size=100_000)
    message = str(raised.value)
    assert message.startswith(
        f"the checkpoint of step 20 cannot be written to {checkpoints.directory}: "
    )
    assert "the checkpoint of step 10 is untouched. Free space there" in message
    assert "\n" not in message
    assert files_below(checkpoints.directory) == before
    restored, (kernel, _) = restore(checkpoints)
    assert (restored.step, kernel[0]) == (10, 10)


def test_a_file_that_may_not_grow_leaves_the_previous_checkpoint(checkpoints):
    save(checkpoints, 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        assert_refused_and_the_previous_survives(checkpoints)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of 128 KiB, where it can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=10)


def test_a_full_disk_leaves_the_previous_checkpoint(small_disk):
    checkpoints = Checkpoints(str(small_disk / "run"), keep=3)
    save(checkpoints, 10)
    assert_refused_and_the_previous_survives(checkpoints)
