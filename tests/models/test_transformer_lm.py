"""The Transformer language model: its shape, its causality, its loss before training."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.models import transformer_lm
from tfbig.models.transformer_lm import CausalSelfAttention, LearnedPositions

TINY = {"layers": 2, "width": 32, "heads": 4, "sequence_length": 16}


@pytest.fixture(scope="module")
def tiny():
    keras.utils.set_random_seed(0)
    return transformer_lm.build(TINY)


def tokens(n=3, length=16, seed=0):
    return np.random.RandomState(seed).randint(0, 256, [n, length]).astype(np.int32)


def test_the_default_has_3_3_million_parameters_and_gives_a_logit_for_each_byte():
    keras.utils.set_random_seed(0)
    model = transformer_lm.build()
    assert model.count_params() == pytest.approx(3.3e6, rel=0.05)
    logits = model(tokens(2, 128))
    assert (logits.shape, logits.dtype) == ((2, 128, 256), "float32")
    results = model.evaluate(tokens(8, 128, 1), tokens(8, 128, 2), verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(math.log(256), abs=0.15)
    assert results["bits_per_byte"] == pytest.approx(8, abs=0.2)


def test_params_set_the_size(tiny):
    width, inner = 32, 4 * 32
    block = 2 * 2 * width + 4 * width * (width + 1) + width * (inner + 1) + inner * width + inner
    expected = 256 * width + 16 * width + 2 * block + 2 * width
    assert tiny.count_params() == expected
    free = transformer_lm.build({**TINY, "tied_embedding": False, "vocabulary_size": 100})
    assert free.count_params() == expected - 156 * width + 100 * width


def test_a_later_token_does_not_change_earlier_logits(tiny):
    x = tokens()
    before = np.asarray(tiny(x))
    for place in (0, 5, 15):
        changed = x.copy()
        changed[:, place] = (changed[:, place] + 1) % 256
        after = np.asarray(tiny(changed))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert np.abs(after[:, place:] - before[:, place:]).max(axis=(0, 2)).min() > 1e-4


def test_a_position_sees_tokens_and_their_places(tiny):
    x = tokens(1)
    swapped = x[:, [1, 0, *range(2, 16)]]
    assert np.abs(np.asarray(tiny(swapped)) - np.asarray(tiny(x)))[0, 5].max() > 1e-5


def test_a_shorter_sequence_has_the_logits_of_the_longer_ones_beginning(tiny):
    x = tokens()
    np.testing.assert_allclose(tiny(x[:, :7]), np.asarray(tiny(x))[:, :7], atol=1e-6)


def test_attention_is_the_textbooks():
    layer = CausalSelfAttention(heads=2)
    x = np.random.RandomState(0).randn(2, 5, 6).astype(np.float32)
    layer.build(x.shape)
    layer.qkv.kernel.assign(np.random.RandomState(1).randn(6, 18))
    layer.out.kernel.assign(np.random.RandomState(2).randn(6, 6))
    query, key, value = np.split(x @ np.asarray(layer.qkv.kernel), 3, axis=-1)
    expected = np.zeros_like(x)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for b in range(2):
            for t in range(5):
                scores = key[b, : t + 1, part] @ query[b, t, part] / np.sqrt(3)
                weights = np.exp(scores - scores.max())
                expected[b, t, part] = weights / weights.sum() @ value[b, : t + 1, part]
    np.testing.assert_allclose(
        layer(x), expected @ np.asarray(layer.out.kernel), rtol=1e-4, atol=1e-4
    )


def test_the_residual_outputs_begin_smaller_the_deeper_the_model():
    keras.utils.set_random_seed(0)
    model = transformer_lm.build({**TINY, "layers": 8, "width": 64})
    outputs = [model.get_layer("block_3_attention").out, model.get_layer("block_7_mlp_out")]
    for layer in outputs:
        assert np.std(layer.kernel) == pytest.approx(0.02 / math.sqrt(16), rel=0.05)
    assert np.std(model.get_layer("block_0_mlp_in").kernel) == pytest.approx(0.02, rel=0.05)
    first, second = (model.get_layer(f"block_{i}_mlp_in").kernel for i in (0, 1))
    assert np.abs(np.asarray(first) - np.asarray(second)).max() > 0.01  # not the same numbers


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_and_close_under_mixed_precision(tiny, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        mixed = transformer_lm.build(TINY)
    finally:
        keras.config.set_dtype_policy(before)
    assert mixed.get_layer("block_0_attention").qkv.compute_dtype == policy.removeprefix("mixed_")
    logits = mixed(tokens())
    assert logits.dtype == "float32"
    np.testing.assert_allclose(logits, tiny(tokens()), atol=0.02)


@pytest.mark.slow
def test_it_learns_a_repeated_text():
    keras.utils.set_random_seed(0)
    model = transformer_lm.build({**TINY, "dropout": 0.1})
    model.optimizer.learning_rate = 1e-2
    text = np.frombuffer(b"the quick brown fox. " * 20, np.uint8).astype(np.int32)
    x = np.stack([text[i : i + 16] for i in range(0, 320, 5)])
    y = np.stack([text[i + 1 : i + 17] for i in range(0, 320, 5)])
    model.fit(x, y, epochs=25, batch_size=16, verbose=0)
    # What is left is the start of a window, before the place in the text is known.
    assert model.evaluate(x, y, verbose=0, return_dict=True)["bits_per_byte"] < 1.0


def test_a_saved_model_is_loaded_in_safe_mode_with_its_metric(tiny, tmp_path):
    tiny.save(tmp_path / "lm.keras")
    loaded = keras.saving.load_model(tmp_path / "lm.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(tokens()), tiny(tokens()))
    ours, theirs = (
        model.evaluate(tokens(), tokens(seed=1), verbose=0, return_dict=True)
        for model in (tiny, loaded)
    )
    assert theirs == pytest.approx(ours)
    assert loaded.get_layer("block_1_attention").residual_scale == 0.5


def test_it_compiles_with_xla(tiny):
    compiled = tf.function(lambda x: tiny(x), jit_compile=True)
    np.testing.assert_allclose(compiled(tokens()), tiny(tokens()), atol=1e-5)


def test_unknown_params_and_heads_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="'d_model'; the known ones are: vocabulary_size, sequence"):
        transformer_lm.build({"d_model": 3})
    with pytest.raises(UserError, match="heads=5 does not divide width=32; choose a width that is"):
        transformer_lm.build({**TINY, "heads": 5})


def test_a_sequence_that_is_too_long_is_refused_with_what_to_write(tiny):
    with pytest.raises(
        UserError, match="received sequences of 17 tokens, but the model was built "
    ):
        LearnedPositions(16)(np.zeros([1, 17, 32], np.float32))
    with pytest.raises(UserError, match="build it with params.sequence_length=20"):
        tiny(tokens(1, 20))
