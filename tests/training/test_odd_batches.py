"""The smaller batch at the end of a pass is compiled too, where padding is not exact."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.training import small_runs
from tfbig.placement.loop_function import LoopFunction

v1 = tf.compat.v1


def normalized() -> keras.Model:
    layers = [keras.layers.Dense(8, use_bias=False), keras.layers.BatchNormalization()]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return model


def keras_model_fn(features, labels, mode):
    logits = keras.layers.Dense(3)(keras.layers.Dense(8, "relu")(features))
    loss = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(0.01))


def tf1_model_fn(features, labels, mode):
    with v1.variable_scope("logits"):
        kernel = v1.get_variable("kernel", [8, 3], initializer=v1.zeros_initializer())
        logits = tf.matmul(features, kernel)
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    train_op = v1.train.AdamOptimizer(0.01).minimize(loss, v1.train.get_global_step())
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op)


@pytest.fixture
def traced(monkeypatch) -> list[tuple[bool, int | None]]:
    """(exact, the size that is compiled besides the full one) of each function that is traced."""
    made, trace = [], LoopFunction._traced

    def noted(self, *, exact, jit):
        made.append((exact, None if exact else self._odd()))
        return trace(self, exact=exact, jit=jit)

    monkeypatch.setattr(LoopFunction, "_traced", noted)
    return made


def weights(folder, model_fn, input_fn, **options) -> dict[str, np.ndarray]:
    config = small_runs.config(**{"jit_compile": True, "log_step_count_steps": 40, **options})
    result = small_runs.train(
        model_fn,
        input_fn,
        config=config,
        epochs=1 if input_fn is repeated else 4,
        model_dir=str(folder),
    )  # four passes of ten batches, the last of each half as large as the others
    return small_runs.saved_variables(folder, result.global_step)


def repeated() -> tf.data.Dataset:
    return small_runs.dataset().repeat(4)


@pytest.mark.slow
@pytest.mark.parametrize("data", [small_runs.source, small_runs.dataset, repeated])
@pytest.mark.parametrize("model_fn", [normalized, keras_model_fn, tf1_model_fn])
def test_it_computes_what_a_graph_does_for_a_batch_of_its_size(model_fn, data, tmp_path, traced):
    compiled = weights(tmp_path / "compiled", model_fn, data)
    # A Dataset shows the size with the first such batch, at the end of the first pass.
    half = small_runs.BATCH // 2
    first = [(False, half)]
    assert traced == (first if data is small_runs.source else [(False, None), *first])
    plain = weights(tmp_path / "plain", model_fn, data, jit_compile=False)
    assert compiled.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(compiled[name], value, atol=1e-5, err_msg=name)


def test_it_is_left_to_a_graph_where_it_is_cut_into_micro_batches(tmp_path, traced):
    weights(tmp_path, keras_model_fn, small_runs.source, accumulation_steps=2)
    assert traced == [(False, None), (True, None)]
