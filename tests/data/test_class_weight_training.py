"""What class weights make of the loss: the same as a hand-written step, wherever it runs."""

import pytest

from tests.data import class_weight_runs


@pytest.mark.slow
def test_training_with_class_weights_is_the_hand_written_step(in_process):
    found = in_process(class_weight_runs.compare_all)
    assert len(found) == 4
    for placement, differences in found.items():
        assert max(differences.values()) < 1e-6, (placement, differences)
