"""MixUp and CutMix: partners, shares and labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig.data.augmentation import Augmentation, Draw
from tfbig.errors import UserError

BATCH = 16
KEYS = dict(seed=5, step=9, batch_size=BATCH)
X = np.random.default_rng(0).uniform(0, 255, (BATCH, 8, 10, 3)).astype("float32")
Y = np.eye(BATCH, dtype="float32")


def partners(name: str) -> np.ndarray:
    transform = Augmentation([{"name": name}]).transforms[0]
    draw = Draw(KEYS["seed"], KEYS["step"], 0, BATCH)
    return transform.partners(draw.rng(), draw)


def test_mixup_is_the_weighted_mean_of_an_example_and_its_partner_and_so_are_labels():
    x, y, w = Augmentation([{"name": "MixUp", "alpha": 1.0}]).train(
        (X, Y, np.arange(BATCH, dtype="float32")), positions=np.arange(BATCH), **KEYS
    )
    partner = partners("MixUp")
    assert sorted(partner) == list(range(BATCH))
    shares = []
    for i, p in enumerate(partner):
        share = y[i, i] if p != i else 1
        shares.append(share)
        np.testing.assert_allclose(x[i], share * X[i] + (1 - share) * X[p], atol=1e-3)
        np.testing.assert_allclose(y[i], share * Y[i] + (1 - share) * Y[p], atol=1e-6)
        np.testing.assert_allclose(w[i], share * i + (1 - share) * p, atol=1e-4)
    assert np.std(shares) > 0.1  # one for each example
    np.testing.assert_allclose(y.sum(axis=1), 1, rtol=1e-6)


def test_cutmix_puts_a_box_of_the_partner_in_and_labels_by_its_share_of_the_pixels():
    x, y = Augmentation([{"name": "CutMix"}]).train((X, Y), positions=np.arange(BATCH), **KEYS)
    shares = []
    for i, p in enumerate(partners("CutMix")):
        from_partner = (x[i] == X[p]).all(axis=-1)
        own = (x[i] == X[i]).all(axis=-1)
        assert (from_partner | own).all()
        if p != i:
            rows, columns = np.nonzero(from_partner)
            if len(rows):
                box = from_partner[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert box.all()
            shares.append(from_partner.mean())
            np.testing.assert_allclose(y[i, p], from_partner.mean(), atol=1e-6)
            np.testing.assert_allclose(y[i, i], 1 - from_partner.mean(), atol=1e-6)
    assert len(set(shares)) > 5


def test_a_worker_reads_its_examples_and_their_partners_and_no_others():
    both = Augmentation([{"name": "MixUp"}])
    needed = both.needed(positions=[2, 3], **KEYS)
    np.testing.assert_array_equal(needed, np.union1d([2, 3], partners("MixUp")[[2, 3]]))
    assert Augmentation([{"name": "RandomFlip"}]).needed(positions=[2, 3], **KEYS).tolist() == [
        2,
        3,
    ]


def test_partners_of_partners_are_read_where_two_mix_one_after_the_other():
    both = Augmentation([{"name": "MixUp"}, {"name": "RandomFlip"}, {"name": "CutMix"}])
    whole = [np.asarray(a) for a in both.train((X, Y), positions=np.arange(BATCH), **KEYS)]
    for shard in ([0], [3, 9], [1, 2, 14]):
        needed = both.needed(positions=shard, **KEYS)
        assert len(shard) < len(needed) <= 4 * len(shard)
        part = both.train((X[needed], Y[needed]), positions=needed, wanted=shard, **KEYS)
        np.testing.assert_array_equal(part[0], whole[0][shard])
        np.testing.assert_array_equal(part[1], whole[1][shard])


def test_an_example_whose_partner_was_left_out_is_mixed_with_itself():
    mixup = Augmentation([{"name": "MixUp", "alpha": 1.0}])
    partner = partners("MixUp")
    i = int(np.flatnonzero(partner != np.arange(BATCH))[0])
    kept = np.delete(np.arange(BATCH), partner[i])
    x, y = mixup.train((X[kept], Y[kept]), positions=kept, wanted=kept, **KEYS)
    row = int(np.flatnonzero(kept == i)[0])
    np.testing.assert_allclose(x[row], X[i], rtol=1e-6)
    np.testing.assert_allclose(y[row], Y[i], rtol=1e-6)
    others = [r for r, k in enumerate(kept) if partner[k] in kept]
    whole = mixup.train((X, Y), positions=np.arange(BATCH), **KEYS)
    np.testing.assert_array_equal(x[others], whole[0][kept[others]])


def test_mixup_mixes_features_of_any_shape_and_needs_no_labels():
    table = np.random.default_rng(1).normal(size=(BATCH, 5)).astype("float32")
    mixup = Augmentation([keras.layers.MixUp(alpha=0.4)])
    found = mixup.train(table, positions=np.arange(BATCH), **KEYS)
    assert found.shape == table.shape
    assert not np.array_equal(found, table)
    assert mixup.output_spec(tf.TensorSpec([5], tf.float32)) == tf.TensorSpec([5], tf.float32)


@pytest.mark.parametrize("name", ["MixUp", "CutMix"])
def test_labels_that_are_class_numbers_are_refused_with_what_to_write(name):
    augmentation = Augmentation([{"name": name}])
    spec = (tf.TensorSpec([8, 10, 3], tf.float32), tf.TensorSpec([], tf.int64))
    wanted = rf"^{name} mixes labels, .* received int64 of shape \[\]\. .*to_categorical[^\n]*$"
    with pytest.raises(UserError, match=wanted):
        augmentation.output_spec(spec)
    with pytest.raises(UserError, match=wanted):
        augmentation.train((X, np.arange(BATCH)), positions=np.arange(BATCH), **KEYS)


def test_cutmix_needs_images():
    with pytest.raises(UserError, match=r"^CutMix needs images .* received \[5\]\.$"):
        Augmentation([{"name": "CutMix"}]).output_spec(tf.TensorSpec([5], tf.float32))


def test_cutmix_refuses_labels_or_weights_of_places():
    augmentation = Augmentation([{"name": "CutMix"}])
    image, one_hot = tf.TensorSpec([8, 10, 3], tf.float32), tf.TensorSpec([4], tf.float32)
    places = tf.TensorSpec([8, 10], tf.float32)
    for spec in ((image, places), (image, {"a": one_hot, "b": places}), (image, one_hot, places)):
        with pytest.raises(UserError, match=r"per pixel, .* shape \[8, 10\]\. Use MixUp"):
            augmentation.output_spec(spec)
    assert augmentation.output_spec((image, {"a": one_hot}))[1] == {"a": one_hot}
