"""RunConfig: defaults, errors that name a wrong value, and what it says of the cluster."""

import copy
import dataclasses
import json
import pathlib
import re

import pytest
import tensorflow as tf
from ml_collections import ConfigDict

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError
from tfbig.run_config import MODEL_DISTRIBUTIONS, RunConfig, run_config_from


def test_the_defaults_are_those_of_the_public_page():
    assert dataclasses.asdict(RunConfig()) == {
        "data_distribution": "auto",
        "model_distribution": "replicated",
        "gradient_aggregation": "mean",
        "accumulation_steps": 1,
        "precision": "float32",
        "jit_compile": "auto",
        "remat": False,
        "prefetched_blocks": 1,
        "whole_model_bytes": None,
        "steps_per_loop": "auto",
        "max_staleness": None,
        "save_checkpoints_steps": None,
        "save_checkpoints_secs": 600.0,
        "keep_checkpoint_max": 5,
        "eval_every_steps": None,
        "log_step_count_steps": 100,
        "save_summary_steps": 100,
        "tf_random_seed": None,
        "model_dir": None,
    }
    assert tfbig.RunConfig is RunConfig


@pytest.mark.parametrize(
    "fields",
    [
        dict(data_distribution="random", gradient_aggregation="sum", accumulation_steps=3),
        dict(precision="mixed_bfloat16", jit_compile=True, steps_per_loop=7, remat=True),
        dict(precision="mixed_float16", jit_compile=False, steps_per_loop="auto"),
        dict(save_checkpoints_secs=0.5, eval_every_steps=10, tf_random_seed=0),
        dict(save_checkpoints_steps=5, save_checkpoints_secs=60, tf_random_seed=2**31 - 1),
    ],
)
def test_every_value_that_is_built_is_kept(fields):
    config = RunConfig(**fields)
    assert {name: getattr(config, name) for name in fields} == fields


def test_checkpoints_by_steps_are_not_also_by_time():
    assert RunConfig(save_checkpoints_steps=100).save_checkpoints_secs is None


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("session_config", "devices="),
        ("train_distribute", 'tfbig.Estimator(…, strategy="mirrored")'),
        ("master", 'strategy="multi_worker" and TF_CONFIG'),
        ("keep_checkpoint_every_n_hours", "keep_checkpoint_max"),
    ],
)
def test_what_tf_estimators_config_had_besides_is_refused_with_what_to_use(name, instead):
    with pytest.raises(UserError, match=re.escape(f"RunConfig({name}=…)")) as error:
        RunConfig(**{name: 1})
    assert instead in str(error.value)


def test_replace_copies_with_other_values():
    config = RunConfig(accumulation_steps=2).replace(save_checkpoints_steps=5)
    assert (config.accumulation_steps, config.save_checkpoints_steps) == (2, 5)
    assert copy.deepcopy(config) == config


def test_replace_with_steps_between_checkpoints_clears_the_seconds_and_the_reverse():
    by_time = RunConfig()
    by_steps = by_time.replace(save_checkpoints_steps=5)
    assert (by_steps.save_checkpoints_steps, by_steps.save_checkpoints_secs) == (5, None)
    by_time_again = by_steps.replace(save_checkpoints_secs=30.0)
    assert (by_time_again.save_checkpoints_steps, by_time_again.save_checkpoints_secs) == (None, 30)
    both = by_time.replace(save_checkpoints_steps=5, save_checkpoints_secs=30.0)
    assert (both.save_checkpoints_steps, both.save_checkpoints_secs) == (5, 30.0)
    assert by_time.save_checkpoints_secs == 600.0


def test_replace_refuses_unknown_fields_and_invalid_values():
    with pytest.raises(UserError, match="^unknown RunConfig field 'steps'; the fields are: data_"):
        RunConfig().replace(steps=5)
    with pytest.raises(UserError, match="session_config=….* is not supported; use devices="):
        RunConfig().replace(session_config=1)
    with pytest.raises(UserError, match="^RunConfig.accumulation_steps=0: expected"):
        RunConfig().replace(accumulation_steps=0)


class OwnConfig(RunConfig):
    """As programs for tf.estimator have it: with attributes of their own."""

    def __init__(self, shards):
        super().__init__(accumulation_steps=2)
        self.shards = shards


def test_a_subclass_keeps_its_own_attributes(tmp_path):
    config = OwnConfig(7)
    copied = config.replace(accumulation_steps=3)
    assert type(copied) is OwnConfig
    assert (copied.shards, copied.accumulation_steps, config.accumulation_steps) == (7, 3, 2)
    estimator = tfbig.Estimator(iris.model_fn, tmp_path, copied)
    assert (estimator.config.shards, estimator.config.model_dir) == (7, str(tmp_path))


def test_it_cannot_be_changed_but_copied():
    config = RunConfig(accumulation_steps=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.accumulation_steps = 3
    assert dataclasses.replace(config, accumulation_steps=3).accumulation_steps == 3
    with pytest.raises(UserError, match="accumulation_steps=0"):
        dataclasses.replace(config, accumulation_steps=0)


WHOLE = "expected an integer of 1 or more"


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (
            "data_distribution",
            ("rand", None, 1),
            "expected one of 'auto', 'random', 'block', 'none'",
        ),
        (
            "model_distribution",
            ("zero", None),
            "expected one of " + ", ".join(map(repr, MODEL_DISTRIBUTIONS)),
        ),
        ("gradient_aggregation", ("avg", True), "expected one of 'mean', 'sum'"),
        (
            "precision",
            ("float16", "bf16"),
            "expected one of 'float32', 'mixed_bfloat16', 'mixed_float16'",
        ),
        ("jit_compile", ("yes", 1, 0, None), "expected one of 'auto', True, False"),
        ("remat", ("full", 1, 0, None), "expected one of False, True"),
        ("steps_per_loop", (0, -1, 2.0, True, "all", None), f'{WHOLE}, or "auto"'),
        ("accumulation_steps", (0, -2, 1.5, True, "2", None), WHOLE),
        ("keep_checkpoint_max", (-1, 2.5), WHOLE),
        ("log_step_count_steps", (0, None, 10.0), WHOLE),
        ("save_summary_steps", (0, None), WHOLE),
        ("save_checkpoints_steps", (0, -1, 2.5, True), f"{WHOLE}, or None"),
        ("eval_every_steps", (0, "epoch"), f"{WHOLE}, or None"),
        (
            "save_checkpoints_secs",
            (0, -1.0, "60", True, float("nan")),
            "expected seconds above 0, or None",
        ),
        (
            "tf_random_seed",
            (-1, 2**31, 1.0, True, "0"),
            "expected an integer from 0 to 2**31 - 1, or None",
        ),
        ("max_staleness", (-1, 1.0, True, "0"), "expected an integer of 0 or more, or None"),
        ("model_dir", ("", 3, b"run"), "expected the path of a directory, or None"),
    ],
)
def test_a_value_it_cannot_have_is_named_with_those_it_can(name, values, expected):
    for value in values:
        with pytest.raises(UserError) as caught:
            RunConfig(**{name: value})
        assert str(caught.value) == f"RunConfig.{name}={value!r}: {expected}."


@pytest.mark.parametrize("kind", [dict, ConfigDict])
def test_it_is_made_from_a_configs_fields(kind):
    assert run_config_from(kind({"accumulation_steps": 2})) == RunConfig(accumulation_steps=2)
    assert run_config_from(kind()) == RunConfig()


def test_an_unknown_field_is_named_with_the_known_ones():
    with pytest.raises(UserError) as caught:
        run_config_from({"accumulation": 2, "seed": 1})
    assert str(caught.value).startswith(
        "unknown RunConfig field 'accumulation', 'seed'; the fields are: data_distribution, "
    )
    assert "tf_random_seed" in str(caught.value)


# Its place in the cluster, as programs for tf.estimator read it.

JOBS = {"chief": ["c:1"], "worker": ["w:1", "w:2"], "ps": ["p:1", "p:2"]}
READ = ("task_type", "task_id", "is_chief", "global_id_in_cluster", "master")


def set_task(monkeypatch, task_type, index, jobs=JOBS):
    task = {"type": task_type, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))


def test_without_a_cluster_it_is_the_chief_of_one_worker(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    config = RunConfig()
    assert [getattr(config, name) for name in READ] == ["worker", 0, True, 0, ""]
    assert (config.num_worker_replicas, config.num_ps_replicas) == (1, 0)
    assert config.cluster_spec.as_dict() == {}
    assert config.evaluation_master == ""


@pytest.mark.parametrize(
    ("task_type", "index", "expected"),
    [
        ("chief", 0, ["chief", 0, True, 0, "grpc://c:1"]),
        ("worker", 0, ["worker", 0, False, 1, "grpc://w:1"]),
        ("worker", 1, ["worker", 1, False, 2, "grpc://w:2"]),
        ("ps", 0, ["ps", 0, False, 3, "grpc://p:1"]),
        ("ps", 1, ["ps", 1, False, 4, "grpc://p:2"]),
    ],
)
def test_each_task_of_a_cluster_knows_its_place(monkeypatch, task_type, index, expected):
    set_task(monkeypatch, task_type, index)
    config = RunConfig()
    assert [getattr(config, name) for name in READ] == expected
    assert (config.num_worker_replicas, config.num_ps_replicas) == (3, 2)
    assert config.cluster_spec.as_dict() == JOBS


def test_an_evaluator_is_outside_the_cluster(monkeypatch):
    set_task(monkeypatch, "evaluator", 0)
    config = RunConfig()
    assert [getattr(config, name) for name in READ] == ["evaluator", 0, False, None, ""]


def test_without_a_chief_worker_0_is_it(monkeypatch):
    for index, chief in ((0, True), (1, False)):
        set_task(monkeypatch, "worker", index, {"worker": ["w:1", "w:2"]})
        config = RunConfig()
        assert (config.is_chief, config.global_id_in_cluster) == (chief, index)
        assert (config.num_worker_replicas, config.num_ps_replicas) == (2, 0)


def test_a_copy_of_it_knows_its_place_too(monkeypatch):
    set_task(monkeypatch, "worker", 1)
    assert OwnConfig(1).replace(accumulation_steps=4).global_id_in_cluster == 2
    assert copy.deepcopy(RunConfig()).task_id == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_distribute", None),
        ("eval_distribute", None),
        ("session_config", None),
        ("device_fn", None),
        ("protocol", None),
        ("service", None),
        ("session_creation_timeout_secs", None),
        ("experimental_max_worker_delay_secs", None),
        ("keep_checkpoint_every_n_hours", 10000),
        ("checkpoint_save_graph_def", False),
    ],
)
def test_other_fields_of_tf_estimator_read_as_not_set(name, value):
    assert getattr(RunConfig(), name) == value


def test_an_unknown_attribute_is_an_error_that_may_say_what_to_use():
    with pytest.raises(AttributeError, match="'RunConfig' has no attribute 'tpu_config'; use stra"):
        _ = RunConfig().tpu_config
    with pytest.raises(AttributeError, match="'OwnConfig' has no attribute 'depth'$"):
        _ = OwnConfig(1).depth


# model_dir.


def weight(features, labels, mode):
    del labels
    w = iris.v1.get_variable("w", [], initializer=iris.v1.ones_initializer())
    loss = tf.reduce_mean(tf.square(features * w))
    optimizer = iris.v1.train.GradientDescentOptimizer(0.5)
    train_op = optimizer.minimize(loss, iris.v1.train.get_global_step())
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


def ones():
    return tf.data.Dataset.from_tensors([[1.0]]).repeat(3)


def test_its_model_dir_is_the_folder_of_an_estimator(tmp_path):
    config = iris.config(model_dir=tmp_path / "a")
    estimator = tfbig.Estimator(weight, config=config).train(ones, steps=1)
    assert estimator.model_dir == estimator.config.model_dir == str(tmp_path / "a")
    assert iris.values(tmp_path / "a") == {"w": 0.0, "global_step": 1}
    same = tfbig.Estimator(weight, pathlib.Path(tmp_path / "a"), config)
    assert same.get_variable_value("global_step") == 1


def test_its_model_dir_is_the_folder_of_train_distributed(tmp_path):
    config = iris.config(model_dir=str(tmp_path))
    result = tfbig.train_distributed(weight, ones, config=config, max_steps=2)
    assert str(result.model_dir) == str(tmp_path)
    assert iris.values(tmp_path)["global_step"] == 2


def test_two_different_model_dirs_are_refused(tmp_path):
    config = RunConfig(model_dir=str(tmp_path / "a"))
    message = "`model_dir` are set both in constructor and `RunConfig`, but with different values"
    with pytest.raises(UserError, match=message) as caught:
        tfbig.Estimator(weight, tmp_path / "b", config)
    assert f"{str(tmp_path / 'b')!r} and {str(tmp_path / 'a')!r}" in str(caught.value)
    with pytest.raises(UserError, match=message):
        tfbig.train_distributed(
            weight, ones, config=config, model_dir=str(tmp_path / "b"), max_steps=1
        )
    assert list(tmp_path.iterdir()) == []


def test_fields_of_tf_estimator_that_are_none_ask_for_nothing():
    config = tfbig.RunConfig(session_config=None, train_distribute=None, tf_random_seed=3)
    assert config.tf_random_seed == 3
    assert config.replace(device_fn=None) == config
    with pytest.raises(UserError, match="session_config"):
        tfbig.RunConfig(session_config=1)


def test_a_model_dir_in_tf_config_is_that_of_the_run(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"model_dir": "runs/a"}')
    assert tfbig.RunConfig().model_dir == "runs/a"
    assert tfbig.RunConfig(model_dir="runs/a").model_dir == "runs/a"
    with pytest.raises(UserError, match="TF_CONFIG has another model_dir, 'runs/a'"):
        tfbig.RunConfig(model_dir="runs/b")
    monkeypatch.setenv("TF_CONFIG", '{"model_dir": ""}')
    with pytest.raises(UserError, match="model_dir in TF_CONFIG should be non-empty"):
        tfbig.RunConfig()


def test_a_config_keeps_the_cluster_of_its_making(monkeypatch):
    cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    config = tfbig.RunConfig()
    monkeypatch.delenv("TF_CONFIG")
    assert (config.task_id, config.num_worker_replicas) == (1, 2)
    assert config.replace(tf_random_seed=1).task_id == 1
    assert tfbig.RunConfig().task_id == 0


@pytest.mark.parametrize("none", [None, 0])
def test_no_limit_of_checkpoints_keeps_all(none):
    assert tfbig.RunConfig(keep_checkpoint_max=none).keep_checkpoint_max > 10**8


def test_the_model_dir_of_tf_config_may_be_given_as_a_path_too(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"model_dir": "runs/a"}')
    assert tfbig.RunConfig(model_dir=pathlib.Path("runs/a")).model_dir == "runs/a"
