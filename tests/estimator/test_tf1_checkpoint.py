"""Checkpoints that TensorFlow 1 has written are read by name: weights, slots and global_step."""

import numpy as np
import pytest
import tensorflow as tf

from tests.estimator import iris
from tfbig.errors import CheckpointError

v1 = tf.compat.v1


def session_run(model_dir, steps, restore=None):
    """What tf.estimator did: a graph, a session, a Saver. Returns all values at the end."""
    with tf.Graph().as_default():
        v1.train.create_global_step()
        x, y = tf.constant(iris.X[:50]), tf.constant(iris.Y[:50])
        spec = iris.model_fn({"x": x}, y, "train", iris.PARAMS)
        saver = v1.train.Saver()
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            if restore:
                saver.restore(session, restore)
            for _ in range(steps):
                session.run(spec.train_op)
            saver.save(session, str(model_dir / "model.ckpt"), v1.train.get_global_step())
            return {v.op.name: session.run(v) for v in v1.global_variables()}


def one_batch():
    return tf.data.Dataset.from_tensor_slices(({"x": iris.X[:50]}, iris.Y[:50])).batch(50)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tf1")
    return folder, session_run(folder, 5)


def test_training_goes_on_from_it_as_a_session_would(written, tmp_path):
    folder, _ = written
    expected = session_run(tmp_path, 4, tf.train.latest_checkpoint(str(folder)))
    for file in folder.iterdir():
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    estimator = iris.estimator(tmp_path / "run")
    estimator.train(lambda: one_batch().repeat(), steps=4)
    found = iris.values(tmp_path / "run")
    assert found.keys() == expected.keys()
    assert found["global_step"] == 9
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    assert estimator.latest_checkpoint().startswith(str(tmp_path / "run" / "checkpoints"))


def test_it_is_evaluated_and_used_and_its_variables_are_shown(written):
    folder, values = written
    estimator = iris.estimator(folder)
    assert estimator.evaluate(iris.eval_input_fn)["global_step"] == 5
    assert set(estimator.get_variable_names()) == set(values)
    for name in ("hidden/kernel", "hidden/kernel/Adam_1", "beta1_power"):
        np.testing.assert_array_equal(estimator.get_variable_value(name), values[name])
    assert len(list(estimator.predict(iris.features_input_fn))) == 150


def test_a_session_reads_what_an_estimator_has_written(tmp_path):
    estimator = iris.estimator(tmp_path / "run").train(iris.input_fn)
    (tmp_path / "session").mkdir()
    read = session_run(tmp_path / "session", 0, estimator.latest_checkpoint())
    np.testing.assert_equal(read, iris.values(tmp_path / "run"))


def test_what_the_model_fn_needs_and_it_lacks_is_named(written):
    folder, _ = written
    with pytest.raises(CheckpointError, match="has no .*adam/hidden_kernel_0_momentum.*; it has"):
        iris.estimator(folder, iris.keras_model_fn).train(iris.input_fn)
