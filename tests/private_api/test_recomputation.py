"""The nodes of a Keras model's graph, and what a gradient tape records.

These tests guard Node of tfbig._private_api.
"""

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api


def test_graph_nodes():
    inputs = keras.Input((2, 3))
    twice = keras.layers.Dense(3)
    model = keras.Model(inputs, keras.ops.add(twice(twice(inputs)), inputs) * 2)
    nodes = _private_api.graph_nodes(model)
    assert [n.operation for n in nodes[:2]] == [twice, twice]
    assert len(nodes) == 4
    assert nodes[0].inputs == [id(model.inputs[0])]
    assert nodes[1].inputs == nodes[0].outputs
    assert nodes[2].inputs == [*nodes[1].outputs, id(model.inputs[0])]
    assert nodes[3].outputs == [id(model.outputs[0])]
    assert nodes[0].sizes == [6]
    assert nodes[0].differentiable == [True]
    assert nodes[0].arguments[0][0] is model.inputs[0]
    assert nodes[0].arguments[1] == {}
    tensors = {id(model.inputs[0]): tf.ones([1, 2, 3])}
    for node in nodes:
        node.run(tensors, lambda operation: operation)
    np.testing.assert_array_equal(tensors[id(model.outputs[0])], model(tf.ones([1, 2, 3])))


def test_is_recorded():
    watched, other = tf.constant(1.0), tf.constant(1.0)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        assert _private_api.is_recorded(watched * 2)
        assert not _private_api.is_recorded(other * 2)
        assert not _private_api.is_recorded(tf.cast(watched, tf.int32))
    assert not _private_api.is_recorded(watched)
