"""A Source's random order: the examples of a step depend on the seed and the step alone."""

import keras
import numpy as np
import pytest

import tfbig
from tests import harness
from tests.equivalence import models

EXAMPLES, BATCH, STEPS = 150, 32, 14  # almost three passes; the last batch of each has 22


class Recording(tfbig.data.Source):
    """Digits, which keep the numbers of the examples that were read."""

    def __init__(self):
        self.numbers = []
        self._images, self._labels = models.digits(EXAMPLES)

    def __len__(self) -> int:
        return EXAMPLES

    def read(self, indices):
        self.numbers += [int(i) for i in indices]
        return self._images[indices], self._labels[indices]


def train(devices: int, seed: int, steps_per_loop: int) -> dict:
    """Trains with the strategy's own name; returns the weights and what was read."""
    source = Recording()
    model = tfbig.train_distributed(
        lambda: models.mlp(lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
        lambda: source.batch(BATCH),
        strategy="mirrored" if devices > 1 else "one_device",
        devices=devices,
        max_steps=STEPS,
        config=tfbig.RunConfig(
            tf_random_seed=seed, steps_per_loop=steps_per_loop, jit_compile=False
        ),
    ).model
    numbers = source.numbers[1:]  # the first read asks for the structure alone
    return {
        "weights": [w.tolist() for w in model.get_weights()],
        "numbers": numbers[: 2 * EXAMPLES + 4 * BATCH],
    }


def train_on_one_device() -> dict:
    """Trains three times in one process."""
    return {
        "usual": train(1, seed=3, steps_per_loop=5),
        "another seed": train(1, seed=4, steps_per_loop=5),
        "short loops": train(1, seed=3, steps_per_loop=1),
    }


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory) -> dict:
    return harness.call(train_on_one_device, tmp_path_factory.mktemp("one"), timeout=240)


def test_every_pass_is_a_permutation_of_its_own(on_one_device):
    numbers = on_one_device["usual"]["numbers"]
    passes = [numbers[:EXAMPLES], numbers[EXAMPLES : 2 * EXAMPLES]]

    assert [sorted(p) for p in passes] == [list(range(EXAMPLES))] * 2
    assert passes[0] != passes[1]
    assert passes[0] != sorted(passes[0])


def test_two_replicas_read_the_same_batches_and_end_with_the_same_weights(
    on_one_device, in_process
):
    mirrored = in_process(train, 2, 3, 3)

    assert mirrored["numbers"] == on_one_device["usual"]["numbers"]
    assert difference(mirrored, on_one_device["usual"]) <= 1e-5


def test_another_seed_is_another_order(on_one_device):
    other = on_one_device["another seed"]

    assert other["numbers"] != on_one_device["usual"]["numbers"]
    assert sorted(other["numbers"][:EXAMPLES]) == list(range(EXAMPLES))


def test_steps_in_one_loop_do_not_change_a_bit(on_one_device):
    assert on_one_device["short loops"]["weights"] == on_one_device["usual"]["weights"]


def difference(one: dict, other: dict) -> float:
    pairs = zip(one["weights"], other["weights"], strict=True)
    return max(float(np.max(np.abs(np.subtract(a, b)))) for a, b in pairs)
