"""What TensorFlow 1 code does in a graph can be observed."""

import contextlib
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbig import _private_api

v1 = tf.compat.v1


def test_observed_gradients():
    seen = []
    with tf.Graph().as_default():
        variable = v1.get_variable("v", [2], use_resource=True)
        loss = tf.reduce_sum(variable * 3.0)
        with _private_api.observed_gradients(lambda *found: seen.append(found)):
            first = tf.gradients(loss, [variable])
            second = v1.train.AdamOptimizer().compute_gradients(loss, [variable])
        tf.gradients(loss, [variable])
    assert len(seen) == 2
    assert all(ys[0] is loss and xs[0] is variable for ys, xs, _ in seen)
    assert seen[0][2][0] is first[0]
    assert seen[1][2][0].shape == second[0][0].shape


def test_observed_checkpoint_initializers(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("old/v", [2])
        session.run(v1.global_variables_initializer())
        path = v1.train.Saver().save(session, str(tmp_path / "model"))
    seen = []
    with tf.Graph().as_default():
        variable = v1.get_variable("new/v", [2])
        before = variable.initializer
        with _private_api.observed_checkpoint_initializers(lambda *found: seen.append(found)):
            v1.train.init_from_checkpoint(path, {"old/": "new/"})
        assert variable.initializer is before
    ((found, *rest),) = seen
    assert found is variable
    assert rest == [path, "old/v", ""]


def test_observed_synchronization():
    seen = []
    layer = keras.layers.BatchNormalization(synchronized=True)
    with _private_api.observed_synchronization(lambda: seen.append(True)):
        layer(np.ones((2, 3), "float32"), training=True)
        assert seen == [True]
        keras.layers.BatchNormalization()(np.ones((2, 3), "float32"), training=True)
    layer(np.ones((2, 3), "float32"), training=True)
    assert seen == [True]


def test_tables_outside_graph():
    made = []

    @tf.function(autograph=False)
    def look(words):
        with _private_api.tables_outside_graph(made):
            first = v1.feature_column.input_layer(
                {"w": words},
                tf.feature_column.indicator_column(
                    tf.feature_column.categorical_column_with_vocabulary_list("w", ["a", "b"])
                ),
            )
            table = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(tf.constant(["a"]), tf.constant([7])), -1
            )
        return first, table.lookup(words)

    first, second = look(tf.constant(["b", "a"]))
    assert first.numpy().tolist() == [[0, 1], [1, 0]]
    assert second.numpy().tolist() == [-1, 7]
    assert len(made) == 2
    types = {
        o.type for o in look.get_concrete_function(tf.constant(["b", "a"])).graph.get_operations()
    }
    assert not any(kind.startswith(("HashTable", "LookupTableImport")) for kind in types)


def alone_on_two_replicas() -> dict:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        variable = tf.Variable([1.0, 2.0])
    twin = _private_api.first_replica_copy(variable)
    variable.assign([3.0, 4.0])
    optimizer = v1.train.AdamOptimizer()

    @tf.function(autograph=False)
    def update():
        optimizer.apply_gradients([(tf.ones([2]), twin)])

    update()
    return {
        "same memory": variable.values[0].numpy().tolist() == twin.numpy().tolist(),
        "changed": (twin.numpy() != [3.0, 4.0]).all().item(),
        "the other copy": variable.values[1].numpy().tolist(),
        "plain": _private_api.first_replica_copy(twin) is twin,
    }


def test_first_replica_copy(in_process):
    assert in_process(alone_on_two_replicas) == {
        "same memory": True,
        "changed": True,
        "the other copy": [3.0, 4.0],
        "plain": True,
    }


def test_without_summaries():
    def types_of(context):
        with tf.Graph().as_default() as graph, context:
            v1.summary.scalar("s", tf.constant(1.0))
            v1.summary.histogram("h", tf.constant([1.0]))
            v1.summary.image("i", tf.zeros([1, 2, 2, 1]))
            v1.summary.text("t", tf.constant("words"))
        return {operation.type for operation in graph.get_operations()}

    summaries = {"ScalarSummary", "HistogramSummary", "ImageSummary", "TensorSummaryV2"}
    assert summaries < types_of(contextlib.nullcontext())
    assert not summaries & types_of(_private_api.without_summaries())


def test_summaries_are_back_after_blocks_of_two_threads_that_overlap():
    first, second = _private_api.without_summaries(), _private_api.without_summaries()
    steps = [threading.Event() for _ in range(2)]

    def other():
        second.__enter__()
        steps[0].set()
        steps[1].wait(10)
        second.__exit__(None, None, None)

    first.__enter__()
    thread = threading.Thread(target=other)
    thread.start()
    steps[0].wait(10)
    first.__exit__(None, None, None)
    steps[1].set()
    thread.join(10)
    with tf.Graph().as_default() as graph:
        v1.summary.scalar("s", tf.constant(1.0))
    assert "ScalarSummary" in {operation.type for operation in graph.get_operations()}


def test_a_temporary_variable_is_read_and_ends_with_the_step():
    @tf.function
    def rows(value):
        handle = _private_api.temporary_variable(value)
        whole = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)
        part = tf.raw_ops.ResourceGather(resource=handle, indices=[1], dtype=tf.float32)
        return whole, part

    for factor in (1.0, 2.0):  # each call has a variable of its own
        whole, part = rows(factor * tf.constant([[1.0], [2.0]]))
        np.testing.assert_array_equal(whole, [[factor], [2 * factor]])
        np.testing.assert_array_equal(part, [[2 * factor]])


def test_other_objects_may_stand_for_variables_in_collections():
    class Plain:
        name = "plain"

        def ref(self):
            return self

        deref = ref

    acting = _private_api.acts_as_resource_variable(type("Acting", (Plain,), {}))

    def run(kind):
        @tf.custom_gradient
        def doubled(x):
            v1.add_to_collection(v1.GraphKeys.GLOBAL_VARIABLES, kind())
            return 2.0 * x, lambda upstream: 2.0 * upstream

        return tf.function(doubled)(tf.constant(1.0)).numpy()

    assert run(acting) == 2
    with pytest.raises(TypeError, match="must be `ResourceVariable`s"):
        run(Plain)


def test_functions_with_a_gradient_of_their_own_are_noticed():
    seen = []

    def read(x):
        seen.append(_private_api.in_custom_gradient())
        return x * 2.0

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.function(read)(tf.cond(x > 0, lambda: read(x), lambda: read(x)))
            y = tf.recompute_grad(read)(y)
            y = tf.custom_gradient(lambda x: (read(x), lambda upstream: 2.0 * upstream))(y)
            y = keras.remat(read)(y)
        return tape.gradient(y, x)

    assert tf.function(run)(tf.constant(1.0)).numpy() == 32
    assert (seen[:3], set(seen[3:])) == ([False] * 3, {True})
