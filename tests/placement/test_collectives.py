"""The collective operations of replicas: their kinds, numbers and groups."""

import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tfbig.placement.replicated.collectives import Collectives
from tfbig.placement.strategies import make_placement


def traced(collectives: Collectives, function) -> list:
    """The collective operations that a function traces."""
    graph = tf.function(function, autograph=False).get_concrete_function().graph
    return [op for op in graph.get_operations() if op.type.startswith("Collective")]


def made(monkeypatch, devices: list[str], replicas: int) -> Collectives:
    """Collectives whose devices need not exist."""
    tokens = lambda self: [tf.Variable(0.0) for _ in self._devices]  # noqa: E731
    monkeypatch.setattr(Collectives, "_make_tokens", tokens)
    return Collectives(devices, replicas, 77)


def test_on_gpus_sums_are_nccls_reduce_scatter(monkeypatch):
    gpus = made(monkeypatch, ["/device:GPU:0", "/device:GPU:1"], 2)
    (op,) = traced(gpus, lambda: gpus.scatter_sum(tf.zeros([2, 5]), 1))
    assert op.type == "CollectiveReduceScatterV2"
    assert op.get_attr("communication_hint") == b"nccl"
    assert op.get_attr("merge_op") == b"Add"
    assert [int(tf.get_static_value(i)) for i in op.inputs[1:4]] == [2, 77, 1]


def test_on_cpus_each_replica_sends_every_other_one_its_row(monkeypatch):
    cpus = made(monkeypatch, ["/device:CPU:0"], 3)
    (op,) = traced(cpus, lambda: cpus.scatter_sum(tf.zeros([3, 5]), 0))
    assert op.type == "CollectiveAllToAllV2"


def test_operations_are_numbered_alike_after_a_trace_that_failed(monkeypatch):
    cpus = made(monkeypatch, ["/device:CPU:0", "/device:CPU:1"], 2)

    def numbers(replica: int) -> list[int]:
        ops = traced(cpus, lambda: cpus.gather_rows(tf.zeros([4]), replica))
        return [int(tf.get_static_value(op.inputs[3])) for op in ops]

    assert numbers(0) == [1]
    assert numbers(1) == [1]
    assert numbers(0) == [2]  # the other replica has not come that far
    cpus.align()
    assert numbers(0) == numbers(1) == [3]


def gathered() -> dict:
    """Gathers and sums on three replicas of one process, several dtypes, inside of a loop."""
    placement = make_placement("mirrored", 3)
    return {dtype: _gathered(placement, dtype) for dtype in ("float32", "bfloat16", "int64")}


def _gathered(placement, dtype: str) -> list:
    def part():
        mine = tf.cast(tf.fill([2], placement.replica() + 1), dtype)
        rows = tf.cast(tf.range(6), dtype) * mine[0]
        return placement.gather_rows(mine), placement.scatter_sum(tf.reshape(rows, [3, 2]))

    def body(i, total, own):
        results = placement.run_each(part, ())
        whole = tf.add_n([tf.cast(a, tf.float32) for a, _ in results])
        return i + 1, total + whole, own + tf.stack([tf.cast(b, tf.float32) for _, b in results])

    @tf.function(autograph=False)
    def twice():
        start = (0, tf.zeros([6]), tf.zeros([3, 2]))
        return tf.while_loop(lambda i, *_: i < 2, body, start, parallel_iterations=1)

    _, total, own = twice()
    return [total.numpy().tolist(), own.numpy().tolist()]


@pytest.mark.slow
def test_replicas_of_a_process_gather_and_scatter_inside_of_a_loop(tmp_path):
    left = harness.call(gathered, tmp_path, timeout=100)
    for total, own in left.values():
        np.testing.assert_array_equal(total, [6, 6, 12, 12, 18, 18])
        np.testing.assert_array_equal(own, 12.0 * np.arange(6).reshape(3, 2))
