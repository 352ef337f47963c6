"""Owners update slices by Keras's own rules, and end with the state of a replicated run.

These tests guard initial_value, is_overwritten_by_gradient and set_value of tfbig._private_api.
"""

import functools
import logging
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

from tests import harness
from tests.placement import owner_runs
from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.placement.owner.checks import check_optimizer, check_slots
from tfbig.placement.owner.layout import group_for_gather, make_buckets
from tfbig.placement.owner.owner_updates import make_updates
from tfbig.placement.placement import Placement
from tfbig.programs.updates import Updates
from tfbig.run_config import RunConfig

# Every optimizer, on one device and with owners.


# All variables in one bucket; in "workers", cut by rows, the larger kernels into two buckets.
_RUNS = {
    "one": (1, False),
    "2": (2, False),
    "4": (4, True),
    "workers": (None, False, 256),
    "full": (2, True, None, "owner_full"),
    "gradients": (4, False, None, "owner_gradients"),
    "full_on_workers": (None, False, 256, "owner_full"),
}
# An optimizer's rule for one element does not depend on where a slice begins, so CI runs each
# optimizer only on two replicas. Features that depend on the slices (scalar state, rates, decay and
# joining by variable, clipping, averages, missing gradients) also run on four compiled replicas,
# and on workers with variables that are cut.
_EVERYWHERE = (
    "adam",
    "adamw_by_name",
    "signed",
    "loss_scaled_clipped",
    "loss_scaled_ema",
    "no_gradient_ema",
    "joining",
    "rates",
    "lamb",
    "muon",
    "adafactor_scaled_ema",
)


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """Returns a function: the folder with the final variables of the runs that are selected."""
    items = [getattr(item, "callspec", None) for item in request.session.items]
    params = [item.params for item in items if item and {"devices", "name"} <= set(item.params)]

    @functools.cache
    def folder(devices):
        ended, files = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("files")
        call = harness.call if _RUNS[devices][0] else harness.call_workers
        names = [
            n
            for n in owner_runs.BUILDS
            if devices == "one" or dict(devices=devices, name=n) in params
        ]
        call(owner_runs.train_all, files, str(ended), names, *_RUNS[devices], timeout=400)
        return ended

    return folder


def _differences(got, expected, allowed: float) -> list[str]:
    """Lists the arrays of two files that differ by more than `allowed`, relative or absolute."""
    with np.load(got) as got, np.load(expected) as expected:
        if list(got) != list(expected):
            return [f"found {sorted(got)}, expected {sorted(expected)}"]
        return [
            f"{key}: {got[key]}, expected {value}"
            for key, value in expected.items()
            if got[key].shape != value.shape
            or not np.allclose(got[key], value, rtol=allowed, atol=allowed)
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("devices", "name"),
    [
        pytest.param(
            devices, name, marks=[] if devices == "2" or name in _EVERYWHERE else pytest.mark.long
        )
        for devices in _RUNS
        if devices != "one"
        for name in owner_runs.BUILDS
    ],
)
def test_owners_end_with_the_weights_and_slots_of_one_device(trained, name, devices):
    expected, (got, *others) = trained("one") / "0", sorted(trained(devices).iterdir())
    assert len(others) == (_RUNS[devices][0] is None)
    found = _differences(got / f"{name}.npz", expected / f"{name}.npz", 1e-5)
    for other in others:  # bitwise equal in each process
        found += _differences(other / f"{name}.npz", got / f"{name}.npz", 0)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_the_runs_cover_missing_gradients_and_loss_scaling(trained):
    def values(name):
        with np.load(trained("one") / "0" / f"{name}.npz") as file:
            return dict(file)

    weights = values("no_gradient")  # of the first two layers, then of the heads
    assert [bool(np.any(weights[key])) for key in ("005", "007")].count(True) == 1  # their biases
    scale = [v for v in values("loss_scaled").values() if v.shape == () and v == 400.0]
    assert len(scale) == 1  # 100, doubled after 7 and 14 good steps


# Checkpoints.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "others"),
    [
        ((2, "owner"), [(1, "replicated"), (4, "owner"), (2, "replicated")]),
        ((1, "replicated"), [(2, "owner")]),
    ],
    ids=["owner", "replicated"],
)
def test_a_checkpoint_is_loaded_completely_with_any_number_of_owners_or_none(
    first, others, tmp_path
):
    """All runs read the checkpoint of two owners; owners read the checkpoint of one device."""
    runs = {}
    for run in (first, *others):
        files = tmp_path / f"{run[1]}{run[0]}"
        files.mkdir()
        runs[run] = harness.call(owner_runs.load, files, str(tmp_path / "run"), *run, timeout=120)
    expected = runs[first]
    assert len(expected["values"]) > 15
    for (_, distribution), got in runs.items():
        assert got["shapes"] == expected["shapes"]
        assert got["values"] == expected["values"]  # bit for bit
        assert (got["sliced"] > 0) == (distribution == "owner")


@pytest.mark.slow
def test_a_model_trained_by_owners_is_saved_with_its_optimizer(in_process, tmp_path):
    assert in_process(owner_runs.save_whole_model, str(tmp_path))


# Slices.


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_each_replica_holds_its_share_of_the_slots_within_one_percent(in_process, replicas):
    found = in_process(owner_runs.slot_bytes, replicas)
    assert len(found["held"]) == replicas
    for held in found["held"]:
        assert held == pytest.approx(found["whole"] / replicas, rel=0.01)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7])
def test_the_slices_of_all_buckets_contain_every_element_once(replicas):
    sizes = [3, 1 << 20, 5, 1, 6_000_000, 10, 700_000, 700_000, 7, 3_300_000]
    kinds = ["a", "a", "b", "a", "b", "a", "a", "a", "b", "a"]
    rows = [3, 1 << 10, 5, 1, 6_000, 10, 1, 7, 7, 11]
    buckets = make_buckets(sizes, rows, kinds, [4] * len(sizes), replicas)
    assert [(p.offsets, p.sizes) for p in buckets if p.members == (4,)] == [
        ((0,), (2_000_000,)), ((2_000_000,), (2_000_000,)), ((4_000_000,), (2_000_000,)),
    ]  # fmt: skip
    assert [(p.offsets, p.sizes) for p in buckets if p.members == (9,)] == [
        ((0,), (1_800_000,)), ((1_800_000,), (1_500_000,)),
    ]  # fmt: skip
    seen = [np.zeros(size, int) for size in sizes]
    for bucket in buckets:
        assert len({kinds[i] for i in bucket.members}) == 1
        for replica in range(replicas):
            parts = list(bucket.parts(replica))
            assert sum(part.size + part.padding for part in parts) == bucket.slice_size
            for part in parts:
                seen[part.member][part.start : part.stop] += 1
    assert all(np.all(counts == 1) for counts in seen)


def test_large_variables_have_their_own_bucket_and_small_ones_share_one():
    sizes = [1 << 20, *[100] * 500, 1 << 21]
    buckets = make_buckets(sizes, [1] * len(sizes), ["k"] * len(sizes), [4] * len(sizes), 2)
    assert [len(bucket.members) for bucket in buckets] == [1, 500, 1]
    counts = [sum(bucket.sizes) for bucket in buckets]
    assert group_for_gather(counts, ["f"] * 3, [4] * 3) == [[0, 1], [2]]  # at most 8 MB
    assert group_for_gather(counts, ["f", "h", "f"], [4, 2, 4]) == [[0], [1], [2]]


def test_a_large_variable_that_cannot_be_cut_is_one_bucket():
    (bucket,) = make_buckets([1 << 24], [1], ["k"], [4], 2)  # 64 MB
    assert (bucket.offsets, bucket.sizes, bucket.slice_size) == ((0,), (1 << 24,), 1 << 23)


def test_a_bucket_has_a_maximum_size():
    buckets = make_buckets([1 << 19] * 10, [1] * 10, ["k"] * 10, [4] * 10, 2)  # 2 MB each
    assert [len(bucket.members) for bucket in buckets] == [4, 4, 2]


# Optimizers that are rejected, and those that are not.


class Mine(optimizers.Adam):
    pass


@pytest.mark.parametrize(
    "optimizer",
    [Mine(), optimizers.LossScaleOptimizer(Mine())],
)
def test_an_optimizer_that_is_not_known_to_be_elementwise_is_rejected_by_name(optimizer):
    name = type(getattr(optimizer, "inner_optimizer", optimizer)).__name__
    with pytest.raises(UserError, match=f"{name} is not known to treat each element") as caught:
        check_optimizer(optimizer, [])
    assert "SGD, Adam, AdamW" in str(caught.value)
    assert "elementwise = True" in str(caught.value)


def test_a_class_that_declares_itself_elementwise_is_accepted():
    class Elementwise(Mine):
        elementwise = True

    check_optimizer(Elementwise(), [])
    check_optimizer(optimizers.LossScaleOptimizer(Elementwise()), [])


def test_optimizers_that_cannot_be_sliced_are_rejected():
    weight = keras.Variable(np.zeros([3], "float32"), name="w")
    built = optimizers.Adam()
    built.build([weight])
    with pytest.raises(UserError, match="Adam has been built already"):
        check_optimizer(built, [weight])
    with pytest.raises(UserError, match=r"write RunConfig\(accumulation_steps=2\)"):
        check_optimizer(optimizers.Adam(gradient_accumulation_steps=2), [weight])
    weight.overwrite_with_gradient = True
    with pytest.raises(UserError, match="'w' is overwritten with its gradient"):
        check_optimizer(optimizers.Adam(), [weight])


def test_slots_that_are_created_in_another_way_are_rejected():
    class Own(optimizers.SGD):
        elementwise = True

        def build(self, variables):
            super().build(variables)
            self.mine = [self.add_variable(v.shape, name="mine") for v in variables]

    weight, optimizer = keras.Variable(np.zeros([3], "float32")), Own()
    slots = _private_api.build_without_slots(optimizer, [weight])
    with pytest.raises(
        UserError, match="creates the variable 'own(_\\d+)?/mine' of shape .3,. itself"
    ):
        check_slots(optimizer, slots)


def test_owner_on_one_replica_is_replicated_with_a_log_line(caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        assert type(make_updates(RunConfig(model_distribution="owner"), Placement())) is Updates
    assert 'model_distribution="owner" on one replica' in caplog.text


def test_missing_gradients_are_reported_as_in_keras():
    weights = [keras.Variable(np.zeros([3], "float32"), name=name) for name in "ab"]
    optimizer = optimizers.Adam()
    optimizer.build(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _private_api.check_gradients(optimizer, [np.zeros(3), None], weights)
    assert "['b']" in str(caught[0].message)
    with pytest.raises(ValueError, match="No gradients provided"):
        _private_api.check_gradients(optimizer, [None, None], weights)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (dict(clipnorm=1.0), [[0.6, 0.8], [0.5]]),
        (dict(global_clipnorm=1.0), [[3 / 25.25**0.5, 4 / 25.25**0.5], [0.5 / 25.25**0.5]]),
        (dict(clipvalue=3.5), [[3.0, 3.5], [0.5]]),
    ],
)
def test_clipping_uses_the_limits_of_the_optimizer(limits, expected):
    gradients = [tf.constant([3.0, 4.0]), tf.constant([0.5])]
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(**limits))
    assert _private_api.clips_gradients(optimizer)
    assert not _private_api.clips_gradients(optimizers.SGD())
    for got, value in zip(_private_api.clip_gradients(optimizer, gradients), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6)
