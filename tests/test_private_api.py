"""Private names of Keras and TensorFlow still mean what tfbig takes them for."""

import ast
import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.equivalence.cases import CASES
from tfbig import _private_api

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = [p for p in ROOT.glob("tfbig/**/*.py") if p.parent.name != "_private_api"]


# The package itself.


def guards() -> dict[str, str]:
    """What follows "Guard:" or "guard:" in each function's docstring, on one line."""
    found = {}
    for name, function in inspect.getmembers(_private_api, inspect.isfunction):
        if function.__module__.startswith(f"{_private_api.__name__}."):
            text = " ".join((function.__doc__ or "").split())
            if "Guard: " in text:
                found[name] = text.split("Guard: ")[1]
    return found


@pytest.mark.parametrize("function", sorted(guards()))
def test_a_promised_guard_exists(function):
    names = re.findall(r"tests/[\w/]+(?:\.py)?|\btest_\w+|case \w+", guards()[function])
    assert names, guards()[function]
    for name in names:
        if name.startswith("tests/"):
            path = ROOT / name
            files = path.glob("test_*.py") if path.is_dir() else [path]
            assert any("\ndef test_" in file.read_text() for file in files), name
        elif name.startswith("case "):
            assert name.removeprefix("case ") in CASES
        else:
            assert callable(globals()[name])


def test_there_are_guards():
    assert len(guards()) > 10


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_file_of_tfbig_uses_private_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names = [ast.unparse(node)]
            own = ast.unparse(node.value) in ("self", "cls", "super()", "tfbig")
            own = own or names == ["os._exit"]  # which Python documents
            private = re.match(r"_[a-z]", node.attr) and node.attr != "_replace"  # a NamedTuple's
            assert own or not private, f"line {node.lineno}: {names[0]}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            private = isinstance(name, ast.Constant) and re.match(r"_[a-z]", name.value)
            assert not private, f"line {node.lineno}: {ast.unparse(node)}"
        for name in names:
            assert not re.match(r"keras\.src\b|(tensorflow|tf)\.python\b", name), name


# Names.


def test_automatic_names():
    keras.layers.Dense(1)
    before = int(keras.layers.Dense(1).name.removeprefix("dense_"))
    with _private_api.automatic_names():
        assert [keras.layers.Dense(1).name for _ in range(3)] == ["dense", "dense_1", "dense_2"]
    assert keras.layers.Dense(1).name == f"dense_{before + 1}"
    with pytest.raises(RuntimeError), _private_api.automatic_names():
        raise RuntimeError
    assert keras.layers.Dense(1).name == f"dense_{before + 2}"


# What optimizers do in `apply`.


def mirrored() -> tf.distribute.MirroredStrategy:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def applied(strategy, *, already_reduced: bool, loss_scaled: bool) -> list:
    """A weight that was 0 and how many updates were counted, after the gradient 5 was applied."""
    with strategy.scope():
        weight = keras.Variable(np.zeros([1], "float32"))
        optimizer = keras.optimizers.SGD(1.0, clipnorm=1.0)
        if loss_scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
        optimizer.build([weight])

    @tf.function
    def step():
        scale = optimizer.scale_loss(tf.constant(1.0))
        strategy.run(lambda g: optimizer.apply([g], [weight]), [tf.constant([5.0]) * scale])

    if already_reduced:
        with _private_api.gradients_already_reduced(optimizer):
            step()
    else:
        step()
    return [float(weight.numpy()[0]), int(optimizer.iterations.numpy())]


def gradients_on_two_replicas() -> dict:
    strategy = mirrored()
    return {
        f"{reduced} {scaled}": applied(strategy, already_reduced=reduced, loss_scaled=scaled)
        for reduced in (True, False)
        for scaled in (True, False)
    }


def test_gradients_already_reduced(in_process):
    found = in_process(gradients_on_two_replicas)
    assert found["True False"] == [-1.0, 1]
    assert found["True True"] == [-1.0, 1]
    # Keras's own way: each replica's gradient is clipped to 1, and both are added.
    assert found["False False"] == [-2.0, 1]


def test_reduced_gradients_leave_the_optimizer_as_it_was():
    optimizer = keras.optimizers.SGD(1.0)
    before = optimizer._all_reduce_sum_gradients
    with _private_api.gradients_already_reduced(optimizer):
        assert optimizer._all_reduce_sum_gradients != before
    assert optimizer._all_reduce_sum_gradients == before
    with _private_api.gradients_already_reduced(None):
        pass


@pytest.mark.parametrize("constraint", [None, keras.constraints.NonNeg()])
def test_averages_are_put_in_place_as_keras_does_it(constraint):
    def run(ours: bool) -> list:
        weight = keras.Variable(np.float32([1.0, -1.0]))
        weight.constraint = constraint
        optimizer = keras.optimizers.SGD(
            0.5, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2
        )
        optimizer.build([weight])
        found = []
        for gradient in ([1.0, 2.0], [0.5, -3.0], [1.5, 1.0], [0.0, 0.0], [2.0, 2.0]):
            if ours:
                with _private_api.gradients_already_reduced(optimizer):
                    optimizer.apply([tf.constant(gradient)], [weight])
                    _private_api.put_averages_in_place(optimizer)
            else:
                optimizer.apply([tf.constant(gradient)], [weight])
            found.append(weight.numpy())
        return found

    ours, plain = run(True), run(False)
    np.testing.assert_array_equal(ours, plain)
    assert not np.allclose(plain[1], plain[0] - 0.5 * np.float32([0.5, -3.0]))  # overwritten


# Optimizers as functions of slices.


def test_shape_only_variables_are_never_given_memory():
    with keras.StatelessScope():  # which gives memory at its end to what was made inside
        made = keras.Variable("zeros", [2])
        shape_only = _private_api.shape_only_variable([1 << 40], "float32", "ones")
    with keras.StatelessScope():
        pass
    assert made.numpy().tolist() == [0, 0]
    assert shape_only.shape == (1 << 40,)
    assert _private_api.initial_value(shape_only, [2]).numpy().tolist() == [1, 1]
    with keras.StatelessScope([(made, tf.constant([1.0, 2.0]))]) as scope:
        made.assign(made + 1)
    assert scope.get_current_value(made).numpy().tolist() == [2, 3]


def optimizers() -> list:
    return [
        keras.optimizers.Nadam(0.1, weight_decay=0.1, use_ema=True),
        keras.optimizers.Adam(0.1, amsgrad=True),
        keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
        keras.optimizers.Ftrl(0.1, beta=0.1),
        keras.optimizers.SGD(0.1),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adagrad(0.1)),
    ]


def weights() -> list:
    return [
        keras.Variable(np.float32([[1.0, -2.0]]), name="kernel"),
        keras.Variable(np.float32([0.5]), name="bias"),
    ]


@pytest.mark.parametrize("i", range(6))
def test_an_optimizer_without_slots_has_the_same_variables(i):
    with _private_api.automatic_names():
        plain = optimizers()[i]
        plain.build(weights())
    with _private_api.automatic_names():
        sliced = optimizers()[i]
        slots = _private_api.built_without_slots(sliced, weights())
    assert [(v.path, v.shape) for v in sliced.variables] == [
        (v.path, v.shape) for v in plain.variables
    ]
    inner = getattr(plain, "inner_optimizer", plain)
    assert len(slots[0]) + len(slots[1]) == sum(v.shape.rank > 0 for v in inner.variables)
    for slot in slots[0]:
        began = next(v for v in plain.variables if v.path == slot.path)
        np.testing.assert_array_equal(_private_api.initial_value(slot, [1, 2]), began)
    with keras.StatelessScope():
        pass
    for slot in slots[0]:
        with pytest.raises(AttributeError):  # there is no memory to write to
            slot.assign(np.zeros([1, 2]))


@pytest.mark.parametrize("i", range(5))
def test_slice_rule_is_kerass_own(i):
    variables, optimizer = weights(), optimizers()[i]
    optimizer.build(variables)
    sliced = optimizers()[i]
    slots = _private_api.built_without_slots(sliced, weights())
    rule = _private_api.SliceRule(
        sliced, slots, member=0, size=2, dtype="float32", decays=sliced.weight_decay is not None
    )
    values = tf.constant([1.0, -2.0])
    own = [_private_api.initial_value(slot, [2]) for slot in slots[0]]
    for gradient in ([0.5, 3.0], [-1.0, 1.0], [0.1, 0.0]):
        optimizer.apply([tf.constant([gradient]), tf.constant([1.0])], variables)
        scalars = [tf.convert_to_tensor(v) for v in rule.scalars]
        values, own, new = rule.update(values, tf.constant(gradient), own, scalars)
        if sliced.use_ema:
            own[rule.place_of_average] = rule.average(values, own, scalars)[rule.place_of_average]
        for scalar, value in zip(rule.scalars, new, strict=True):
            _private_api.assign_in_replica(scalar, value)
    np.testing.assert_allclose(values, variables[0].numpy()[0], rtol=1e-6)
    whole = {v.path.split("/")[-1]: v for v in optimizer.variables}
    for slot, value in zip(slots[0], own, strict=True):
        np.testing.assert_allclose(value, whole[slot.path.split("/")[-1]].numpy()[0], rtol=1e-6)
    assert int(sliced.iterations) == 3


def test_is_decayed():
    kernel, bias = weights()
    optimizer = keras.optimizers.AdamW(0.1)
    assert _private_api.is_decayed(optimizer, bias)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert _private_api.is_decayed(optimizer, kernel)
    assert not _private_api.is_decayed(optimizer, bias)
    optimizer.exclude_from_weight_decay(var_list=[kernel])
    wrapped = keras.optimizers.LossScaleOptimizer(optimizer)
    assert not _private_api.is_decayed(wrapped, kernel)
    assert not _private_api.is_decayed(keras.optimizers.Adam(), kernel)


def assigned_in_replicas() -> list:
    strategy = mirrored()
    with strategy.scope():
        plain = keras.Variable(np.float32([0.0]), aggregation="mean")
        sliced = tf.Variable(
            [0.0],
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        value = tf.cast(tf.stack([number]), tf.float32) + 1
        _private_api.assign_in_replica(plain, value)
        _private_api.assign_in_replica(sliced, value)

    tf.function(lambda: strategy.run(replica), autograph=False)()
    return [[float(v.numpy()[0]) for v in w.values] for w in (plain.value, sliced)]


def test_assign_in_replica(in_process):
    assert in_process(assigned_in_replicas) == [[1.0, 2.0], [1.0, 2.0]]  # nothing is reduced


def rows_assigned_in_replicas() -> list:
    strategy = mirrored()
    with strategy.scope():
        variable = keras.Variable(np.zeros([4, 2], "float32"), aggregation="mean")

    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        value = tf.fill([2, 2], tf.cast(number, tf.float32) + 1)
        _private_api.assign_rows_in_replica(variable, 1, value)

    tf.function(lambda: strategy.run(replica), autograph=False)()
    return [v.numpy()[:, 0].tolist() for v in variable.value.values]


def test_assign_rows_in_replica(in_process):
    assert in_process(rows_assigned_in_replicas) == [[0, 1, 1, 0], [0, 2, 2, 0]]


# Optimizers that update rows.


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
def test_rows_updated_alone(clip, scaled):
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
            with _private_api.rows_updated_alone(optimizer, table_named):  # noqa: B023
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
        assert "update_step" not in vars(_private_api.unwrapped(optimizer))
    for ours, keras_own in zip(*found, strict=True):
        np.testing.assert_allclose(ours, keras_own, rtol=1e-6)


def test_an_optimizer_without_a_table_is_left_as_it_is():
    with _private_api.rows_updated_alone(None, table_named):
        pass
    assert not _private_api.update_rows_alone(object(), table_named)
    kernel, bias = table_and_bias()
    optimizer = keras.optimizers.Adagrad()
    assert not _private_api.update_rows_alone(optimizer, table_named)
    optimizer.build([bias])
    assert not _private_api.update_rows_alone(optimizer, table_named)
    assert "update_step" not in vars(optimizer)
    optimizer = keras.optimizers.Adagrad()
    optimizer.build([kernel, bias])
    assert _private_api.update_rows_alone(optimizer, table_named)


def test_shards_are_clipped_as_one_table():
    table = tf.constant([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    shards = [tf.IndexedSlices(table[:1], [5], [8, 2]), table[1:]]
    other, shared = tf.constant([2.0]), object()
    optimizer = keras.optimizers.SGD(clipnorm=1.0)
    sliced, dense, alone = _private_api.clipped_as_tables(
        optimizer, [*shards, other], [shared, shared, None]
    )
    np.testing.assert_allclose(sliced.values, [[0.6, 0.0]], rtol=1e-6)
    assert sliced.indices is shards[0].indices
    np.testing.assert_allclose(dense, [[0.0, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(alone, [1.0], rtol=1e-6)
    for i, part in enumerate(_private_api.clipped(optimizer, [table[:1], table[1:]])):
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

    return {"ours": types(_private_api.own_copy), "plain": types(lambda v: v.value)}


def test_own_copy(in_process):
    assert in_process(rows_gathered_in_replicas) == {
        "ours": ["ResourceGather"],
        "plain": ["ReadVariableOp"],
    }
    plain = tf.Variable([1.0])
    assert _private_api.own_copy(plain) is plain


def test_number_of_servers():
    """With such a strategy: tests/layers/test_sharded_embedding_training.py."""
    assert _private_api.number_of_servers(tf.distribute.get_strategy()) == 0


# Losses.


def losses_on_two_replicas() -> list:
    strategy = mirrored()
    loss = keras.losses.MeanSquaredError()

    def value(x):
        return loss(tf.zeros([2, 1]), x)

    @tf.function
    def run():
        return strategy.experimental_local_results(strategy.run(value, [tf.fill([2, 1], 2.0)]))

    with _private_api.losses_of_one_replica():
        ours = [float(v) for v in run()]
    run = tf.function(run.python_function)  # traced anew
    return ours + [float(v) for v in run()]


def test_losses_of_one_replica(in_process):
    assert in_process(losses_on_two_replicas) == [4.0, 4.0, 2.0, 2.0]


# Dropout.


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


# Models.


def test_overrides_sees_methods_of_a_models_own_class_only():
    class Own(keras.Model):
        def train_step(self, data):
            return {}

    class Heir(Own):
        pass

    inputs = keras.Input((2,))
    for model in (keras.Sequential(), keras.Model(inputs, inputs), keras.Model()):
        for method in ("train_step", "test_step", "compute_loss", "compute_metrics"):
            assert not _private_api.overrides(model, method), method
    assert _private_api.overrides(Heir(), "train_step")
    assert not _private_api.overrides(Heir(), "test_step")


def test_flatten_layers_finds_the_layers_of_nested_models_and_wrappers():
    inputs = keras.Input((3, 2))
    inner = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(2))(inputs))
    model = keras.Sequential([keras.Input((3, 2)), inner])
    kinds = [type(layer).__name__ for layer in _private_api.flatten_layers(model)]
    assert kinds.count("Dense") == 1
    assert kinds.count("TimeDistributed") == 1


def test_set_own_trainable():
    inner = keras.layers.Dense(2)
    model = keras.Sequential([keras.Input((3,)), keras.Sequential([keras.Input((3,)), inner])])
    _private_api.set_own_trainable(model.layers[0], False)
    assert not model.layers[0].trainable
    assert inner.trainable
    assert inner.kernel.trainable
    assert model.layers[0].trainable_weights == []
    assert len(model.trainable_weights) == 2
    _private_api.set_own_trainable(inner, False)
    assert inner.trainable_weights == []
    assert inner.kernel.trainable


def test_output_spec_gives_shapes_and_makes_the_variables():
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(2)])
    output = _private_api.output_spec(model, keras.KerasTensor([None, 4]))
    assert output.shape == (None, 2)
    assert [v.shape for v in model.variables] == [(4, 3), (3,), (3, 2), (2,)]


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


def test_variables_as_constants():
    weight = tf.Variable([[2.0], [3.0]])
    function = tf.function(lambda x: x @ weight).get_concrete_function(tf.TensorSpec([None, 2]))
    frozen = _private_api.variables_as_constants(function)
    placeholder = function.graph.captures[0][1].op.name
    constants = {n.name: n.attr["value"].tensor for n in frozen.graph.as_graph_def().node}
    assert tf.make_ndarray(constants[placeholder]).tolist() == [[2.0], [3.0]]
    assert not frozen.variables
    assert frozen(tf.constant([[1.0, 1.0]]))[0].numpy() == [[5.0]]


# Hooks, savers and SavedModels of TensorFlow 1.


def test_hook_settings():
    v1 = tf.compat.v1.train
    told = {
        v1.StopAtStepHook(num_steps=3): {"num_steps": 3, "last_step": None},
        v1.NanTensorHook("loss", False): {"loss_tensor": "loss", "fail_on_nan_loss": False},
        v1.LoggingTensorHook({"a": "b"}, every_n_secs=2, at_end=True): {
            "tensors": {"a": "b"},
            "every_n_iter": None,
            "every_n_secs": 2,
            "at_end": True,
            "formatter": None,
        },
        v1.LoggingTensorHook(["b"], at_end=True): {
            "tensors": {"b": "b"},
            "every_n_iter": None,
            "every_n_secs": None,
            "at_end": True,
            "formatter": None,
        },
        v1.StepCounterHook(7, output_dir="x"): {
            "every_n_steps": 7,
            "every_n_secs": None,
            "output_dir": "x",
            "summary_writer": None,
        },
        v1.CheckpointSaverHook("x", save_secs=9): {
            "checkpoint_dir": "x",
            "save_steps": None,
            "save_secs": 9,
            "saver": None,
            "scaffold": None,
            "listeners": [],
            "save_graph_def": True,
        },
        v1.SummarySaverHook(4, output_dir="x", summary_op="op"): {
            "save_steps": 4,
            "save_secs": None,
            "output_dir": "x",
            "summary_writer": None,
            "scaffold": None,
            "summary_op": "op",
        },
        v1.FinalOpsHook("op"): {"final_ops": "op", "final_ops_feed_dict": None},
    }
    for hook, settings in told.items():
        assert _private_api.hook_settings(hook) == settings
    assert _private_api.hook_settings(v1.SessionRunHook()) is None


def test_saver_max_to_keep():
    with tf.Graph().as_default():
        variables = [tf.compat.v1.get_variable("x", [])]
        savers = [tf.compat.v1.train.Saver(variables, max_to_keep=n) for n in (3, None)]
    assert [_private_api.saver_max_to_keep(saver) for saver in savers] == [3, None]


def test_set_signature_methods(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    path = str(tmp_path / "saved_model.pb")
    _private_api.set_signature_methods(path, {"serving_default": "tensorflow/serving/classify"})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
    signature = graph.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/classify"
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert float(loaded(tf.constant(2.0))["y"]) == 2.0


# TensorFlow 1 code.

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
    twin = _private_api.alone(variable)
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
        "plain": _private_api.alone(twin) is twin,
    }


def test_alone(in_process):
    assert in_process(alone_on_two_replicas) == {
        "same memory": True,
        "changed": True,
        "the other copy": [3.0, 4.0],
        "plain": True,
    }


def test_register_python_function():
    _private_api.register_python_function("tfbig_test", lambda x: [np.float32(2) * x])

    @tf.function
    def called(x):
        return tf.raw_ops.PyFunc(input=[x], token="tfbig_test", Tout=[tf.float32])[0]

    assert float(called(tf.constant(4.0))) == 8.0
    _private_api.register_python_function("tfbig_test", lambda x: [np.float32(3) * x])
    assert float(called(tf.constant(4.0))) == 12.0  # the name is looked up when it runs


# What Keras's callbacks count.


def board(folder, **options):
    found = keras.callbacks.TensorBoard(folder, write_graph=False, **options)
    found.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    return found


def test_profiled_batches(tmp_path):
    assert _private_api.profiled_batches(board(tmp_path)) == (0, 0)
    assert _private_api.profiled_batches(board(tmp_path, profile_batch=(3, 5))) == (3, 5)


def test_count_train_batches(tmp_path):
    callback = board(tmp_path, update_freq=4)
    callback.on_train_begin()
    recorded = []
    for batches in (4, 6, 8):
        callback.on_train_batch_begin(0)
        _private_api.count_train_batches(callback, batches)
        with callback.summary.experimental.summary_scope("x"):
            recorded.append(bool(callback.summary.scalar("x", 1.0)))
    assert recorded == [True, False, True]
    assert int(tf.summary.experimental.get_step()) == 8
    callback.on_train_end()
    assert tf.summary.experimental.get_step() is None


def test_count_tested_batches(tmp_path):
    callback = board(tmp_path, update_freq=2)
    _private_api.count_tested_batches(callback, 6)
    callback.on_test_begin()
    callback.on_test_batch_begin(0)
    assert _private_api.tested_batches(callback) == 7
    callback.model.compile("sgd", "mse")
    callback.on_test_end({})


def test_share_batch_time(tmp_path):
    callback = board(tmp_path, write_steps_per_second=True)
    callback.on_train_begin()
    callback.on_train_batch_begin(0)
    began = callback._batch_start_time = callback._batch_start_time - 10.0
    _private_api.share_batch_time(callback, 5)
    assert callback._batch_start_time == pytest.approx(began + 8.0, abs=0.5)


def test_flush_tensorboard(tmp_path):
    callback = board(tmp_path, update_freq=1)
    callback.on_train_begin()
    callback.summary.scalar("x", 1.0)
    (file,) = (tmp_path / "train").glob("events*")
    before = file.stat().st_size
    _private_api.flush_tensorboard(callback)
    assert file.stat().st_size > before
    callback.on_train_end()


def test_count_batches_to_save(tmp_path):
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "{batch}.keras", save_freq=4)
    callback.set_model(keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]))
    callback.on_epoch_begin(1)
    _private_api.count_batches_to_save(callback, 2, 1)
    for batch in (2, 3, 4):
        callback.on_train_batch_end(batch, {})
    assert [path.name for path in tmp_path.iterdir()] == ["4.keras"]


def test_swap_averages_back():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    swap.set_model(model)
    swap.set_params({"epochs": 0})
    model.set_weights([np.full((1, 1), 4.0), np.full(1, 4.0)])
    swap.on_epoch_end(0)
    assert model.get_weights()[0] != 4.0
    for _ in range(2):
        _private_api.swap_averages_back(swap)
        assert model.get_weights()[0] == 4.0
