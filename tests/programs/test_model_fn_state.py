"""What a model_fn changes besides its weights: seeds, counts, statistics, in whole or in parts."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import UserError

v1 = tf.compat.v1
X = np.arange(1, 25, dtype=np.float32).reshape(12, 2)


def estimator(model_fn, **fields):
    return tfbig.Estimator(model_fn, config=tfbig.RunConfig(jit_compile=False, **fields))


def batches(size=4, passes=1, **options):
    return lambda: tf.data.Dataset.from_tensor_slices(X).batch(size, **options).repeat(passes)


def sgd(loss, rate=0.0, **options):
    step = v1.train.get_global_step()
    return v1.train.GradientDescentOptimizer(rate).minimize(loss, step, **options)


def test_a_layer_draws_another_mask_for_each_call_and_batch():
    def model_fn(features, labels, mode):
        layer = keras.layers.Dropout(0.5, seed=1)
        ones = tf.ones([tf.shape(features)[0], 50])
        masks = tf.stack([layer(ones, training=True) for _ in range(3)], 1)
        return tfbig.EstimatorSpec(mode, predictions={"masks": masks})

    found = [p["masks"] for p in estimator(model_fn).predict(batches())]
    rows = {tuple(row) for example in found for row in example}
    assert len(rows) == 3 * len(X)  # no two are the same


@pytest.mark.parametrize("add", ["assign_add", "assign"])
def test_a_count_is_exact_in_one_part_and_refused_in_two(add):
    def model_fn(features, labels, mode):
        count = v1.get_variable("count", [], initializer=v1.zeros_initializer(), trainable=False)
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        size = tf.cast(tf.shape(features)[0], tf.float32)
        up = v1.assign(count, count + size) if add == "assign" else v1.assign_add(count, size)
        loss = tf.reduce_mean((features - w) ** 2)
        with tf.control_dependencies([up]):
            op = sgd(loss)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=op)

    whole = estimator(model_fn).train(batches(5, passes=2))  # 5, 5, 2
    assert whole.get_variable_value("count") == 24
    with pytest.raises(UserError, match="counts or adds up count over the examples"):
        estimator(model_fn, accumulation_steps=2).train(batches())


def test_a_moving_average_is_the_same_in_two_parts():
    def model_fn(features, labels, mode):
        mean = v1.get_variable("mean", [2], initializer=v1.zeros_initializer(), trainable=False)
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        up = v1.assign(mean, 0.9 * mean + 0.1 * tf.reduce_mean(features, 0))
        loss = tf.reduce_mean((features - w) ** 2)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=tf.group(sgd(loss), up))

    found = [
        estimator(model_fn, accumulation_steps=parts).train(batches()).get_variable_value("mean")
        for parts in (1, 2)
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    expected = np.zeros(2)
    for start in (0, 4, 8):
        expected = 0.9 * expected + 0.1 * X[start : start + 4].mean(0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_static_batch_size_is_that_of_a_part_and_said(caplog):
    def model_fn(features, labels, mode):
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        flat = tf.reshape(features, [features.shape[0] * 2])
        loss = tf.reduce_mean((flat - w) ** 2)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=sgd(loss, 0.1))

    read = batches(4, drop_remainder=True)
    one = estimator(model_fn).train(read).get_variable_value("w")
    assert "of a part of a batch" not in caplog.text
    two = estimator(model_fn, accumulation_steps=2).train(read).get_variable_value("w")
    assert one == pytest.approx(float(two), rel=1e-6)
    assert "and gets that of a part of a batch" in caplog.text


def test_features_keep_their_kind_of_dict():
    def model_fn(features, labels, mode):
        assert isinstance(features, (dict, collections.defaultdict))
        return tfbig.EstimatorSpec(mode, predictions=features["x"] * 2)

    def read():
        features = collections.defaultdict(list)
        features["x"] = X
        return tf.data.Dataset.from_tensor_slices(features).batch(4)

    assert next(estimator(model_fn).predict(read)).tolist() == [2.0, 4.0]


def test_updates_run_with_a_train_op_that_was_made_before():
    def model_fn(features, labels, mode):
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        seen = v1.get_variable("seen", [], initializer=v1.zeros_initializer(), trainable=False)
        up = v1.assign(seen, 0.5 * seen + 0.5 * tf.reduce_mean(features))
        op = sgd(tf.reduce_mean(features - w))
        head = tfbig.estimator.RegressionHead()
        logits = features[:, :1] * w
        return head.create_estimator_spec(
            features, mode, logits, features[:, 1:], train_op_fn=lambda loss: op, update_ops=[up]
        )

    trained = estimator(model_fn).train(batches(12))
    assert trained.get_variable_value("seen") == pytest.approx(0.5 * X.mean())


@pytest.mark.parametrize("optimizer", ["keras", "tf1"])
def test_regularization_of_a_summed_loss_counts_once(optimizer):
    def model_fn(features, labels, mode):
        w = v1.get_variable("w", [1, 1], initializer=v1.ones_initializer())
        head = tfbig.estimator.RegressionHead(loss_reduction="sum")
        made = keras.optimizers.SGD(1e-3)
        if optimizer == "tf1":
            made = v1.train.GradientDescentOptimizer(1e-3)
        return head.create_estimator_spec(
            {"x": features}, mode, features[:, :1] @ w, features[:, 1:], made,
            regularization_losses=[10.0 * tf.reduce_sum(w**2)],
        )  # fmt: skip

    one, two = (
        estimator(model_fn, accumulation_steps=parts).train(batches()).get_variable_value("w")
        for parts in (1, 2)
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert abs(one.item() - 1) > 0.01


def test_a_metric_that_was_not_updated_is_refused():
    def model_fn(features, labels, mode):
        metric = keras.metrics.Mean()
        loss = tf.reduce_mean(features) + v1.get_variable("w", [])
        return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops={"m": metric})

    with pytest.raises(UserError, match=r"Please call update_state\(...\) on the \"m\" metric"):
        estimator(model_fn).evaluate(batches())


def evaluated_on_two() -> dict:
    def model_fn(features, labels, mode):
        each = tf.reduce_sum(features, 1)
        metrics = {"of_loss": v1.metrics.mean(tf.reduce_mean(each)), "each": v1.metrics.mean(each)}
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        loss = tf.reduce_mean(each * w)
        return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops=metrics)

    found = {}
    for devices in (2, 1):
        where = {"strategy": "mirrored", "devices": 2} if devices == 2 else {"devices": 1}
        config = tfbig.RunConfig(jit_compile=False)
        made = tfbig.Estimator(model_fn, config=config, **where)
        found[devices] = made.evaluate(batches(5))
    return found


def test_a_mean_of_one_number_for_a_batch_is_the_same_on_two_devices(in_process):
    found = in_process(evaluated_on_two)
    sums = X.sum(1)
    expected = np.mean([sums[:5].mean(), sums[5:10].mean(), sums[10:].mean()])
    for one in found.values():
        assert one["of_loss"] == pytest.approx(expected, rel=1e-6)
        assert one["each"] == pytest.approx(sums.mean(), rel=1e-6)


def test_averages_of_an_optimizer_that_nothing_reads_are_said(caplog):
    def model_fn(features, labels, mode):
        w = v1.get_variable("w", [], initializer=v1.zeros_initializer())
        optimizer = keras.optimizers.SGD(0.1, use_ema=mode == "train")
        return tfbig.EstimatorSpec(
            mode, loss=tf.reduce_mean((features - w) ** 2), optimizer=optimizer
        )

    estimator(model_fn).train(batches(12))
    assert "use_ema=True, but an Estimator evaluates" in caplog.text
