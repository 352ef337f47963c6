"""model_fns of estimator style under owner_full and owner_gradients."""

import numpy as np
import pytest

from tests.placement import divided_model_fns

pytestmark = pytest.mark.slow


def test_weights_are_read_in_conditions_penalties_and_functional_models(in_process):
    for name, found in in_process(divided_model_fns.losses).items():
        plain = found.pop("replicated")
        assert plain > 0.1
        for loss in found.values():
            assert loss == pytest.approx(plain, rel=1e-6), name


def test_an_estimator_evaluates_predicts_and_goes_on_with_each_distribution(in_process, tmp_path):
    found = in_process(divided_model_fns.estimators, str(tmp_path), timeout=200)
    plain = np.array(found.pop("replicated"))
    assert plain[0, 0] > 1.05 * plain[2, 0] > 0
    for values in found.values():
        np.testing.assert_allclose(values, plain, atol=1e-5)


def test_what_would_lose_a_gradient_is_refused(in_process):
    found = in_process(divided_model_fns.refusals)
    assert "creates the weight 'weight' with tf.Variable or get_var" in found["plain_variable"]
    lost = "reads the weight 'layer/kernel' inside of tf.recompute_grad"
    assert lost in found["recomputed"]
    assert lost in found["rematerialized"]
    assert "assigns to the weight 'layer/kernel', which replicas divide" in found["assigning"]
    assert all('write model_distribution="owner"' in text for text in found.values())


def test_replicas_do_not_wait_for_the_assertions_of_others(in_process):
    found = in_process(divided_model_fns.checked_losses)
    plain = found.pop("replicated")
    for loss in found.values():
        assert loss == pytest.approx(plain, rel=1e-6)
