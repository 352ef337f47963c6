"""tfbig.layers.ShardedEmbedding: what it looks up, what it begins with, saves and loads."""

import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.layers import ShardedEmbedding
from tfbig.layers.sharded_embedding import hashed
from tfbig.layers.sharded_tables import reshard, rows_of_shard

IDS = np.array([[0, 10, 3], [3, 3, 7]])
RAGGED = [[0, 10, 3], [], [3], [7, 7, 7, 1]]
WEIGHTS = [[1.0, 2.0, 0.5], [], [3.0], [1.0, 1.0, 0.0, 2.0]]


def built(*arguments, **keywords) -> ShardedEmbedding:
    keras.utils.set_random_seed(5)
    layer = ShardedEmbedding(*arguments, **keywords)
    layer.build()
    return layer


# The table.


@pytest.mark.parametrize("shards", [1, 2, 3, 11])
@pytest.mark.parametrize("initializer", ["uniform", "glorot_normal", "ones"])
def test_it_begins_with_the_values_of_an_embedding(shards, initializer):
    keras.utils.set_random_seed(5)
    embedding = keras.layers.Embedding(11, 4, embeddings_initializer=initializer)
    embedding.build()
    layer = built(11, 4, shards, embeddings_initializer=initializer)
    assert len(layer.tables) == shards
    np.testing.assert_array_equal(layer.embeddings, embedding.embeddings.numpy())
    np.testing.assert_array_equal(layer(IDS), embedding(IDS))


def test_neighbouring_rows_lie_on_different_shards():
    layer = built(11, 4, 3)
    for row in range(11):
        shard = layer.tables[row % 3].numpy()
        np.testing.assert_array_equal(layer.embeddings[row], shard[row // 3])
    assert [t.shape[0] for t in layer.tables] == [4, 4, 3]


def test_shards_of_a_large_table_are_drawn_by_themselves(monkeypatch):
    monkeypatch.setattr("tfbig.layers.sharded_embedding._WHOLE", 40)
    tables = [t.numpy() for t in built(12, 4, 3).tables]
    assert len({t.tobytes() for t in tables}) == 3
    assert all(0.01 < np.abs(t).max() <= 0.05 for t in tables)  # uniform, as an Embedding's
    again = [t.numpy() for t in built(12, 4, 3).tables]
    np.testing.assert_array_equal(tables, again)
    assert not built(12, 4, 3, embeddings_initializer="zeros").embeddings.any()
    with pytest.raises(ValueError, match="does not support; use one of RandomUniform"):
        built(12, 4, 3, embeddings_initializer="glorot_uniform")
    built(12, 4, 1, embeddings_initializer="glorot_uniform")


def test_a_generator_of_seeds_is_refused_for_shards():
    generator = keras.random.SeedGenerator(1)
    uniform = keras.initializers.RandomUniform(seed=generator)
    with pytest.raises(ValueError, match="use an integer as its seed"):
        built(11, 4, 2, embeddings_initializer=uniform)


@pytest.mark.parametrize("rows", [7, 12])
def test_a_table_is_cut_again(rows):
    whole = np.arange(rows * 2).reshape(rows, 2)
    for held in (1, 2, 5):
        shards = [whole[i::held] for i in range(held)]
        assert [len(s) for s in shards] == [rows_of_shard(rows, i, held) for i in range(held)]
        for count in (1, 2, 3, 5):
            cut = reshard(shards.__getitem__, held, rows, count)
            for i, shard in enumerate(cut):
                np.testing.assert_array_equal(shard, whole[i::count])


def test_a_table_can_be_assigned():
    layer, table = built(11, 4, 3), np.random.rand(11, 4).astype("float32")
    layer.embeddings = table
    np.testing.assert_array_equal(layer(IDS), table[IDS])
    with pytest.raises(ValueError, match=r"of shape \(11, 4\), received \(4, 11\)"):
        layer.embeddings = table.T


# Looking up.


def test_ragged_ids_without_a_combiner_give_ragged_rows():
    layer = built(11, 4, 2)
    rows = layer(tf.ragged.constant(RAGGED))
    assert rows.shape == [4, None, 4]
    np.testing.assert_array_equal(rows[3], layer.embeddings[[7, 7, 7, 1]])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_combiners_are_those_of_tensorflow(combiner, weighted):
    layer = built(11, 4, 3, combiner=combiner)
    ids, weights = tf.ragged.constant(RAGGED), tf.ragged.constant(WEIGHTS)
    expected = tf.nn.safe_embedding_lookup_sparse(
        tf.constant(layer.embeddings),
        tf.cast(ids, tf.int64).to_sparse(),
        weights.to_sparse() if weighted else None,
        combiner=combiner,
    )
    found = layer(ids, weights=weights) if weighted else layer(ids)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert not found[1].numpy().any()  # of no id


@pytest.mark.parametrize("combiner", ["mean", "sum", "sqrtn"])
def test_padded_ids_are_combined_as_ragged_ones(combiner):
    ragged, padded = built(11, 4, 3, combiner=combiner), built(11, 4, 2, combiner=combiner)
    padded.mask_value = -1
    ids, weights = tf.ragged.constant(RAGGED), tf.ragged.constant(WEIGHTS)
    dense = ids.to_tensor(-1)
    np.testing.assert_allclose(ragged(ids), padded(dense), rtol=1e-6, atol=1e-8)
    found = padded(dense, weights=weights.to_tensor(9.0))
    np.testing.assert_allclose(ragged(ids, weights=weights), found, rtol=1e-6, atol=1e-8)


def test_ids_that_stand_for_none_have_no_gradient():
    layer = built(11, 4, 1, combiner="sum", mask_value=-1)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.array([[-1, 3], [3, -1], [-1, -1]])))
    gradient = tf.convert_to_tensor(tape.gradient(total, layer.tables[0].value)).numpy()
    np.testing.assert_array_equal(gradient[3], 2.0)
    assert not np.delete(gradient, 3, axis=0).any()


def test_without_a_combiner_it_makes_the_mask_of_an_embedding():
    embedding = keras.layers.Embedding(11, 4, mask_zero=True)
    layer = built(11, 4, mask_value=0)
    ids = tf.constant(IDS)
    np.testing.assert_array_equal(layer.compute_mask(ids), embedding.compute_mask(ids))
    assert built(11, 4).compute_mask(ids) is None
    assert built(11, 4, combiner="sum", mask_value=0).compute_mask(ids) is None


def test_a_symbolic_output_is_as_the_real_one():
    for ids, combiner in ((IDS, None), (IDS, "mean"), (tf.ragged.constant(RAGGED), None)):
        layer = built(11, 4, combiner=combiner)
        ragged = isinstance(ids, tf.RaggedTensor)
        symbol = keras.Input([None], dtype="int64", ragged=ragged)
        spec, found = layer(symbol), layer(ids)
        assert found.shape.is_compatible_with(spec.shape)
        assert spec.ragged == (ragged and combiner is None)


def test_half_precision_casts_the_rows_and_not_the_table():
    layer = built(11, 4, 2, combiner="mean", dtype="mixed_bfloat16")
    assert layer.tables[0].dtype == "float32"
    assert layer(IDS).dtype == tf.bfloat16


@pytest.mark.parametrize("bad", [-1, 11, 10**12])
def test_an_id_that_is_out_of_range_is_an_error(bad):
    for shards in (1, 2, 3):
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not in"):
            built(11, 4, shards)(np.array([1, bad]))


# Hashing.


def test_hashed_ids_are_the_same_rows_everywhere():
    assert hashed(tf.constant([0, 1, -1, 2**40], tf.int64), 1000).numpy().tolist() == [
        splitmix(i) % 1000 for i in (0, 1, 2**64 - 1, 2**40)
    ]
    np.testing.assert_array_equal(
        hashed(tf.range(-5, 5), 97), hashed(tf.range(-5, 5, dtype=tf.int64), 97)
    )
    strings = built(11, 4, 2, hash_ids=True)
    rows = tf.strings.to_hash_bucket_fast(["ann", "bob"], 11).numpy()
    assert rows.tolist() == [5, 1]
    np.testing.assert_array_equal(strings(tf.constant(["ann", "bob"])), strings.embeddings[rows])


def splitmix(state: int) -> int:
    """The generator's output after one step, in Python."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("step", [1, 1000, 1024])
def test_ids_in_a_pattern_fall_on_rows_as_if_at_random(step):
    rows = hashed(tf.range(100_000, dtype=tf.int64) * step, 1000).numpy()
    counts = np.bincount(rows, minlength=1000)
    assert 800 < np.sum((counts - 100.0) ** 2 / 100) < 1200  # chi squared of 999 degrees


def test_ids_are_hashed_after_those_that_stand_for_none_are_left_out():
    layer = built(1000, 4, 3, combiner="sum", mask_value="", hash_ids=True)
    found = layer(tf.constant([["ann", ""], ["", ""]]))
    row = tf.strings.to_hash_bucket_fast("ann", 1000).numpy()
    np.testing.assert_array_equal(found[0], layer.embeddings[row])
    assert not found[1].numpy().any()


# Saving.


@pytest.mark.parametrize(("before", "after"), [(3, 3), (3, 1), (1, 4), (2, 5)])
def test_weights_are_loaded_into_other_shards(tmp_path, before, after):
    def model(shards):
        return keras.Sequential([keras.Input([3], dtype="int64"), ShardedEmbedding(11, 4, shards)])

    saved, loaded = model(before), model(after)
    path = tmp_path / "m.weights.h5"
    saved.save_weights(path)
    loaded.load_weights(path)
    np.testing.assert_array_equal(loaded.layers[0].embeddings, saved.layers[0].embeddings)
    assert len(loaded.layers[0].tables) == after


def test_a_keras_file_holds_all_of_it(tmp_path):
    ids, weights = keras.Input([None], dtype="string"), keras.Input([None])
    layer = ShardedEmbedding(
        11, 4, 3, combiner="sqrtn", mask_value="", hash_ids=True, embeddings_initializer="he_normal"
    )
    model = keras.Model([ids, weights], layer(ids, weights=weights))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    batch = [tf.constant([["ann", "", "bob"]]), tf.constant([[1.0, 2.0, 3.0]])]
    np.testing.assert_array_equal(loaded(batch), model(batch))
    assert loaded.layers[-1].get_config() == layer.get_config()


def test_another_size_is_an_error_that_says_so(tmp_path):
    def model(rows):
        return keras.Sequential([keras.Input([3], dtype="int64"), ShardedEmbedding(rows, 4, 2)])

    model(11).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(ValueError, match="has 12 rows of 4 numbers, but the saved .* 11 rows of 4"):
        model(12).load_weights(tmp_path / "m.weights.h5")


@pytest.mark.slow
def test_an_export_serves_strings(tmp_path):
    ids = keras.Input([None], dtype="string", name="ids")
    table = ShardedEmbedding(11, 4, 3, combiner="mean", hash_ids=True)
    model = keras.Model(ids, table(ids))
    tfbig.export(model, str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    batch = tf.constant([["ann", "bob"], ["bob", "bob"]])
    np.testing.assert_array_equal(served.serve(batch), model(batch))


# Bad use.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_dim": 0}, r"input_dim=0\): expected an integer above 0"),
        ({"output_dim": 2.5}, r"output_dim=2.5\): expected an integer above 0"),
        ({"shards": 12}, r"shards=12\): expected \"auto\", or an integer from 1 to input_dim=11"),
        ({"shards": "all"}, r"shards='all'\): expected \"auto\""),
        ({"combiner": "max"}, r"combiner='max'\): expected None or one of 'mean', 'sum', 'sqrtn'"),
        ({"mask_value": ""}, r"mask_value=''\): ids are integers; pass an integer, or hash_ids"),
    ],
)
def test_a_bad_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ShardedEmbedding(**{"input_dim": 11, "output_dim": 4, **arguments})


@pytest.mark.parametrize(
    ("layer", "ids", "weights", "message"),
    [
        ({}, [["a"]], None, "received strings as ids; pass hash_ids=True"),
        ({}, [[1]], [[1.0]], "has no combiner"),
        ({"combiner": "sum"}, [1, 2], None, r"ids of shape \(2,\); omit combiner"),
        ({"combiner": "sum"}, tf.sparse.from_dense([[1]]), None, "tf.RaggedTensor.from_sparse"),
        ({"combiner": "sum"}, tf.ragged.constant([[[1]]]), None, "have rank 3; use ids.merge"),
        ({"combiner": "sum"}, tf.ragged.constant([[1]]), [[1.0]], "ragged ids and dense weights"),
    ],
)
def test_ids_that_do_not_go_are_refused(layer, ids, weights, message):
    ids = tf.constant(ids) if isinstance(ids, list) else ids
    with pytest.raises(ValueError, match=message):
        built(11, 4, 2, **layer)(ids, **({"weights": weights} if weights else {}))


def test_symbolic_strings_are_refused_at_once():
    with pytest.raises(ValueError, match="received strings as ids"):
        built(11, 4)(keras.Input([None], dtype="string"))


# The page.


def test_the_pages_example_runs():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "embeddings.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    given: dict = {}
    exec(code, given)
    predictions = given["result"].model.predict(tf.constant(given["items"][:4]), verbose=0)
    assert (predictions[:, 0] > 0).tolist() == [True, False, True, False]
