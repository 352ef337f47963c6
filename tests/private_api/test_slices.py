"""Keras's optimizers work as functions of slices.

These tests guard unwrap_optimizer of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.private_api.values import mirrored, weights
from tfbig import _private_api


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


@pytest.mark.parametrize("i", range(6))
def test_an_optimizer_without_slots_has_the_same_variables(i):
    with _private_api.automatic_names():
        plain = optimizers()[i]
        plain.build(weights())
    with _private_api.automatic_names():
        sliced = optimizers()[i]
        slots = _private_api.build_without_slots(sliced, weights())
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
    slots = _private_api.build_without_slots(sliced, weights())
    rule = _private_api.SliceRule(
        sliced, slots, member=0, shape=[2], dtype="float32", decays=sliced.weight_decay is not None
    )
    values = tf.constant([1.0, -2.0])
    own = [_private_api.initial_value(slot, [2]) for slot in slots[0]]
    for gradient in ([0.5, 3.0], [-1.0, 1.0], [0.1, 0.0]):
        optimizer.apply([tf.constant([gradient]), tf.constant([1.0])], variables)
        scalars = [tf.convert_to_tensor(v) for v in rule.scalars]
        values, own, new = rule.update(values, tf.constant(gradient), own, scalars)
        if sliced.use_ema:
            own[rule.average_index] = rule.average(values, own, scalars)[rule.average_index]
        for scalar, value in zip(rule.scalars, new, strict=True):
            _private_api.assign_in_replica(scalar, value)
    np.testing.assert_allclose(values, variables[0].numpy()[0], rtol=1e-6)
    whole = {v.path.split("/")[-1]: v for v in optimizer.variables}
    for slot, value in zip(slots[0], own, strict=True):
        np.testing.assert_allclose(value, whole[slot.path.split("/")[-1]].numpy()[0], rtol=1e-6)
    assert int(sliced.iterations) == 3


@pytest.mark.parametrize(
    "made",
    [
        lambda: keras.optimizers.Adafactor(0.1),
        lambda: keras.optimizers.Lamb(0.1),
        lambda: keras.optimizers.Muon(0.1, weight_decay=0.2, adam_weight_decay=0.1),
        lambda: keras.optimizers.Muon(0.1, adam_weight_decay=0.1, exclude_layers=["kernel"]),
    ],
    ids=["adafactor", "lamb", "muon", "muon_excluding"],
)
@pytest.mark.parametrize("member", [0, 1])
def test_a_rule_of_a_whole_variable_is_kerass_own(made, member):
    variables, optimizer = weights(), made()
    optimizer.build(variables)
    sliced, twins = made(), weights()
    slots = _private_api.build_without_slots(sliced, twins)
    twin = twins[member]
    rule = _private_api.SliceRule(
        sliced, slots, member=member, shape=twin.shape, dtype="float32", path=twin.path,
        decays=_private_api.is_decayed(sliced, twin),
    )  # fmt: skip
    value = tf.constant(twin)
    own = [_private_api.initial_value(slot, slot.shape) for slot in slots[member]]
    own += [tf.constant(factor) for factor in rule.factors]
    for gradient in ([[0.5, 3.0]], [[-1.0, 1.0]], [[0.1, 0.0]]):
        gradients = [tf.constant(gradient), tf.constant([1.0])]
        optimizer.apply(gradients, variables)
        scalars = [tf.convert_to_tensor(v) for v in rule.scalars]
        value, own, new = rule.update(value, gradients[member], own, scalars)
        for scalar, number in zip(rule.scalars, new, strict=True):
            _private_api.assign_in_replica(scalar, number)
    np.testing.assert_allclose(value, variables[member], rtol=1e-6)
    assert len(rule.factors) == 2 * (type(sliced).__name__ == "Adafactor" and member == 0)
    assert int(sliced.iterations) == 3


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


def test_a_stateless_scope_is_recognized():
    assert not _private_api.in_stateless_scope()
    with keras.StatelessScope():
        assert _private_api.in_stateless_scope()


def test_the_stored_value_is_the_variable_itself_in_any_scope():
    variable = keras.Variable(np.zeros(2, "float32"))
    stored = variable.value
    with keras.StatelessScope([(variable, tf.ones(2))]):
        assert variable.value is not stored
        assert _private_api.stored_value(variable) is stored
    assert _private_api.stored_value(stored) is stored


def test_variables_store_what_a_function_creates():
    seen = []

    def create(variable, value, plain):
        seen.append((variable.trainable, _private_api.shape_of(variable, value)))
        return plain() if variable.trainable else "mine"

    with _private_api.values_created_by(create):
        trained = keras.Variable("ones", [3])
        array = keras.Variable(np.zeros((2, 1), "float32"))
        with pytest.raises(AttributeError):  # Keras asks an array's value for its shape
            keras.Variable(np.zeros(4, "float32"), trainable=False)
        other = keras.Variable("ones", [5], trainable=False)
    after = keras.Variable("ones", [3])
    assert seen == [(True, (3,)), (True, (2, 1)), (False, (4,)), (False, (5,))]
    assert trained.numpy().tolist() == [1, 1, 1]
    assert array.numpy().tolist() == [[0], [0]]
    assert _private_api.stored_value(other) == "mine"
    assert isinstance(_private_api.stored_value(after), tf.Variable)


def test_variables_without_values_are_exported_as_their_marks(tmp_path):
    with _private_api.variables_without_values(lambda variable: variable.trainable) as created:
        model = keras.Sequential([keras.Input((1 << 20,)), keras.layers.Dense(1 << 20)])  # 4 TB
    model.export(str(tmp_path / "model"), format="tf_saved_model", verbose=False)
    reader = tf.train.load_checkpoint(str(tmp_path / "model" / "variables" / "variables"))
    kinds = reader.get_variable_to_dtype_map()
    found = {reader.get_tensor(key) for key, dtype in kinds.items() if dtype == tf.string}
    assert {_private_api.mark_of(value) for value in created} <= found
    assert len(created) == 2


def test_weights_are_read_from_disk(tmp_path):
    saving_lib = keras.src.saving.saving_lib
    plain = saving_lib.is_memory_sufficient
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    with _private_api.weights_read_from_disk():
        assert saving_lib.is_memory_sufficient(model) is False
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert saving_lib.is_memory_sufficient is plain
    for mine, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_variable_without_value_has_no_memory():
    variable = _private_api.variable_without_value([1 << 40], tf.float32, "big/kernel:0")
    assert (variable.shape, variable.dtype, variable.name) == (
        (1 << 40,),
        tf.float32,
        "big/kernel:0",
    )
    traced = tf.function(lambda: tf.reduce_sum(variable)).get_concrete_function()
    assert id(traced.captured_inputs[0]) == id(variable.handle)
