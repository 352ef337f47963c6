"""Owners update slices by Keras's own rules, and keep what a replicated run would keep."""

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
from tfbig.placement.owner.layout import lay_out, packed
from tfbig.placement.owner.owner_updates import make_updates
from tfbig.placement.placement import Placement
from tfbig.programs.updates import Updates

# Every optimizer, on one device and by owners.


# All variables in one bucket; or cut by rows, the larger kernels into two pieces.
_RUNS = {"one": (1, False), "2": (2, False), "4": (4, True), "workers": (None, False, 256)}
# An optimizer's rule for one element is the same wherever a slice begins, so CI tries each of them
# on two replicas alone. What depends on the slices themselves (state that is one number for all,
# rates, decay and joining by variable, clipping, averages, what has no gradient) it tries as well
# on four that are compiled, and on workers whose variables are cut.
_EVERYWHERE = (
    "adam",
    "adamw_by_name",
    "signed",
    "loss_scaled_clipped",
    "loss_scaled_ema",
    "no_gradient_ema",
    "joining",
    "rates",
)


@pytest.fixture(scope="module")
def trained(request, tmp_path_factory):
    """Gives the folder with what the runs at a place end with that this session's tests need."""
    items = [getattr(item, "callspec", None) for item in request.session.items]
    params = [item.params for item in items if item and {"place", "name"} <= set(item.params)]

    @functools.cache
    def folder(place):
        ended, files = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("files")
        call = harness.call_workers if place == "workers" else harness.call
        names = [
            n for n in owner_runs.BUILDS if place == "one" or dict(place=place, name=n) in params
        ]
        call(owner_runs.train_all, files, str(ended), names, *_RUNS[place], timeout=400)
        return ended

    return folder


def _differences(got, expected, allowed: float) -> list[str]:
    """Lists the arrays of two files that differ by more than is allowed."""
    with np.load(got) as got, np.load(expected) as expected:
        if list(got) != list(expected):
            return [f"{sorted(got)} are there, not {sorted(expected)}"]
        return [
            f"{key}: {got[key]}, not {value}"
            for key, value in expected.items()
            if got[key].shape != value.shape
            or not np.allclose(got[key], value, rtol=allowed, atol=allowed)
        ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(
            place, name, marks=[] if place == "2" or name in _EVERYWHERE else pytest.mark.long
        )
        for place in ("2", "4", "workers")
        for name in owner_runs.BUILDS
    ],
)
def test_owners_end_with_the_weights_and_slots_of_one_device(trained, name, place):
    expected, (got, *others) = trained("one") / "0", sorted(trained(place).iterdir())
    assert len(others) == (place == "workers")
    found = _differences(got / f"{name}.npz", expected / f"{name}.npz", 1e-5)
    for other in others:  # the same bits in each process
        found += _differences(other / f"{name}.npz", got / f"{name}.npz", 0)
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_what_the_runs_are_about_happens_in_them(trained):
    def values(name):
        with np.load(trained("one") / "0" / f"{name}.npz") as file:
            return dict(file)

    weights = values("no_gradient")  # those of the first two layers, then those of the heads
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
def test_a_checkpoint_is_loaded_whole_by_any_number_of_owners_or_none(first, others, tmp_path):
    """All readers read what two owners have written; what one device has written, owners read."""
    runs = {}
    for run in (first, *others):
        files = tmp_path / f"{run[1]}{run[0]}"
        files.mkdir()
        runs[run] = harness.call(owner_runs.load, files, str(tmp_path / "run"), *run, timeout=120)
    expected = runs[first]
    assert len(expected["values"]) > 15
    for (_, distribution), got in runs.items():
        assert got["shapes"] == expected["shapes"]
        assert got["values"] == expected["values"]  # every bit
        assert (got["sliced"] > 0) == (distribution == "owner")


@pytest.mark.slow
def test_a_model_trained_by_owners_is_saved_with_its_optimizer(in_process, tmp_path):
    assert in_process(owner_runs.save_whole_model, str(tmp_path))


# Slices.


@pytest.mark.parametrize("replicas", [2, 4])
def test_each_replica_holds_its_share_of_the_slots_within_a_hundredth(in_process, replicas):
    found = in_process(owner_runs.slot_bytes, replicas)
    assert len(found["held"]) == replicas
    for held in found["held"]:
        assert held == pytest.approx(found["whole"] / replicas, rel=0.01)


@pytest.mark.parametrize("replicas", [1, 2, 3, 4, 7])
def test_the_slices_of_a_layout_are_every_element_once(replicas):
    sizes = [3, 1 << 20, 5, 1, 6_000_000, 10, 700_000, 700_000, 7, 3_300_000]
    kinds = ["a", "a", "b", "a", "b", "a", "a", "a", "b", "a"]
    rows = [3, 1 << 10, 5, 1, 6_000, 10, 1, 7, 7, 11]
    pieces = lay_out(sizes, rows, kinds, [4] * len(sizes), replicas)
    assert [(p.offsets, p.sizes) for p in pieces if p.members == (4,)] == [
        ((0,), (2_000_000,)), ((2_000_000,), (2_000_000,)), ((4_000_000,), (2_000_000,)),
    ]  # fmt: skip
    assert [(p.offsets, p.sizes) for p in pieces if p.members == (9,)] == [
        ((0,), (1_800_000,)), ((1_800_000,), (1_500_000,)),
    ]  # fmt: skip
    seen = [np.zeros(size, int) for size in sizes]
    for piece in pieces:
        assert len({kinds[i] for i in piece.members}) == 1
        for replica in range(replicas):
            parts = list(piece.cut(replica))
            assert sum(stop - start for _, start, stop in parts) <= piece.per
            for member, start, stop in parts:
                seen[member][start:stop] += 1
    assert all(np.all(counts == 1) for counts in seen)


def test_large_variables_are_alone_and_small_ones_share_a_piece():
    sizes = [1 << 20, *[100] * 500, 1 << 21]
    pieces = lay_out(sizes, [1] * len(sizes), ["k"] * len(sizes), [4] * len(sizes), 2)
    assert [len(piece.members) for piece in pieces] == [1, 500, 1]
    assert packed(pieces, ["f"] * 3, [4] * 3) == [[0, 1], [2]]  # of 8 MB at most
    assert packed(pieces, ["f", "h", "f"], [4, 2, 4]) == [[0], [1], [2]]


def test_a_large_variable_that_cannot_be_cut_is_one_piece():
    (piece,) = lay_out([1 << 24], [1], ["k"], [4], 2)  # of 64 MB
    assert (piece.offsets, piece.sizes, piece.per) == ((0,), (1 << 24,), 1 << 23)


def test_a_bucket_ends_before_it_is_too_large_to_be_copied():
    pieces = lay_out([1 << 19] * 10, [1] * 10, ["k"] * 10, [4] * 10, 2)  # of 2 MB
    assert [len(piece.members) for piece in pieces] == [4, 4, 2]


# What is refused, and what is not.


class Mine(optimizers.Adam):
    pass


@pytest.mark.parametrize(
    "optimizer",
    [optimizers.Lamb(), optimizers.Muon(), optimizers.Adafactor(), Mine(),
     optimizers.LossScaleOptimizer(optimizers.Lamb())],
)  # fmt: skip
def test_an_optimizer_that_is_not_known_to_be_elementwise_is_refused_by_name(optimizer):
    name = type(getattr(optimizer, "inner_optimizer", optimizer)).__name__
    with pytest.raises(UserError, match=f"{name} is not known to treat each element") as caught:
        check_optimizer(optimizer, [])
    assert "SGD, Adam, AdamW" in str(caught.value)
    assert "elementwise = True" in str(caught.value)


def test_a_class_that_says_that_it_is_elementwise_is_taken():
    class Says(Mine):
        elementwise = True

    check_optimizer(Says(), [])
    check_optimizer(optimizers.LossScaleOptimizer(Says()), [])


def test_what_cannot_be_sliced_is_refused():
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


def test_slots_that_are_made_in_another_way_are_refused():
    class Own(optimizers.SGD):
        elementwise = True

        def build(self, variables):
            super().build(variables)
            self.mine = [self.add_variable(v.shape, name="mine") for v in variables]

    weight, optimizer = keras.Variable(np.zeros([3], "float32")), Own()
    slots = _private_api.built_without_slots(optimizer, [weight])
    with pytest.raises(
        UserError, match="makes the variable 'own(_\\d+)?/mine' of shape .3,. by itself"
    ):
        check_slots(optimizer, slots)


def test_owner_on_one_replica_is_replicated_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        assert type(make_updates("owner", Placement())) is Updates
    assert 'model_distribution="owner" on one replica' in caplog.text


def test_gradients_that_are_missing_are_told_of_as_keras_does():
    weights = [keras.Variable(np.zeros([3], "float32"), name=name) for name in "ab"]
    optimizer = optimizers.Adam()
    optimizer.build(weights)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _private_api.check_gradients(optimizer, [np.zeros(3), None], weights)
    assert "['b']" in str(told[0].message)
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
def test_clipping_is_that_of_the_optimizer(limits, expected):
    gradients = [tf.constant([3.0, 4.0]), tf.constant([0.5])]
    optimizer = optimizers.LossScaleOptimizer(optimizers.SGD(**limits))
    assert _private_api.clips(optimizer)
    assert not _private_api.clips(optimizers.SGD())
    for got, value in zip(_private_api.clipped(optimizer, gradients), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-6)
