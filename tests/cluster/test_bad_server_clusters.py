"""Clusters with ps that cannot work, and what cannot be trained there: each a clear error."""

import json
import socket

import pytest

from tests import harness, nursery
from tests.cluster import bad_server_runs as runs
from tfbig.errors import UserError
from tfbig.placement.strategies import find_role

pytestmark = pytest.mark.slow  # processes take their time


@pytest.mark.parametrize("missing", ["worker", "ps", "chief"])
def test_a_cluster_without_one_of_the_jobs(missing, monkeypatch):
    jobs = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"], "ps": ["127.0.0.1:3"]}
    del jobs[missing]
    task = {"type": "worker" if missing == "chief" else "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))

    with pytest.raises(UserError, match=f"has no {missing}") as caught:
        find_role("parameter_server")
    assert "tfbig launch --workers=2 --ps=1" in str(caught.value)


def test_a_ps_that_never_comes_is_named(tmp_path):
    addresses = harness.free_addresses(3)
    jobs = dict(zip(("chief", "worker", "ps"), ([a] for a in addresses), strict=True))
    text = json.dumps({"cluster": jobs, "task": {"type": "chief", "index": 0}})
    chief = nursery.start(runs.train, tmp_path / "chief", ["plain"], TF_CONFIG=text,
                          TFBIG_CLUSTER_TIMEOUT="2")  # fmt: skip
    assert chief.ended(60)
    assert chief.code == 1
    assert f"ps 0 at {jobs['ps'][0]}" in chief.out
    assert "did not come within 2 s" in chief.out


def test_a_port_in_use_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        jobs = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"]}
        jobs["ps"] = [f"127.0.0.1:{taken.getsockname()[1]}"]
        text = json.dumps({"cluster": jobs, "task": {"type": "ps", "index": 0}})
        ps = nursery.start(runs.train, tmp_path / "ps", ["plain"], TF_CONFIG=text)
        assert ps.ended(60)
    assert ps.code == 1
    assert "is in use (by another process)" in ps.out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("model", "pass a function that builds the model, not a model"),
        ("accumulates", "accumulation_steps"),
        ("synchronized", "synchronized=True"),
        ("owner", 'model_distribution="owner"'),
        ("jit", "jit_compile=True"),
        ("uneven", "end at different steps: at step 4 only some of them have a batch"),
        ("broken data", "the data cannot be read: worker 0: the disk of this task is broken"),
    ],
)
def test_what_cannot_be_trained_is_said_and_all_tasks_end(kind, expected, tmp_path):
    with pytest.raises(harness.ProcessFailed) as caught:
        harness.call_parameter_server(
            runs.train, tmp_path, kind, workers=2, timeout=90, TFBIG_PEER_PATIENCE="3"
        )
    assert "chief: exit code 1" in str(caught.value)
    assert expected in str(caught.value)
