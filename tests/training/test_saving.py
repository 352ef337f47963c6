"""When checkpoints are written while an earlier one still is."""

import types

from tfbig.training.checkpoints.saving import Saving


class Slow:
    """Checkpoints that are written until `busy` is set to False."""

    directory = "somewhere"

    def __init__(self):
        self.busy, self.steps, self.reported = False, [], []

    def save(self, step, *arguments, named):
        self.steps.append(step)
        self.busy = True

    def completed_saves(self, wait=False):
        new = [] if self.busy else [(s, f"ckpt-{s}") for s in self.steps if s not in self.reported]
        self.reported += [step for step, _ in new]
        return new


def saving_to(checkpoints: Slow) -> Saving:
    program = types.SimpleNamespace(named_variables=dict, saves_by_name=False)
    feed = types.SimpleNamespace(trackables=dict, position=dict)
    callbacks = types.SimpleNamespace(
        saving=lambda step: None,
        state=lambda: ({}, {}),
        saved=lambda: None,
        checkpoint=lambda step, path: None,
    )
    return Saving(checkpoints, program, feed, callbacks, keep={}, state=dict, unsaved=True)


def test_what_is_due_while_another_is_written_is_saved_once_that_is_there():
    checkpoints = Slow()
    saving = saving_to(checkpoints)
    saving.save_when_free(10)
    saving.unsaved = True  # a step
    saving.save_when_free(11)
    saving.poll(11)
    assert checkpoints.steps == [10]
    checkpoints.busy = False
    saving.poll(12)
    assert (checkpoints.steps, checkpoints.reported) == ([10, 12], [10])


def test_a_step_that_is_being_written_is_not_due_once_more():
    checkpoints = Slow()
    saving = saving_to(checkpoints)
    saving.save_when_free(10)  # as an evaluation is due
    saving.save_when_free(10)  # and a checkpoint
    saving.unsaved, checkpoints.busy = True, False  # a step, and it is there
    saving.poll(11)
    assert checkpoints.steps == [10]
