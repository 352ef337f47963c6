"""tfbig.layers.ShardedEmbedding in training: an Embedding's numbers, by the rows of a batch."""

import json
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.layers import embedding_runs as runs
from tfbig.errors import CheckpointError, UserError
from tfbig.placement.loop_function import LoopFunction
from tfbig.programs.updates import check_sparse_optimizer

ROUNDING = 5e-7


def scaled(optimizer, scale: float = 64.0) -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=scale)


class Slow(keras.optimizers.SGD):
    """An update rule of one's own, with a slot, that leaves rows without a gradient alone."""

    row_wise = True

    def build(self, variables):
        super().build(variables)
        self.largest = self.add_optimizer_variables(variables, "largest")

    def update_step(self, gradient, variable, learning_rate):
        largest = self.largest[self._get_variable_index(variable)]
        self.assign(largest, keras.ops.maximum(largest, keras.ops.absolute(gradient)))
        change = keras.ops.divide_no_nan(gradient, keras.ops.add(largest, 1.0))
        self.assign_sub(variable, keras.ops.multiply(change, learning_rate))


by_rows = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adagrad_clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.05),
    "adagrad_global_clipnorm": lambda: keras.optimizers.Adagrad(0.1, global_clipnorm=0.1),
    "adagrad_clipvalue": lambda: keras.optimizers.Adagrad(0.1, clipvalue=0.002),
    "adagrad_loss_scale": lambda: scaled(keras.optimizers.Adagrad(0.1, clipnorm=0.05)),
    "own": lambda: Slow(0.1),
}
over_all_rows = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "weight_decay": lambda: keras.optimizers.SGD(0.1, weight_decay=0.01),
    "adam_clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.05),
    "use_ema": lambda: keras.optimizers.Adagrad(0.1, use_ema=True),
    "loss_scale_factor": lambda: keras.optimizers.Adagrad(0.1, loss_scale_factor=8.0),
}


# Numbers.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "twice", "micro_batches"),
    [
        *((name, True, 2) for name in [*by_rows, *over_all_rows]),
        *((name, twice, 1) for name in ("sgd", "adagrad") for twice in (False, True)),
    ],
)
def test_on_one_device_it_trains_as_an_embedding(name, twice, micro_batches):
    optimizer = {**by_rows, **over_all_rows}[name]
    models = [
        runs.train(
            runs.build(shards, optimizer, twice=twice),
            config={"accumulation_steps": micro_batches},
        ).model
        for shards in (0, 1, 3)
    ]
    assert runs.difference(models[0], models[1]) < ROUNDING
    assert runs.difference(models[0], models[2]) < ROUNDING
    start = runs.build(0, optimizer)()
    assert runs.difference(models[0], start) > 1e-3


@pytest.mark.slow
def test_on_replicas_it_trains_as_an_embedding(in_process):
    assert max(in_process(runs.train_on_replicas, "mirrored")) < ROUNDING


@pytest.mark.slow
def test_on_workers_it_trains_as_an_embedding(tmp_path):
    found = harness.call_workers(runs.train_on_replicas, tmp_path, "multi_worker", timeout=240)
    assert max(difference for task in found for difference in task) < ROUNDING


def test_on_parameter_servers_it_trains_as_on_one_device(in_process):
    found = in_process(runs.train_on_servers, 2)
    assert found["tables"] == [f"/job:ps/replica:0/task:{i}/device:CPU:0" for i in (0, 1)]
    assert found["slots"] == found["tables"]  # beside their rows
    assert found["difference"] < ROUNDING
    assert found["whole"] == []


def test_in_a_model_fn_there_are_as_many_shards_as_parameter_servers(in_process):
    found = in_process(runs.build_in_model_fn, 3)
    assert len(set(found["weights"][:3])) == 3
    assert found["slots"] == found["weights"]  # beside their rows


def test_blocks_that_are_recomputed_leave_it_out():
    optimizer = by_rows["adagrad"]
    models = [
        runs.train(runs.build(3, optimizer), config={"remat": remat}).model
        for remat in (False, True)
    ]
    assert runs.difference(*models) < ROUNDING


def model_fn_with(shards: int, train_op: bool = False, rows: int = runs.ROWS):
    def model_fn(features, labels, mode):
        rows_of_ids = runs.table_layer(shards, rows)(features)
        outputs = keras.layers.Dense(1)(keras.layers.Flatten()(rows_of_ids))
        loss = tf.reduce_mean((outputs[:, 0] - labels) ** 2)
        if train_op:
            step = tf.compat.v1.train.get_global_step()
            op = tf.compat.v1.train.AdagradOptimizer(0.1).minimize(loss, step)
            return tfbig.EstimatorSpec(mode, loss=loss, train_op=op)
        optimizer = keras.optimizers.Adagrad(0.1)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=optimizer)

    return model_fn


@pytest.mark.parametrize("train_op", [False, True], ids=["optimizer", "train_op"])
def test_in_a_model_fn_it_trains_as_an_embedding(tmp_path, train_op):
    found = []
    for shards in (0, 3):
        folder = str(tmp_path / str(shards))
        runs.train(model_fn_with(shards, train_op), model_dir=folder)
        found.append(tf.train.load_checkpoint(tf.train.latest_checkpoint(folder)))
    tables = [found[1].get_tensor(f"sharded_embedding/table_{i}") for i in range(3)]
    for i, table in enumerate(tables):
        expected = found[0].get_tensor("embedding/embeddings")[i::3]
        np.testing.assert_allclose(table, expected, atol=ROUNDING, rtol=0)
    for name in ("dense/kernel", "dense/bias"):
        values = [reader.get_tensor(name) for reader in found]
        np.testing.assert_allclose(*values, atol=ROUNDING, rtol=0)


# What is computed.


@pytest.fixture
def traced(monkeypatch):
    """The graphs of the steps that are traced."""
    graphs = []
    find = LoopFunction._function

    def kept(loop, exact):
        function = find(loop, exact)
        if not any(function.graph is graph for graph in graphs):
            graphs.append(function.graph)
        return function

    monkeypatch.setattr(LoopFunction, "_function", kept)
    return graphs


@pytest.mark.parametrize(
    ("name", "shards", "micro_batches"),
    [*((name, 3, 1) for name in by_rows), ("adagrad", 1, 1), ("adagrad", 3, 2)],
)
def test_no_tensor_of_the_tables_size_is_made(traced, name, shards, micro_batches):
    build = runs.build(shards, by_rows[name], rows=3 * 331, width=3, twice=True)
    runs.train(build, steps=1, config={"accumulation_steps": micro_batches})
    assert runs.whole_tensors(traced[0], {(3 * 331 // shards, 3)}) == []


def test_no_tensor_of_the_tables_size_is_made_in_a_model_fn(traced):
    runs.train(model_fn_with(3, rows=3 * 331), steps=1)
    assert runs.whole_tensors(traced[0], {(331, runs.WIDTH)}) == []


@pytest.mark.parametrize("shards", [0, 3])
def test_otherwise_such_tensors_are_found(traced, shards):
    """With an Embedding, and with an optimizer that goes over all rows."""
    optimizer = over_all_rows["momentum"] if shards else by_rows["adagrad"]
    rows = 3 * 331
    runs.train(runs.build(shards, optimizer, rows=rows, width=3), steps=1)
    shape = (rows // max(shards, 1), 3)
    found = runs.whole_tensors(traced[0], {shape})
    assert any(operation.startswith("UnsortedSegmentSum") for operation in found)


def test_rows_that_no_batch_has_used_stay_as_they_are():
    rows = 40  # 17 more than the ids reach
    build = runs.build(3, by_rows["adagrad"], rows=rows)
    model = runs.train(build).model
    keras.utils.set_random_seed(3)
    before, after = build().layers[1].embeddings, model.layers[1].embeddings
    used = np.isin(np.arange(rows), runs.arrays()[0])
    assert used.any()
    assert not used.all()
    np.testing.assert_array_equal(before[~used], after[~used])
    assert (before[used] != after[used]).any(axis=1).all()
    slots = [v for v in model.optimizer.variables if "table" in v.path]
    accumulators = np.concatenate([slots[i % 3].numpy()[[i // 3]] for i in range(rows)])
    assert (accumulators[~used] == np.float32(0.1)).all()
    assert (accumulators[used] > np.float32(0.1)).any(axis=1).all()


def test_an_infinite_gradient_skips_the_update_of_rows_too():
    random = np.random.RandomState(0)
    ids, numbers = random.randint(0, 23, (32, 5)), np.full(32, 1e18, "float32")
    source = lambda: tfbig.data.ArraySource((ids, numbers)).batch(16)  # noqa: E731
    build = runs.build(3, lambda: scaled(keras.optimizers.Adagrad(0.1), scale=2.0**75))
    config = tfbig.RunConfig(tf_random_seed=3)
    model = tfbig.train_distributed(
        build, source, max_steps=2, config=config, strategy="one_device"
    ).model
    keras.utils.set_random_seed(3)
    assert runs.difference(build(), model) == 0
    assert float(model.optimizer.dynamic_scale.numpy()) == 2.0**73  # halved twice


# Which optimizers.


@pytest.mark.parametrize("name", by_rows)
def test_optimizers_that_update_rows_are_let_through(name):
    model = runs.build(3, by_rows[name])()
    optimizer = by_rows[name]()
    optimizer.build(model.trainable_variables)
    check_sparse_optimizer(optimizer, [model])
    check_sparse_optimizer(optimizer, model.trainable_variables)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (keras.optimizers.Adam, "the optimizer Adam changes rows that have no gradient"),
        (over_all_rows["momentum"], "SGD has momentum=0.9"),
        (over_all_rows["weight_decay"], "SGD has weight_decay=0.01"),
        (over_all_rows["use_ema"], "Adagrad has use_ema=True"),
        (over_all_rows["loss_scale_factor"], "Adagrad has loss_scale_factor=8.0"),
        (lambda: scaled(keras.optimizers.Adam()), "the optimizer Adam changes rows"),
        (object, "model_fn returns a train_op of TensorFlow 1"),
    ],
)
def test_optimizers_that_go_over_all_rows_are_refused(optimizer, message):
    optimizer, model = optimizer(), runs.build(2, by_rows["sgd"])()
    if isinstance(optimizer, keras.optimizers.Optimizer):
        optimizer.build(model.trainable_variables)
    with pytest.raises(UserError, match=f"{message}.*all rows of the table '.*/table_0'.*Adagrad"):
        check_sparse_optimizer(optimizer, [model])
    check_sparse_optimizer(optimizer, [runs.build(0, by_rows["sgd"])()])
    model.layers[1].trainable = False
    check_sparse_optimizer(optimizer, [model])


def test_weight_decay_of_other_weights_lets_rows_alone():
    def optimizer():
        decayed = keras.optimizers.Adagrad(0.1, weight_decay=0.01)
        decayed.exclude_from_weight_decay(var_names=["table", "embeddings"])
        return decayed

    models = [runs.train(runs.build(shards, optimizer)).model for shards in (0, 3)]
    assert runs.difference(*models) < ROUNDING
    check_sparse_optimizer(models[1].optimizer, [models[1]])


def test_the_log_says_when_all_rows_are_updated(caplog):
    caplog.set_level(logging.INFO, logger="tfbig")
    runs.train(runs.build(2, over_all_rows["adam_clipnorm"]), steps=1)
    assert sum("all rows of the ShardedEmbeddings are updated" in m for m in caplog.messages) == 1
    caplog.clear()
    runs.train(runs.build(2, by_rows["adagrad"]), steps=1)
    assert not any("all rows" in m for m in caplog.messages)


@pytest.mark.parametrize("name", ["Adafactor", "Lamb", "Muon"])
def test_norms_of_whole_variables_are_refused_for_shards(name):
    optimizer = lambda: getattr(keras.optimizers, name)(0.01)  # noqa: E731
    with pytest.raises(UserError, match=f"{name} works by norms .* write shards=1"):
        runs.train(runs.build(2, optimizer), steps=1)


def test_xla_is_refused_and_auto_does_without():
    with pytest.raises(UserError, match="jit_compile=True, but XLA would make gradients of whole"):
        runs.train(runs.build(2, by_rows["sgd"]), steps=1, config={"jit_compile": True})
    runs.train(runs.build(2, by_rows["sgd"]), steps=1, config={"jit_compile": "auto"})


# Checkpoints.


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
@pytest.mark.parametrize("model_fn", [False, True], ids=["keras", "model_fn"])
def test_a_run_goes_on_in_other_shards(tmp_path, model_fn, before, after):
    def make(shards):
        return model_fn_with(shards) if model_fn else runs.build(shards, by_rows["adagrad"])

    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    runs.train(make(after), steps=12, model_dir=whole)
    runs.train(make(before), steps=5, model_dir=parts)
    runs.train(make(after), steps=12, model_dir=parts)
    readers = [
        tf.train.load_checkpoint(f"{folder}/checkpoints/ckpt-00000012/state")
        for folder in (whole, parts)
    ]
    kinds = readers[0].get_variable_to_shape_map()
    assert kinds == readers[1].get_variable_to_shape_map()
    dtypes = readers[0].get_variable_to_dtype_map()
    floats = [key for key in kinds if dtypes[key] == tf.float32]
    assert sum("table" in key for key in floats) == 2 * after  # with their slots
    for key in floats:
        values = [reader.get_tensor(key) for reader in readers]
        np.testing.assert_allclose(*values, atol=ROUNDING, rtol=0)


def test_a_checkpoint_says_which_variables_are_one_table(tmp_path):
    runs.train(runs.build(2, by_rows["adagrad"]), steps=1, model_dir=str(tmp_path))
    with open(tmp_path / "checkpoints" / "ckpt-00000001" / "metadata.json") as file:
        tables = json.load(file)["tables"]
    assert {first.split("/")[0]: len(names) for first, names in tables.items()} == {
        "model": 2,
        "optimizer": 2,
    }


def test_a_table_of_another_size_is_another_model(tmp_path):
    build = lambda rows, shards: runs.build(shards, by_rows["adagrad"], rows=rows)  # noqa: E731
    runs.train(build(23, 2), steps=1, model_dir=str(tmp_path))
    with pytest.raises(CheckpointError, match=r"table_0 is float32\[23, 4\] there and .*\[24, 4\]"):
        runs.train(build(24, 3), steps=2, model_dir=str(tmp_path))


def test_weights_of_a_run_are_put_into_other_shards(tmp_path):
    from tfbig.finetuning.weights import fill

    trained = runs.train(runs.build(3, by_rows["adagrad"]), model_dir=str(tmp_path)).model
    for shards in (1, 3, 2):
        model = runs.build(shards, by_rows["adagrad"])()
        fill(model, str(tmp_path))
        assert runs.difference(trained, model) == 0
        assert int(model.optimizer.iterations.numpy()) == 12


@pytest.mark.slow
def test_a_trained_model_is_made_again_in_other_shards(tmp_path, monkeypatch):
    """As where it is exported from a cluster: "auto" is one shard there."""
    with monkeypatch.context() as cluster:
        cluster.setattr("tfbig._private_api.parameter_server_count", lambda strategy: 3)
        model = runs.train(runs.build("auto", by_rows["adagrad"])).model
    assert len(model.layers[1].tables) == 3
    tfbig.export(model, str(tmp_path / "served"))
    served = tf.saved_model.load(str(tmp_path / "served"))
    assert len(served.variables) == 5
    ids = tf.constant(runs.arrays()[0][:8])
    np.testing.assert_allclose(served.serve(ids), model(ids), atol=ROUNDING)


# With other placements of the optimizer's state.


def test_owners_of_slices_refuse_it(in_process):
    message = in_process(runs.train_with_owners)
    assert "is a table of a ShardedEmbedding" in message
    assert 'write model_distribution="replicated"' in message
