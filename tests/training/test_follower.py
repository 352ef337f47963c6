"""The evaluator's work: which checkpoints it evaluates, and which it keeps as the best."""

import json
import os

import pytest
import tensorflow as tf

from tfbig.errors import PeerLost
from tfbig.placement.control.peers import Peers
from tfbig.training.checkpoints.checkpoints import Checkpoints
from tfbig.training.evaluation import follower
from tfbig.training.evaluation.follower import Follower
from tfbig.training.evaluation.found_elsewhere import Evaluations


class Follows(Peers):
    """A task that is not the chief."""

    index = 1


class Chief:
    """Saves the next checkpoint whenever the evaluator looks for it."""

    has_left = False

    def __init__(self, model_dir, losses: dict, keep: int = 9):
        self._left = list(losses.items())
        self.checkpoints = Checkpoints(str(model_dir), keep=keep)
        self.checkpoints.make_writable()

    def check(self):
        if not self._left:
            raise PeerLost("the chief is gone")
        step, loss = self._left.pop(0)
        metadata = {"loop": {"ended": None if self._left else "finished"}}
        self.checkpoints.save(step, {"model/loss": tf.Variable(loss)}, {}, metadata, {})
        self.checkpoints.completed_saves()
        self.saved(step)

    def saved(self, step):
        """For tests to do something to it."""


def follow(chief: Chief):
    variable = tf.Variable(0.0)
    evaluate = lambda: {"loss": float(variable.numpy())}  # noqa: E731
    checkpoints = Checkpoints(chief.checkpoints.model_dir, keep=9, peers=Follows())
    return Follower(checkpoints, {"model/loss": variable}, None, evaluate, chief).run()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(follower, "_CHECK_EVERY", 0.0)


def best(folder) -> dict:
    return json.loads((folder / "best" / "best.json").read_text())


def test_every_checkpoint_is_evaluated_and_the_one_of_the_smallest_loss_kept(tmp_path):
    losses = {10: 0.5, 20: 0.25, 30: float("nan"), 40: 0.75}
    result = follow(Chief(tmp_path, losses))
    assert (result.global_step, result.metrics) == (40, {"loss": 0.75})
    assert [step for step, _ in Evaluations(str(tmp_path)).read()] == [10, 20, 30, 40]
    assert best(tmp_path) == {"step": 20, "metrics": {"loss": 0.25}}
    assert os.listdir(tmp_path / "best" / "checkpoints") == ["ckpt-00000020"]


def test_what_is_not_a_number_is_never_the_best(tmp_path):
    follow(Chief(tmp_path, {10: float("nan"), 20: float("nan")}))
    assert not (tmp_path / "best").exists()


def test_an_evaluator_that_is_started_again_goes_by_what_was_kept(tmp_path):
    follow(Chief(tmp_path, {10: 0.25}))
    os.rename(tmp_path / "best", tmp_path / "best.before")  # killed between two renames
    Evaluations(str(tmp_path)).add(15, {"loss": 0.125})  # evaluated, and never kept
    follow(Chief(tmp_path, {20: 0.2, 30: 0.22}))
    assert best(tmp_path) == {"step": 20, "metrics": {"loss": pytest.approx(0.2)}}
    assert not (tmp_path / "best.before").exists()


def test_a_damaged_checkpoint_is_passed_over_once(tmp_path):
    chief = Chief(tmp_path, {10: 0.5, 20: 0.25, 30: 0.125})

    def damage(step):
        if step == 20:
            os.remove(os.path.join(chief.checkpoints.directory, "ckpt-00000020", "state.index"))

    chief.saved = damage
    result = follow(chief)
    assert result.global_step == 30
    assert [step for step, _ in Evaluations(str(tmp_path)).read()] == [10, 30]


def test_a_checkpoint_that_is_removed_while_it_is_read_is_none_of_the_evaluators_business(
    tmp_path, monkeypatch
):
    chief = Chief(tmp_path, {10: 0.5, 20: 0.25}, keep=1)
    restore = Checkpoints.restore

    def restore_slowly(self, *arguments):
        if self.steps() == [10]:  # the chief saves the next, and removes this one
            os.remove(os.path.join(self.directory, "ckpt-00000010", "state.index"))
            try:
                return restore(self, *arguments)
            finally:
                chief.check()
        return restore(self, *arguments)

    monkeypatch.setattr(Checkpoints, "restore", restore_slowly)
    assert follow(chief).metrics == {"loss": 0.25}
    assert [step for step, _ in Evaluations(str(tmp_path)).read()] == [20]
