"""Operations draw and freeze what tfbig takes them to."""

import keras
import numpy as np
import tensorflow as tf

from tests.private_api.values import mirrored
from tfbig import _private_api


def masks(jit: bool) -> np.ndarray:
    layer = keras.layers.Dropout(0.25, seed=5)
    layer.build([64, 32])
    call = tf.function(lambda x: layer(x, training=True), jit_compile=jit)
    with _private_api.reproducible_dropout():
        return np.stack([call(tf.ones([64, 32])).numpy() for _ in range(2)])


def test_reproducible_dropout():
    compiled, graph = masks(True), masks(False)
    np.testing.assert_array_equal(compiled, graph)
    np.testing.assert_allclose(np.unique(graph), [0, 4 / 3], rtol=1e-6)
    assert abs(np.mean(graph == 0) - 0.25) < 0.02  # 4096 draws: three standard deviations
    assert np.mean(graph[0] != graph[1]) > 0.2  # the seed moves on


def test_reproducible_dropout_keeps_rate_0_noise_shapes_and_keras_own_function():
    own = keras.src.backend.random.dropout
    with _private_api.reproducible_dropout():
        ones = tf.ones([8, 16, 4])
        shaped = keras.layers.SpatialDropout1D(0.5, seed=1)(ones, training=True).numpy()
        unchanged = keras.layers.Dropout(0.0)(ones, training=True)
    assert np.all(shaped == shaped[:, :1])
    assert set(np.unique(shaped)) == {0, 2}
    np.testing.assert_array_equal(unchanged, ones)
    assert keras.src.backend.random.dropout is own


def test_variables_as_constants():
    weight = tf.Variable([[2.0], [3.0]])
    function = tf.function(lambda x: x @ weight).get_concrete_function(tf.TensorSpec([None, 2]))
    frozen = _private_api.variables_as_constants(function)
    placeholder = function.graph.captures[0][1].op.name
    constants = {n.name: n.attr["value"].tensor for n in frozen.graph.as_graph_def().node}
    assert tf.make_ndarray(constants[placeholder]).tolist() == [[2.0], [3.0]]
    assert not frozen.variables
    assert frozen(tf.constant([[1.0, 1.0]]))[0].numpy() == [[5.0]]


def ordered(wanted: bool) -> list[list[str]]:
    """For each print of two replicas, in their order: the prints that it waits for."""
    strategy = mirrored()

    def step():
        for i in range(2):
            tf.print("print", i, output_stream="file:///dev/null", name=f"print_{i}")

    @tf.function(autograph=False)
    def run():
        with _private_api.ordered_by_replica(lambda: wanted):
            strategy.run(step)

    graph = run.get_concrete_function().graph
    run()
    prints = [op for op in graph.get_operations() if op.type == "PrintV2"]
    return [[c.name for c in op.control_inputs if c.type == "PrintV2"] for op in prints]


def test_side_effects_wait_for_those_of_their_replica(in_process):
    first, second, third, fourth = in_process(ordered, True)
    assert (first, third) == ([], [])
    assert [len(second), len(fourth)] == [1, 1]
    assert "replica_1" not in second[0]
    assert "replica_1" in fourth[0]
    assert [len(waits) for waits in in_process(ordered, False)] == [0, 1, 1, 1]  # TensorFlow's way
