"""keras.applications train on one device and on two replicas as a loop written by hand does."""

import json

import pytest

from tests import harness
from tests.equivalence import applications

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("applications")
    names = list(applications.APPLICATIONS)
    return harness.call(applications.run, folder, names, timeout=900)


@pytest.mark.parametrize("name", applications.APPLICATIONS)
def test_two_steps_are_those_of_a_loop_and_a_new_head_and_adapters_are_trained(name, figures):
    found, told = figures[name], json.dumps(figures[name])
    assert found["one"] <= 1e-7, told
    assert found["two"] <= 1e-7, told
    assert found["moved"] >= 1e-4, told
    assert found["one_loss"] <= 1e-6, told
    assert found["two_loss"] <= 1e-6, told
    assert found["loaded"] <= 1e-6, told
    assert found["head"] <= 1e-6 + 1e-5 * found["head_moved"], told
    assert found["head_moved"] >= 1e-4, told
    assert found["frozen"] == 0, told
    assert found["gone"] == [applications.APPLICATIONS[name].classifier], told
    if applications.APPLICATIONS[name].adapters:
        assert found["adapters"] > 0, told
        assert found["adapters_moved"] > 0, told
        assert found["adapters_frozen"] == 0, told
        assert found["merged"] <= 1e-5, told
