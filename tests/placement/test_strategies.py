"""`strategy=` and `devices=` select a placement, or raise an error that says what to write."""

import json

import keras
import pytest
import tensorflow as tf

from tfbig.errors import NotBuiltError, UserError
from tfbig.placement import strategies
from tfbig.placement.placement import Placement
from tfbig.placement.strategies import make_placement

GPUS = tf.config.list_physical_devices("GPU")
without_gpu = pytest.mark.skipif(bool(GPUS), reason="for machines without GPUs")


def facts(placement: Placement) -> list:
    return [type(placement).__name__, placement.name, placement.num_replicas]


ONE = ["Placement", "one_device", 1]


# One device, in this process.


@without_gpu
@pytest.mark.parametrize("devices", [None, 1, "CPU:0", ["CPU:0"], ("cpu:0",)])
@pytest.mark.parametrize("strategy", ["auto", "one_device"])
def test_one_cpu_is_one_device(strategy, devices):
    placement = make_placement(strategy, devices)
    assert facts(placement) == ONE
    assert placement.compiles_whole_loop
    with placement.scope():
        variable = tf.Variable(1.0)
    assert variable.device.endswith("CPU:0")
    assert placement.owns(variable)
    assert placement.run(lambda a, b: a + b, (1, 2)) == 3
    assert placement.reduce_sum([variable]) == [variable]
    assert placement.replica() == 0
    assert placement.describe() == "one device (CPU:0)"


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
        lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
    ],
)
def test_a_strategy_of_one_device_is_one_device(strategy):
    placement = make_placement(strategy())
    assert facts(placement) == ONE
    assert placement.device.endswith("CPU:0")


@without_gpu
def test_the_default_strategy_is_one_device():
    placement = make_placement(tf.distribute.get_strategy())
    assert facts(placement) == ONE
    assert placement.device == "CPU:0"


@pytest.fixture
def two_gpus(monkeypatch):
    """Simulates a machine with two GPUs; only their names exist."""
    monkeypatch.setattr(
        strategies.tf.config,
        "list_physical_devices",
        lambda kind: [kind + "0", kind + "1"] if kind == "GPU" else [kind + "0"],
    )
    made = []
    monkeypatch.setattr(strategies, "_mirrored_strategy", lambda names: made.append(names))
    monkeypatch.setattr(strategies, "Mirrored", lambda strategy: "mirrored")
    return made


@pytest.mark.parametrize(
    ("strategy", "devices", "names"),
    [
        ("auto", None, ("GPU:0", "GPU:1")),
        ("auto", 2, ("GPU:0", "GPU:1")),
        ("mirrored", None, ("GPU:0", "GPU:1")),
        ("mirrored", 1, ("GPU:0",)),
        ("mirrored", ["GPU:1"], ("GPU:1",)),
        ("auto", ["/gpu:1", "GPU:0"], ("GPU:1", "GPU:0")),
        ("auto", ["GPU:0", "CPU:0"], ("GPU:0", "CPU:0")),
    ],
)
def test_gpus_are_selected_by_number_or_name(strategy, devices, names, two_gpus):
    assert make_placement(strategy, devices) == "mirrored"
    assert two_gpus == [names]


@pytest.mark.parametrize(
    ("strategy", "devices", "device"),
    [
        ("one_device", None, "GPU:0"),
        ("one_device", "GPU:1", "GPU:1"),
        ("auto", 1, "GPU:0"),
        ("auto", "CPU:0", "CPU:0"),
    ],
)
def test_one_gpu_is_one_device(strategy, devices, device, two_gpus):
    placement = make_placement(strategy, devices)
    assert facts(placement) == ONE
    assert placement.device == device
    assert not two_gpus


def test_more_gpus_than_there_are_is_an_error(two_gpus):
    with pytest.raises(UserError) as raised:
        make_placement("mirrored", 4)
    assert str(raised.value) == (
        "devices=4, but this machine shows 2 GPU(s) (GPU:0, GPU:1). Pass devices=2, or "
        "devices=None for all of them."
    )
    with pytest.raises(UserError, match="^devices: 'GPU:2' does not exist; this machine shows 2"):
        make_placement("mirrored", ["GPU:0", "GPU:2"])


# Errors.

BAD = {
    "0": (0, "devices=0: expected 1 or more, or devices=None for all there are."),
    "negative": (-2, "devices=-2: expected 1 or more, or devices=None for all there are."),
    "a float": (2.0, "devices=2.0: expected a number or device names such as"),
    "True": (True, "devices=True: expected a number or device names such as"),
    "an empty list": ([], "devices=[]: name each device once, and at least one."),
    "a device twice": (["CPU:0", "CPU:0"], "name each device once, and at least one."),
    "twice, written in two ways": (["CPU:0", "/cpu:0"], "name each device once, and at least one."),
    "numbers in a list": ([0, 1], "devices: 0 is no device name; write \"GPU:0\" or \"CPU:0\"."),
    "no number": ("GPU", "devices: 'GPU' is no device name; write \"GPU:0\" or \"CPU:0\"."),
    "another kind": ("TPU:0", "devices: 'TPU:0' is no device name"),
    "no such GPU": ("GPU:99", "devices: 'GPU:99' does not exist; this machine shows"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_invalid_devices_are_rejected(case):
    devices, message = BAD[case]
    with pytest.raises(UserError) as raised:
        make_placement("auto", devices)
    assert message in str(raised.value)


@pytest.mark.parametrize("strategy", ["", "Mirrored", "tpus", None, 2, ["mirrored"]])
def test_an_unknown_strategy_is_rejected(strategy):
    with pytest.raises(UserError) as raised:
        make_placement(strategy)
    assert str(raised.value) == (
        f"strategy={strategy!r}: expected one of auto, one_device, mirrored, multi_worker, "
        "parameter_server, tpu, or a tf.distribute.Strategy."
    )


@pytest.mark.parametrize("strategy", ["tpu"])
def test_a_strategy_of_the_api_that_is_not_built_says_so(strategy):
    with pytest.raises(NotBuiltError, match=f"^strategy='{strategy}' is not built yet; write "):
        make_placement(strategy)


def test_a_strategy_object_that_is_not_built_says_so():
    with pytest.raises(NotBuiltError, match="^a CentralStorageStrategy is not built yet; pass a "):
        make_placement(tf.distribute.experimental.CentralStorageStrategy(["CPU:0"]))


def test_two_devices_are_too_many_for_one():
    with pytest.raises(UserError, match='with strategy="one_device", which uses one; write strat'):
        make_placement("one_device", ["CPU:0", "CPU:1"])


def test_devices_cannot_be_passed_with_a_strategy_object():
    with pytest.raises(UserError, match="^devices=1 together with a OneDeviceStrategy, which has"):
        make_placement(tf.distribute.OneDeviceStrategy("CPU:0"), 1)


# Several CPU devices: TensorFlow's are fixed once it has started.


def mirrored_by_number() -> dict:
    placement = make_placement("mirrored", 3)
    with placement.scope():
        variable = tf.Variable(1.0, aggregation=tf.VariableAggregation.MEAN)
    outside = tf.Variable(1.0)

    @tf.function(autograph=False)
    def step(x):
        def replica(x):
            part = x * tf.cast(placement.replica(), tf.float32)
            total, ones = placement.reduce_sum([part, tf.ones([2])])
            return {"total": total, "ones": ones, "part": part}

        return placement.run(replica, (x,))

    found = {name: value.numpy().tolist() for name, value in step(tf.constant(5.0)).items()}
    again = make_placement("auto", ["CPU:0", "CPU:1", "CPU:2"])
    return {
        "facts": facts(placement),
        "whole loop": placement.compiles_whole_loop,
        "owns": [placement.owns(variable), placement.owns(outside)],
        "found": found,
        "describe": placement.describe(),
        "cpus": len(tf.config.list_logical_devices("CPU")),
        "again": [facts(again), again.strategy is placement.strategy],
    }


@pytest.mark.slow
@without_gpu
def test_each_cpu_device_is_a_replica(in_process):
    found = in_process(mirrored_by_number)
    assert found == {
        "facts": ["Mirrored", "mirrored", 3],
        "whole loop": False,
        "owns": [True, False],
        # 0 + 5 + 10, and the result of the first replica.
        "found": {"total": 15.0, "ones": [3.0, 3.0], "part": 0.0},
        "describe": "mirrored over 3 replicas (CPU:0, CPU:1, CPU:2)",
        "cpus": 3,
        "again": [["Mirrored", "mirrored", 3], True],
    }


def after_the_start() -> dict:
    found = {}
    tf.zeros([])
    try:
        make_placement("mirrored", 2)
    except UserError as error:
        found["error"] = str(error)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    found["one"] = facts(make_placement("mirrored", 1))
    return found


@pytest.mark.slow
@without_gpu
def test_several_cpus_after_tensorflow_has_started_is_an_error(in_process):
    found = in_process(after_the_start)
    assert found["error"] == (
        "2 CPU devices were asked for, but TensorFlow has started with 1, and that is fixed once "
        "it has. A model, a preset, a tensor, a training or an evaluation starts it. Write right "
        "after the imports: tf.config.set_logical_device_configuration("
        'tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2).'
    )
    assert found["one"] == ["Mirrored", "mirrored", 1]


def given_strategy() -> list:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    tf.zeros([])  # four exist, so no more devices are requested
    strategy = tf.distribute.MirroredStrategy(["CPU:1", "CPU:3"])
    placement = make_placement(strategy)
    return [*facts(placement), placement.strategy is strategy, placement.describe()]


def test_a_given_mirrored_strategy_is_used_unchanged(in_process):
    assert in_process(given_strategy) == [
        "Mirrored",
        "mirrored",
        2,
        True,
        "mirrored over 2 replicas (CPU:1, CPU:3)",
    ]


def devices_there_already() -> list:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    tf.zeros([])
    return facts(make_placement("mirrored", 2))


@without_gpu
def test_existing_cpu_devices_are_used(in_process):
    assert in_process(devices_there_already) == ["Mirrored", "mirrored", 2]


def test_with_parameter_servers_each_task_evaluates_and_predicts_on_its_own(monkeypatch):
    jobs = {"chief": ["127.0.0.1:1"], "worker": ["127.0.0.1:2"], "ps": ["127.0.0.1:3"]}
    task = {"type": "chief", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": jobs, "task": task}))

    assert make_placement("auto").name == "one_device"
    with pytest.raises(NotBuiltError, match="is built for training only; leave strategy out"):
        make_placement("parameter_server")
