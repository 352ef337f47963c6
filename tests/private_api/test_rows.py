"""Keras's optimizers update single rows of a table as they update the whole table."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.private_api.values import mirrored
from tfbig import _private_api


def table_and_bias() -> list:
    return [
        keras.Variable(np.float32([[1.0, -2.0], [3.0, 4.0], [5.0, 6.0]]), name="table"),
        keras.Variable(np.float32([0.5]), name="bias"),
    ]


def table_named(variable) -> str | None:
    return "table" if variable.name == "table" else None


def gradients_of_rows(variables) -> tuple[list, list]:
    """The same gradients, with rows 2 and 0 of the table as slices, and dense."""
    slices = tf.IndexedSlices(tf.constant([[0.3, 0.4], [-1.0, 2.0]]), [2, 0], [3, 2])
    bias = tf.constant([2.0])
    return [slices, bias], [tf.convert_to_tensor(slices), bias]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    "clip", [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 0.5}]
)
def test_row_wise_updates(clip, scaled):
    found = []
    for of_rows in (True, False):
        variables = table_and_bias()
        optimizer = keras.optimizers.Adagrad(0.1, **clip)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
        optimizer.build(variables)
        slices, dense = gradients_of_rows(variables)

        @tf.function
        def update():
            with _private_api.row_wise_updates(optimizer, table_named):  # noqa: B023
                for _ in range(2):
                    optimizer.apply(slices if of_rows else dense, variables)  # noqa: B023

        update()
        whole = [
            tuple(tensor.shape)
            for operation in update.get_concrete_function().graph.get_operations()
            for tensor in operation.outputs
        ]
        assert ((3, 2) in whole) != of_rows
        found.append([v.numpy() for v in [*variables, *optimizer.variables]])
        assert "update_step" not in vars(_private_api.unwrap_optimizer(optimizer))
    for ours, keras_own in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-6)


def test_an_optimizer_without_a_table_is_left_as_it_is():
    with _private_api.row_wise_updates(None, table_named):
        pass
    assert not _private_api.enable_row_wise_updates(object(), table_named)
    kernel, bias = table_and_bias()
    optimizer = keras.optimizers.Adagrad()
    assert not _private_api.enable_row_wise_updates(optimizer, table_named)
    optimizer.build([bias])
    assert not _private_api.enable_row_wise_updates(optimizer, table_named)
    assert "update_step" not in vars(optimizer)
    optimizer = keras.optimizers.Adagrad()
    optimizer.build([kernel, bias])
    assert _private_api.enable_row_wise_updates(optimizer, table_named)


def test_shards_are_clipped_as_one_table():
    table = tf.constant([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    shards = [tf.IndexedSlices(table[:1], [5], [8, 2]), table[1:]]
    other, shared = tf.constant([2.0]), object()
    optimizer = keras.optimizers.SGD(clipnorm=1.0)
    sliced, dense, alone = _private_api.clip_by_table(
        optimizer, [*shards, other], [shared, shared, None]
    )
    np.testing.assert_allclose(sliced.values, [[0.6, 0.0]], rtol=1e-6)
    assert sliced.indices is shards[0].indices
    np.testing.assert_allclose(dense, [[0.0, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(alone, [1.0], rtol=1e-6)
    for i, part in enumerate(_private_api.clip_gradients(optimizer, [table[:1], table[1:]])):
        assert np.linalg.norm(part) == pytest.approx(1.0), i  # each by itself is Keras's own way


def test_slots_of():
    kernel, bias = table_and_bias()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    optimizer.build([kernel, bias])
    (slots,) = _private_api.slots_of(optimizer, [bias])
    assert {slot.path.rpartition("bias_")[2] for slot in slots.values()} == {"momentum", "velocity"}
    assert _private_api.slots_of(optimizer, [kernel])[0].keys() == slots.keys()
    plain = keras.optimizers.SGD()
    plain.build([kernel])
    assert _private_api.slots_of(plain, [kernel]) == [{}]


def rows_gathered_in_replicas() -> dict:
    strategy = mirrored()
    with strategy.scope():
        variable = keras.Variable(np.float32([[0.0], [1.0], [2.0]]))

    def types(copy) -> list[str]:
        def replica():
            return tf.gather(copy(variable), [1])

        function = tf.function(lambda: strategy.run(replica), autograph=False)
        graph = function.get_concrete_function().graph
        return sorted(
            {o.type for o in graph.get_operations()} & {"ResourceGather", "ReadVariableOp"}
        )

    return {"ours": types(_private_api.replica_copy), "plain": types(lambda v: v.value)}


def test_replica_copy(in_process):
    assert in_process(rows_gathered_in_replicas) == {
        "ours": ["ResourceGather"],
        "plain": ["ReadVariableOp"],
    }
    plain = tf.Variable([1.0])
    assert _private_api.replica_copy(plain) is plain
