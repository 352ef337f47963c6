"""The advice of `tfbig migrate` works: it is followed word for word, and the program runs."""

import textwrap

import numpy as np
import pytest

from tests.migration.follow import followed

# Its arguments have the names that the advice uses.
MODEL = """
import tensorflow as tf


def input_fn():
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).repeat()
    batch_size = 8
    DATASET
    return dataset


def model_fn(features, labels, mode):
    inputs = tf.reshape(features, [-1, 4, 4, 1])
    is_training, num_outputs, kernel_size = mode == tf.estimator.ModeKeys.TRAIN, 3, [3, 3]
    keep_prob, learning_rate, scope = 0.5, 0.01, None
    global_step = tf.train.get_global_step()
    loss = 0.0
    BODY
    output = tf.layers.dense(tf.layers.flatten(inputs), 1)
    loss += tf.losses.mean_squared_error(labels, output)
    TRAIN
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


estimator = tf.estimator.Estimator(model_fn, model_dir=FOLDER)
"""
TRAIN = "train_op = tf.train.AdamOptimizer(learning_rate).minimize(loss, global_step)"
DATASET = "dataset = dataset.batch(batch_size)"
BODIES = {
    "fully_connected": "inputs = tf.contrib.layers.fully_connected(features, num_outputs)",
    "linear": "inputs = tf.contrib.layers.linear(inputs, num_outputs)",
    "batch_norm": "inputs = tf.contrib.layers.batch_norm(inputs, is_training=is_training)",
    "dropout": "inputs = tf.contrib.layers.dropout(inputs, keep_prob, is_training=is_training)",
    "conv2d": "inputs = tf.contrib.layers.conv2d(inputs, num_outputs, kernel_size)",
    "max_pool2d": "inputs = tf.contrib.layers.max_pool2d(inputs, kernel_size)",
    "embed_sequence": """
        ids, vocab_size, embed_dim = tf.to_int32(features), 5, 3
        inputs = tf.contrib.layers.embed_sequence(ids, vocab_size, embed_dim)
        """,
    "variance_scaling_initializer": """
        initializer = tf.contrib.layers.variance_scaling_initializer()
        inputs = tf.layers.conv2d(inputs, 3, 3, kernel_initializer=initializer)
        """,
    "xavier_initializer": """
        initializer = tf.contrib.layers.xavier_initializer(uniform=False)
        inputs = tf.layers.conv2d(inputs, 3, 3, kernel_initializer=initializer)
        """,
    "regularizers": """
        both = [tf.contrib.layers.l2_regularizer(0.5), tf.contrib.layers.l1_regularizer(0.5)]
        for index, regularizer in enumerate(both):
            inputs *= tf.get_variable(
                "w%d" % index, [], initializer=tf.ones_initializer(), regularizer=regularizer)
        loss += tf.losses.get_regularization_loss()
        """,
    "model_variable": """
        name, shape = "w", []
        inputs *= tf.contrib.framework.model_variable(name, shape)
        """,
    "get_trainable_variables": """
        inputs *= tf.get_variable("w", [])
        loss += sum(map(tf.nn.l2_loss, tf.contrib.framework.get_trainable_variables(scope)))
        loss += 0.0 * len(tf.contrib.framework.get_variables(scope))
        """,
    "partitioner": """
        inputs *= tf.get_variable("w", [4, 4, 1], partitioner=tf.fixed_size_partitioner(2))
        """,
    "summary": """
        name, tensor = "mean", tf.reduce_mean(inputs)
        tf.contrib.summary.scalar("other", tensor, step=global_step)
        tf.contrib.summary.histogram("values", inputs)
        """,
    "HParams": """
        hparams = tf.contrib.training.HParams(units=3, rate=0.1)
        inputs = tf.layers.dense(inputs, hparams.units)
        """,
    "columns": """
        name, size, keys = "x", 4, [0, 1, 2]
        column = tf.contrib.layers.real_valued_column(name)
        bucketed = tf.contrib.layers.sparse_column_with_hash_bucket(name, size)
        listed = tf.contrib.layers.sparse_column_with_keys(name, keys)
        inputs = tf.feature_column.input_layer({"x": features[:, :1]}, [column])
        """,
}


def program(folder, body="", train=TRAIN, dataset=DATASET) -> tuple[str, int]:
    parts = {"BODY": body, "TRAIN": train, "DATASET": dataset}
    text = MODEL.replace("FOLDER", repr(str(folder)))
    for name, code in parts.items():
        code = textwrap.indent(textwrap.dedent(code).strip(), "    ").strip()
        text = text.replace(f"    {name}\n", f"    {code}\n" if code else "")
    return followed(text)


def run(text: str) -> dict:
    random = np.random.default_rng(0)
    names = {
        "IMAGES": random.uniform(size=[16, 16]).astype("float32"),
        "LABELS": random.normal(size=[16, 1]).astype("float32"),
    }
    exec(compile(text, "program.py", "exec"), names)
    estimator = names["estimator"]
    estimator.train(names["input_fn"], steps=2)
    assert estimator.get_variable_value("global_step") == 2
    return {name: estimator.get_variable_value(name) for name in estimator.get_variable_names()}


@pytest.mark.parametrize("name", BODIES)
def test_what_replaces_a_name_of_contrib_works_in_a_model_fn(name, tmp_path):
    text, count = program(tmp_path, BODIES[name])
    assert count <= 3
    assert "contrib" not in text.replace("compat.v1.contrib", "")
    run(text)


def test_regularizers_are_those_of_contrib(tmp_path):
    loss = "tf.losses.get_regularization_loss()"
    train = f"train_op = tf.train.GradientDescentOptimizer(0.1).minimize({loss}, global_step)"
    text, count = program(tmp_path, BODIES["regularizers"], train)
    assert count == 0
    values = run(text)  # two steps from 1, by the gradients scale * w and scale
    assert values["w0"] == pytest.approx((1 - 0.1 * 0.5) ** 2)
    assert values["w1"] == pytest.approx(1 - 2 * 0.1 * 0.5)


def test_the_advice_for_a_train_op_trains(tmp_path):
    body = "dense = tf.contrib.layers.fully_connected(features, num_outputs)"
    train = "train_op = tf.contrib.layers.optimize_loss(loss, global_step, 0.01, 'Adam')"
    text, count = program(tmp_path, body, train)
    assert count == 1
    assert {"dense/kernel", "OptimizeLoss/dense_1/kernel/Adam"} <= run(text).keys()


@pytest.mark.parametrize(
    ("dataset", "count"),
    [
        ("dataset = dataset.apply(tf.contrib.data.batch_and_drop_remainder(batch_size))", 1),
        (
            "dataset = dataset.apply(tf.contrib.data.map_and_batch(lambda *b: b, batch_size, "
            "num_parallel_batches=2, drop_remainder=True))",
            0,
        ),
        (
            "dataset = dataset.apply(tf.contrib.data.shuffle_and_repeat(9, seed=1))\n"
            "dataset = dataset.batch(batch_size)\n"
            "iterator = dataset.make_one_shot_iterator()\n"
            "features, labels = iterator.get_next()\n"
            "return features, labels",
            0,
        ),
        (
            """
            map_func, cycle_length = lambda *b: tf.data.Dataset.from_tensors(b), 2
            dataset = dataset.apply(tf.contrib.data.sloppy_interleave(map_func, cycle_length))
            dataset = dataset.batch(batch_size)
            """,
            1,
        ),
    ],
)
def test_the_advice_for_an_input_fn_gives_batches(dataset, count, tmp_path):
    text, changed = program(tmp_path, dataset=dataset)
    assert changed == count
    run(text)


def test_the_advice_for_a_tpu_estimator_trains(tmp_path):
    text, _ = program(tmp_path)
    tail = """
        config = tf.contrib.tpu.RunConfig(
            model_dir=FOLDER, save_checkpoints_steps=2, session_config=options(),
            tpu_config=tf.contrib.tpu.TPUConfig(iterations_per_loop=2))
        estimator = tf.contrib.tpu.TPUEstimator(
            model_fn, config=config, params={"rate": 0.1}USE)
        """
    model = """
        import tensorflow as tf


        def options():
            return tf.ConfigProto(allow_soft_placement=True)


        def input_fn(params):
            return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).repeat().batch(8)


        def model_fn(features, labels, mode, params):
            loss = tf.losses.mean_squared_error(labels, tf.layers.dense(features, 1))
            optimizer = tf.contrib.tpu.CrossShardOptimizer(
                tf.train.GradientDescentOptimizer(params["rate"]))
            train_op = optimizer.minimize(loss, tf.train.get_global_step())
            call = (lambda step: tf.contrib.summary.scalar("step", step), [1])
            return tf.contrib.tpu.TPUEstimatorSpec(
                mode, loss=loss, train_op=train_op, host_call=call)


        """
    for use in (", use_tpu=True", ""):
        text = textwrap.dedent(model) + textwrap.dedent(tail).replace("USE", use)
        text, count = followed(text.replace("FOLDER", repr(str(tmp_path / f"{use[2:5]}model"))))
        assert count == 3  # session_config, use_tpu and host_call
        values = run(text)
        assert values["dense/kernel"].shape == (16, 1)
