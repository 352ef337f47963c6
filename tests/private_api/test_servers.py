"""What TensorFlow says about parameter servers and Python functions."""

import numpy as np
import tensorflow as tf

from tfbig import _private_api


def test_parameter_server_count():
    """With such a strategy: tests/layers/test_sharded_embedding_training.py."""
    assert _private_api.parameter_server_count(tf.distribute.get_strategy()) == 0


def test_register_python_function():
    _private_api.register_python_function("tfbig_test", lambda x: [np.float32(2) * x])

    @tf.function
    def called(x):
        return tf.raw_ops.PyFunc(input=[x], token="tfbig_test", Tout=[tf.float32])[0]

    assert float(called(tf.constant(4.0))) == 8.0
    _private_api.register_python_function("tfbig_test", lambda x: [np.float32(3) * x])
    assert float(called(tf.constant(4.0))) == 12.0  # the name is looked up when it runs
