"""Tasks that do not go together say so, all of them and at once, before anything is trained.

These tests guard compute_initial_values_locally and runtime_has_started of tfbig._private_api.
"""

import json
import os
import socket

import pytest

from tests import harness
from tests.cluster import bad_runs

pytestmark = pytest.mark.slow  # processes take their time

# By case, the task that the message names (None: none) and words of it.
DIFFERENCES = {
    "config": ["RunConfig.log_step_count_steps: 5, the chief has 6"],
    "max_steps": ["max_steps: 8, the chief has 9"],
    "length": ["input_fn: batches of 16, 5 a pass", "the chief has batches of 16, 4 a pass"],
    "batch_size": ["input_fn: batches of 8, 8 a pass", "batches of 16, 4 a pass"],
    "held-out data": ["eval_input_fn: batches of 16, 5 a pass", "4 a pass"],
    "layer": ["model: ", "differs from the chief"],
    "width": ["model: ", "float32[3, 5]", "float32[3, 4]"],
    "learning_rate": ["optimizer: ", "0.2", "0.1"],
    "ends earlier": ["the tasks' data do not end at the same place", "0 for worker 1", "input_fn"],
}


def one_line(result: dict, kind: str = "UserError") -> str:
    """The message, which is one line and of the expected kind."""
    assert result.get("error") == kind, result
    assert "\n" not in result["text"]
    return result["text"]


@pytest.mark.parametrize("case", DIFFERENCES)
def test_what_differs_between_the_tasks_is_named_on_all_of_them(case, cluster):
    results = cluster.start(bad_runs.trained, case).results(30)

    first, second = map(one_line, results)
    assert first == second
    assert cluster.name(1) in first
    for words in DIFFERENCES[case]:
        assert words in first


def test_an_error_in_the_input_fn_of_one_task_is_told_by_the_others(cluster):
    chief, worker = cluster.start(bad_runs.trained, "input_fn").results(30)

    assert worker == {"error": "ValueError", "text": "this task's data are broken"}
    text = one_line(chief, "PeerLost")
    assert cluster.name(1) in text
    assert "this task's data are broken" in text


def test_a_nan_in_one_tasks_share_of_held_out_data_is_named_by_all(cluster):
    for result in cluster.start(bad_runs.trained, "held-out NaN").results(40):
        assert one_line(result) == (
            "batch 2 of eval_input_fn: features has NaN in example 12 of the batch; repair or "
            "leave out such examples in eval_input_fn."
        )


def test_a_third_task_hears_of_an_error_too(cluster):
    chief, worker, third = cluster.start(bad_runs.trained, "input_fn", workers=3).results(40)

    assert worker["error"] == "ValueError"
    for result in (chief, third):
        text = one_line(result, "PeerLost")
        assert cluster.name(1) in text
        assert "this task's data are broken" in text


def test_devices_go_with_no_cluster(cluster):
    for result in cluster.start(bad_runs.trained, "devices").results(30):
        assert "devices=2" in one_line(result)
        assert "leave devices out" in result["text"]


def test_a_strategy_of_the_users_own_is_refused(cluster):
    # Of one task, as TensorFlow's own would wait for the others.
    config = json.dumps({"cluster": {"worker": harness.free_addresses(1)},
                         "task": {"type": "worker", "index": 0}})  # fmt: skip
    [result] = cluster.start(bad_runs.adopted, workers=1, configs=[config]).results(30)

    assert "MultiWorkerMirroredStrategy" in one_line(result)
    assert 'pass strategy="multi_worker"' in result["text"]


@pytest.mark.parametrize("index", [0, 1])
def test_tensorflow_that_was_started_before_in_one_task_is_told_by_all(index, cluster):
    for result in cluster.start(bad_runs.used_before, [index]).results(30):
        text = one_line(result)
        assert (
            f"TensorFlow has started before the cluster was joined (in {cluster.name(index)})"
            in text
        )


def test_multi_worker_needs_a_cluster(tmp_path):
    result = harness.call(
        bad_runs.trained, tmp_path, None, "multi_worker", timeout=60, TF_CONFIG=""
    )

    assert 'strategy="multi_worker", but no cluster is described' in one_line(result)


def of(cluster: dict, kind: str = "worker", index: int = 0) -> str:
    return json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})


BAD_CONFIGS = {
    "no JSON": ("{worker: a}", "TF_CONFIG is not JSON"),
    "index": (of({"worker": ["a:1", "b:1"]}, index=2), "worker 2, but the cluster lists 2 workers"),
    "ps": (of({"worker": ["a:1", "b:1"], "ps": ["c:1"]}), "1 ps (ps 0 at c:1)"),
    "evaluator": (
        of({"worker": ["a:1", "b:1"], "evaluator": ["c:1"]}),
        'an evaluator does not belong in "cluster"',
    ),
    "one address": (of({"worker": ["a:1", "a:1"]}), "worker 0 and worker 1 have the same address"),
}


def all_configs(configs: dict[str, str]) -> dict:
    """Tries each TF_CONFIG; none of them gets as far as a cluster."""
    results = {}
    for name, text in configs.items():
        os.environ["TF_CONFIG"] = text
        results[name] = bad_runs.trained(strategy="multi_worker")
    return results


def test_a_tf_config_that_cannot_be_meant_is_refused_at_once(tmp_path):
    texts = {name: text for name, (text, _) in BAD_CONFIGS.items()}
    results = harness.call(all_configs, tmp_path, texts, timeout=60)

    for name, (_, words) in BAD_CONFIGS.items():
        assert words in one_line(results[name]), name


def test_two_tasks_with_one_index_are_refused_together(cluster):
    addresses = harness.free_addresses(3)
    configs = harness.tf_configs(addresses)
    cluster.start(bad_runs.trained, workers=3, configs=[configs[0], configs[1], configs[1]])

    for result in cluster.results(30):
        text = one_line(result)
        assert "two tasks claim to be worker 1" in text
        assert f"pid {cluster.tasks[1].pid}" in text
        assert f"pid {cluster.tasks[2].pid}" in text


def test_two_tasks_with_the_chiefs_index_do_not_wait_for_each_other(cluster):
    addresses = harness.free_addresses(2)
    config = harness.tf_configs(addresses)[0]
    cluster.start(bad_runs.trained, configs=[config, config], TFBIG_CLUSTER_TIMEOUT="4")

    errors = sorted((r["error"], r["text"]) for r in cluster.results(30))
    assert [kind for kind, _ in errors] == ["PeerLost", "UserError"]
    assert f"worker 1 at {addresses[1]} did not join within 4 s" in errors[0][1]
    assert f"port {addresses[0].split(':')[1]} is in use" in errors[1][1]


@pytest.mark.parametrize("index", [0, 1])
def test_a_port_in_use_is_told_by_its_task_and_the_other_names_who_is_missing(index, cluster):
    addresses = harness.free_addresses(2)
    port = int(addresses[index].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        cluster.start(
            bad_runs.trained, configs=harness.tf_configs(addresses), TFBIG_CLUSTER_TIMEOUT="4"
        )
        results = cluster.results(30)

    assert f"port {port} is in use" in one_line(results[index])
    name = ("the chief" if index == 0 else "worker 1") + f" at {addresses[index]}"
    assert f"{name} did not join within 4 s" in one_line(results[1 - index], "PeerLost")


def test_callbacks_that_only_the_chief_has_are_no_difference(cluster, tmp_path):
    chief, worker = cluster.start(bad_runs.with_callbacks, str(tmp_path / "board")).results(60)

    assert chief == worker
    assert chief["step"] == 8
    assert any(name.is_dir() for name in (tmp_path / "board").iterdir())
