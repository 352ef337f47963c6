"""A small model with a table, trained in the same way with an Embedding and in shards."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.harness import free_addresses
from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers import indexed_slices
from tfbig.programs.model_fn.variable_store import VariableStore
from tfbig.programs.updates import check_sparse_optimizer, table_of

ROWS, WIDTH, LENGTH = 23, 4, 5


def arrays(examples: int = 72) -> tuple[np.ndarray, np.ndarray]:
    """Ids with a few that are frequent, some of them twice in a row of ids, and a number."""
    random = np.random.RandomState(0)
    ids = random.zipf(1.3, size=(examples, LENGTH)) % ROWS
    return ids.astype("int64"), random.normal(size=examples).astype("float32")


def source() -> tfbig.data.Source:
    return tfbig.data.ArraySource(arrays()).batch(16)  # the last batch of a pass is half of that


def table_layer(shards: int, rows: int = ROWS, width: int = WIDTH) -> keras.layers.Layer:
    """An Embedding, if there are no shards."""
    if not shards:
        return keras.layers.Embedding(rows, width)
    return tfbig.layers.ShardedEmbedding(rows, width, shards)


def build(
    shards: int, optimizer: Callable, *, twice: bool = False, rows: int = ROWS, width: int = WIDTH
) -> Callable[[], keras.Model]:
    """A function that builds and compiles the model."""

    def model_fn():
        ids = keras.Input([LENGTH], dtype="int64")
        table = table_layer(shards, rows, width)
        x = table(ids)
        if twice:
            x = x + 2.0 * table(keras.ops.flip(ids, 1))
        x = keras.layers.Dense(8, "tanh")(keras.layers.Flatten()(x))
        model = keras.Model(ids, keras.layers.Dense(1)(x))
        model.compile(optimizer(), "mse")
        return model

    return model_fn


def train(model_fn: Callable, steps: int = 12, **options) -> tfbig.TrainResult:
    """Trains without XLA, which an Embedding would otherwise be compiled with."""
    fields = {"tf_random_seed": 3, "jit_compile": False, **options.pop("config", {})}
    options = {"strategy": "one_device", **options}
    config = tfbig.RunConfig(**fields)
    return tfbig.train_distributed(model_fn, source, max_steps=steps, config=config, **options)


def weights(model: keras.Model) -> list[np.ndarray]:
    """The whole table, and the other weights."""
    table = next(layer for layer in model.layers if hasattr(layer, "embeddings"))
    others = [w.numpy() for layer in model.layers if layer is not table for w in layer.weights]
    return [np.asarray(keras.ops.convert_to_numpy(table.embeddings)), *others]


def difference(one: keras.Model, other: keras.Model) -> float:
    """The largest difference between the weights of two models, however their tables lie."""
    pairs = zip(weights(one), weights(other), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def train_on_replicas(strategy: str) -> list[float]:
    """How far shards are from an Embedding where several replicas train."""
    options = {"strategy": strategy} | ({"devices": 2} if strategy == "mirrored" else {})
    found = []
    for optimizer in (lambda: keras.optimizers.Adagrad(0.1), lambda: keras.optimizers.Adam(0.01)):
        models = [train(build(n, optimizer, twice=True), **options).model for n in (0, 1, 3)]
        found += [difference(models[0], model) for model in models[1:]]
    return found


def train_with_owners() -> str:
    """What the error says."""
    config = {"model_distribution": "owner"}
    make = build(2, lambda: keras.optimizers.Adagrad(0.1))
    try:
        train(make, strategy="mirrored", devices=2, config=config)
    except UserError as error:
        return str(error)
    return ""


def train_on_servers(servers: int) -> dict:
    """One worker and some parameter servers train; the same on one device without a strategy.

    Returns:
        Where the shards and their slots are, how far the weights are from those of one device, and
        which tensors of a shard's shape the step has.
    """
    strategy = _strategy(servers)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    make = build("auto", lambda: keras.optimizers.Adagrad(0.1), twice=True)
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = make()
        model.optimizer.build(model.trainable_variables)
    check_sparse_optimizer(model.optimizer, [model])
    keras.utils.set_random_seed(1)
    alone = make()
    ids, numbers = arrays(64)
    step = _step_of(model)
    specs = [tf.TensorSpec([16, LENGTH], tf.int64), tf.TensorSpec([16], tf.float32)]
    with strategy.scope():
        concrete = tf.function(lambda *batch: strategy.run(step, batch)).get_concrete_function(
            *specs
        )
    shapes = {tuple(t.shape) for t in model.layers[1].tables}
    for start in range(0, 64, 16):
        batch = [a[start : start + 16] for a in (ids, numbers)]
        coordinator.schedule(concrete, args=tuple(map(tf.constant, batch)))
        coordinator.join()
        _step_of(alone)(*map(tf.constant, batch))
    slots = [v for v in model.optimizer.variables if "accumulator" in v.path and "table" in v.path]
    return {
        "tables": [table.value.device for table in model.layers[1].tables],
        "slots": [slot.value.device for slot in slots],
        "difference": difference(alone, model),
        "whole": whole_tensors(concrete.graph, shapes),
    }


def build_in_model_fn(servers: int) -> dict:
    """Where a model_fn's table and its slots are; the table is built apart from the strategy."""
    strategy = _strategy(servers)
    store = VariableStore(strategy.scope)
    found: dict = {}

    def replica():
        with store.scope():
            bias = keras.Variable([0.0], name="bias")
            layer = tfbig.layers.ShardedEmbedding(ROWS, WIDTH)
            layer.build()
            variables = [*layer.trainable_variables, bias]
            optimizer = keras.optimizers.Adagrad(0.1)
            optimizer.build(variables)
        slots = _private_api.slots_of(optimizer, variables)
        found["weights"] = [v.value.device for v in variables]
        found["slots"] = [slot.value.device for of_one in slots for slot in of_one.values()]

    with strategy.scope():
        tf.function(lambda: strategy.run(replica), autograph=False).get_concrete_function()
    return found


def _step_of(model: keras.Model) -> Callable:
    def step(ids, numbers):
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(ids)[:, 0] - numbers) ** 2)
        found = tape.gradient(loss, [v.value for v in variables])
        gradients = [indexed_slices.as_kept(g, v) for g, v in zip(found, variables, strict=True)]
        with _private_api.row_wise_updates(model.optimizer, table_of):
            model.optimizer.apply(gradients, variables)
        return loss

    return step


def _strategy(ps: int) -> tf.distribute.ParameterServerStrategy:
    """A strategy of one worker, all of whose servers are in this process."""
    cluster = {"worker": free_addresses(1), "ps": free_addresses(ps), "chief": free_addresses(1)}
    spec = tf.train.ClusterSpec(cluster)
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=2)
    for job in ("worker", "ps"):
        for task in range(len(cluster[job])):
            server = tf.distribute.Server(
                spec, job_name=job, task_index=task, protocol="grpc", config=config
            )
            _servers.append(server)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        spec, task_type="chief", task_id=0, rpc_layer="grpc"
    )
    return tf.distribute.ParameterServerStrategy(resolver)


_servers: list = []  # they serve as long as this process lives


def whole_tensors(graph: tf.Graph, shapes: set[tuple[int, ...]]) -> list[str]:
    """The operations, in a graph and its functions, that yield a tensor of one of the shapes."""
    definition = graph.as_graph_def(add_shapes=True)
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert len(nodes) > 100  # those of the loop's body are there
    found = []
    for node in nodes:
        for shape in node.attr["_output_shapes"].list.shape:
            if not shape.unknown_rank and tuple(d.size for d in shape.dim) in shapes:
                found.append(f"{node.op} {node.name}")
    return found
