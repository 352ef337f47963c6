"""A training graph is split at the gradients, and each half has only the operations it needs."""

import pytest
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs.model_fn.graph_split import SplitGraph, run_part


class Graph:
    """loss = (x w)², its gradient, and variables to assign."""

    def __init__(self):
        self.w, self.slot, self.seen = (
            tf.Variable(v, name=n) for v, n in ((2.0, "w"), (0.0, "s"), (0.0, "n"))
        )

    def trace(self, train):
        def body(x):
            self.x = x
            self.loss = tf.square(x * self.w, name="loss")
            (self.gradient,) = tf.gradients(self.loss, [self.w])
            self.train_op = train(self)

        spec = tf.TensorSpec([], name="x")
        self.concrete = tf.function(body, autograph=False).get_concrete_function(spec)
        self.split_graph = SplitGraph(self.concrete.graph, [self.x.op.name])
        return self.split_graph

    def split(self, train):
        graph = self.trace(train)
        return graph.split(self.train_op.name, {self.gradient.name})


def apply(graph, factor=1.0):
    return graph.w.assign_sub(factor * graph.gradient, read_value=False)


def test_the_update_begins_with_the_gradients():
    graph = Graph()
    split = graph.split(lambda g: tf.group(apply(g)))
    assert split.cuts == {graph.gradient.name}
    assert split.compute == []
    assert graph.loss.op.name not in split.update
    assert graph.x.op.name not in split.update


@pytest.mark.parametrize("form", ["inside", "beside", "chained"])
def test_what_is_computed_from_the_batch_and_waited_for_runs_in_the_other_half(form):
    def train(g):
        kept = g.slot.assign(g.x, read_value=False)
        g.kept = kept.name
        if form == "beside":
            return tf.group(apply(g), kept)
        with tf.control_dependencies([kept]):
            if form == "inside":
                return tf.group(apply(g))
            update = apply(g)
        with tf.control_dependencies([update]):
            return tf.identity(g.loss).op

    graph = Graph()
    split = graph.split(train)
    assert graph.kept in split.compute
    assert graph.kept not in split.update
    assert split.cuts == {graph.gradient.name}
    assert any(graph.split_graph.nodes[n].op == "AssignSubVariableOp" for n in split.update)


def test_what_needs_neither_batch_nor_gradient_is_done_once_by_the_update():
    def train(g):
        counted = g.seen.assign_add(1.0, read_value=False)
        g.counted = counted.name
        with tf.control_dependencies([counted]):
            return tf.group(apply(g))

    graph = Graph()
    split = graph.split(train)
    assert graph.counted in split.update
    left = graph.split_graph.left_to_update({graph.gradient.name}, split)
    assert graph.counted in left


@pytest.mark.parametrize("depth", [1, 2])
def test_an_update_by_what_is_computed_from_the_batch_is_refused(depth):
    def train(g):
        factor = tf.identity(g.loss, name="factor")
        for _ in range(depth - 1):
            factor = tf.math.exp(factor, name="factor")
        return tf.group(apply(g, factor))

    name = "factor" if depth == 1 else "factor_1"
    with pytest.raises(UserError, match="which is computed from the batch") as raised:
        Graph().split(train)
    assert name in str(raised.value) or "mul" in str(raised.value)


def test_a_part_runs_elsewhere_on_what_it_is_given():
    graph = Graph()
    split_graph = graph.trace(lambda g: tf.group(apply(g)))
    names = split_graph.needed([graph.loss.op.name, graph.gradient.op.name])
    part = split_graph.part(names)
    captured = dict(
        zip(
            [t.name for t in graph.concrete.inputs[1:]], graph.concrete.captured_inputs, strict=True
        )
    )

    @tf.function(autograph=False)
    def run(x):
        here = tf.compat.v1.get_default_graph()
        given = {name: here.capture(t) for name, t in captured.items()}
        read = split_graph.tensors_read(names)
        given = {n: t for n, t in {graph.x.name: x, **given}.items() if n in read}
        return run_part(part, given, [graph.loss.name, graph.gradient.name])

    loss, gradient = run(tf.constant(3.0))
    assert (float(loss), float(gradient)) == (36.0, 36.0)
    assert float(graph.w) == 2.0  # nothing was updated
