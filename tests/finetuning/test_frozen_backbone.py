"""A tuned model with frozen layers inside a Model subclass can be used wherever it was tuned."""

import numpy as np
import pytest

from tests.finetuning import frozen_runs


@pytest.mark.slow
def test_a_frozen_subclassed_backbone_is_tuned_evaluated_and_predicted_everywhere(in_process):
    found = in_process(frozen_runs.tune_and_use)
    count = len(found["before"])
    assert found["trained"] == [[count - 2, count - 1]] * 2  # the new head, on replicas too
    one, two = found["weights"]
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    for ours, before in zip(two[:-2], found["before"][:-2], strict=True):
        np.testing.assert_array_equal(ours, before)  # with its moving statistics
    np.testing.assert_allclose(found["losses"], found["losses"][0], rtol=1e-5)
    for outputs in found["outputs"]:
        np.testing.assert_allclose(outputs, found["outputs"][0], atol=1e-6)
