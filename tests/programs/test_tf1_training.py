"""A model_fn of TensorFlow 1 code trains as in TensorFlow 1."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.programs.batches import N, batch, build, classes, forward, x
from tests.programs.tf1 import Session1, dense, start, v1
from tests.programs.tf1_training_runs import TRAIN, assert_same, new, step, trained_by
from tfbig.errors import UserError
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.programs.updates import Updates


def minimize(make):
    return lambda loss: make().minimize(loss, global_step=v1.train.get_global_step())


OPTIMIZERS = {
    "gradient descent": lambda: v1.train.GradientDescentOptimizer(0.3),
    "momentum": lambda: v1.train.MomentumOptimizer(0.1, 0.9, use_nesterov=True),
    "adam": lambda: v1.train.AdamOptimizer(0.05),
    "adagrad": lambda: v1.train.AdagradOptimizer(0.1),
    "rmsprop": lambda: v1.train.RMSPropOptimizer(0.05, momentum=0.5, centered=True),
    "ftrl": lambda: v1.train.FtrlOptimizer(0.1, l1_regularization_strength=0.01),
    "proximal adagrad": lambda: v1.train.ProximalAdagradOptimizer(
        0.1, l1_regularization_strength=0.01
    ),
    "adadelta": lambda: v1.train.AdadeltaOptimizer(1.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_slots_and_global_step_are_those_of_tensorflow_1(name):
    model_fn = trained_by(minimize(OPTIMIZERS[name]))
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    for i in range(4):
        features = x(4, seed=i)
        loss = step(program, features, classes(), parts=1 + i % 2)
        np.testing.assert_allclose(loss, session.train(features, classes()), rtol=1e-5)
    assert_same(program, session)
    assert int(program.named_variables()["optimizer/global_step"]) == 4


def lookup(features, mode):
    table = v1.get_variable("table", [9, 3], initializer=start([9, 3]))
    return tf.reduce_sum(tf.gather(table, features), axis=1)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_of_an_embedding_that_are_not_looked_up_are_left_alone_as_in_tensorflow_1(name):
    model_fn = trained_by(minimize(OPTIMIZERS[name]), lookup)
    ids = np.random.RandomState(0).randint(0, 6, (3, N, 2)).astype("int32")
    program, session = new(model_fn, (ids[0], classes())), Session1(model_fn, ids[0], classes())
    for features in ids:
        step(program, features, classes(), parts=2)
        session.train(features, classes())
    # TensorFlow squares RMSProp's and Adadelta's slices one by one where a row is looked up twice.
    assert_same(program, session, rtol=1e-4)
    unused = program.named_variables()["model/table"].numpy()[6:]
    if name != "ftrl":
        np.testing.assert_allclose(unused, session.values()["table"][6:])


def clipped(loss):
    optimizer = v1.train.MomentumOptimizer(0.5, 0.9)
    taken, variables = zip(*optimizer.compute_gradients(loss), strict=True)
    taken, _ = tf.clip_by_global_norm(taken, 0.05)
    taken = [g * 2.0 for g in taken]
    return optimizer.apply_gradients(zip(taken, variables, strict=True), v1.train.get_global_step())


def by_hand(loss):
    """As BERT's optimizer does it: tf.gradients, own slots, assignments, its own count."""
    count = v1.train.get_or_create_global_step()
    rate = v1.train.polynomial_decay(0.5, count, 5, end_learning_rate=0.0)
    variables = v1.trainable_variables()
    taken, _ = tf.clip_by_global_norm(tf.gradients(loss, variables), 0.1)
    updates = []
    for gradient, variable in zip(taken, variables, strict=True):
        name = variable.name.partition(":")[0]
        mean = v1.get_variable(
            f"{name}/mean", variable.shape, trainable=False, initializer=v1.zeros_initializer()
        )
        new_mean = 0.9 * mean + 0.1 * gradient
        updates += [mean.assign(new_mean), variable.assign(variable - rate * new_mean)]
    with tf.control_dependencies(updates):  # BERT has not, and a session may read a later rate
        return tf.group(count.assign(count + 1))


def averaged(loss):
    update = minimize(OPTIMIZERS["adam"])(loss)
    average = v1.train.ExponentialMovingAverage(0.5)
    with tf.control_dependencies([update]):
        return average.apply(v1.trainable_variables())


def two_optimizers(loss):
    weights = v1.trainable_variables()
    count = v1.train.get_global_step()
    return tf.group(
        v1.train.FtrlOptimizer(0.1).minimize(loss, var_list=weights[:1]),
        v1.train.AdagradOptimizer(0.2).minimize(loss, global_step=count, var_list=weights[1:]),
    )


@pytest.mark.parametrize("train", [clipped, by_hand, averaged, two_optimizers])
def test_what_is_done_to_gradients_and_after_the_update_is_done_once(train):
    model_fn = trained_by(train)
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    for i in range(4):
        step(program, x(4, seed=i), classes(), parts=3)
        session.train(x(4, seed=i), classes())
    assert_same(program, session)


def test_schedules_see_the_true_step_without_being_given_it_to_count():
    def train(loss):
        rate = v1.train.exponential_decay(0.5, v1.train.get_global_step(), 1, 0.5)
        return v1.train.GradientDescentOptimizer(rate).minimize(loss)

    program = new(trained_by(train))
    rates = []
    for _ in range(3):
        rates.append(program.learning_rate())
        step(program, x(4), classes())
    assert rates == [0.5, 0.25, 0.125]


def normalised(features, mode):
    mean = v1.get_variable("mean", [4], trainable=False, initializer=v1.zeros_initializer())
    seen = v1.get_variable("seen", [], trainable=False, initializer=v1.zeros_initializer())
    now = tf.reduce_mean(features, 0)
    for update in (v1.assign_sub(mean, 0.1 * (mean - now)), v1.assign_add(seen, 1.0)):
        v1.add_to_collection(v1.GraphKeys.UPDATE_OPS, update)
    return dense(features - now, 3, "out")


def after_updates(loss):
    with tf.control_dependencies(v1.get_collection(v1.GraphKeys.UPDATE_OPS)):
        return minimize(OPTIMIZERS["adam"])(loss)


def grouped_updates(loss):
    updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
    return tf.group(minimize(OPTIMIZERS["adam"])(loss), *updates)


def loss_after_update(loss):
    """As tf.contrib's create_train_op: the loss, once everything is done."""
    with tf.control_dependencies([after_updates(loss)]):
        return tf.identity(loss)


@pytest.mark.parametrize("train", [after_updates, grouped_updates, loss_after_update])
def test_moving_statistics_are_state_and_counters_count_updates(train):
    model_fn = trained_by(train, normalised)
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    assert [v.name for v in program.state] == ["mean:0"]
    for i in range(3):
        step(program, x(4, seed=i), classes())
        session.train(x(4, seed=i), classes())
    assert_same(program, session)
    expected = program.named_variables()["model/mean"].numpy() * 0.9 + 0.1 * x(4).mean(0)
    step(program, x(4), classes(), parts=2)
    np.testing.assert_allclose(program.named_variables()["model/mean"], expected, rtol=1e-5)
    assert float(program.named_variables()["optimizer/seen"]) == 4.0


def test_updates_that_train_op_does_not_wait_for_do_not_run():
    program = new(trained_by(minimize(OPTIMIZERS["adam"]), normalised))
    step(program, x(4), classes())
    assert not program.named_variables()["model/mean"].numpy().any()


def test_regularization_is_in_the_loss_once_for_an_update():
    def model_fn(features, labels, mode):
        logits = dense(features, 3, "out", regularizer=lambda w: 0.3 * tf.nn.l2_loss(w))
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        loss += v1.losses.get_regularization_loss()
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=minimize(OPTIMIZERS["momentum"])(loss))

    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    for _ in range(3):
        loss = step(program, x(4), classes(), parts=3)
        np.testing.assert_allclose(loss, session.train(x(4), classes()), rtol=1e-5)
    assert_same(program, session)


def test_regularization_is_a_term_of_its_own_where_gradients_are_summed():
    def model_fn(features, labels, mode):
        logits = dense(features, 3, "out", regularizer=lambda w: 0.3 * tf.nn.l2_loss(w))
        loss = v1.losses.get_regularization_loss() + v1.losses.sparse_softmax_cross_entropy(
            labels, logits, reduction=v1.losses.Reduction.SUM
        )
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=minimize(OPTIMIZERS["momentum"])(loss))

    program = new(model_fn, config=tfbig.RunConfig(gradient_aggregation="sum"))
    kernel = program.named_variables()["model/out/kernel"].numpy()
    program.select_mode(True)
    kinds_of_terms = []

    @tf.function(autograph=False)
    def trace():
        terms = forward(program, batch(x(4), classes())).terms
        kinds_of_terms.extend(term.kind for term in terms)
        return [term.total for term in terms]

    _, once = trace()
    assert kinds_of_terms == ["scalar", "once"]
    np.testing.assert_allclose(once, 0.15 * np.sum(kernel**2), rtol=1e-5)


def test_a_train_op_that_reads_the_batch_is_refused_and_names_the_tensor():
    def train(loss):
        rate = tf.identity(0.1 * loss, name="rate")
        return v1.train.AdamOptimizer(rate).minimize(loss)

    with pytest.raises(UserError, match="^train_op 'Adam' reads the tensor 'rate:0' "):
        new(trained_by(train))


def test_gradients_of_two_losses_for_one_variable_are_refused():
    def train(loss):
        make = v1.train.GradientDescentOptimizer
        return tf.group(make(0.1).minimize(loss), make(0.1).minimize(loss * loss))

    with pytest.raises(UserError, match="^train_op uses two gradients of the variable 'out/kernel"):
        new(trained_by(train))


def test_the_same_loss_may_be_differentiated_twice():
    def train(loss):
        optimizer = v1.train.GradientDescentOptimizer(0.1)
        norm = tf.linalg.global_norm(tf.gradients(loss, v1.trainable_variables()))
        pairs = optimizer.compute_gradients(loss)
        return optimizer.apply_gradients([(g / norm, v) for g, v in pairs])

    model_fn = trained_by(train)
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    step(program, x(4), classes(), parts=2)
    session.train(x(4), classes())
    np.testing.assert_allclose(
        program.named_variables()["model/out/kernel"],
        session.values()["out/kernel"],
        rtol=1e-5,
        atol=1e-6,
    )


def test_partitioners_are_refused():
    def logits(features, mode):
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(2)):
            return dense(features, 3, "out")

    with pytest.raises(UserError, match="^the variable 'out/kernel' has a partitioner; leave it"):
        new(trained_by(minimize(OPTIMIZERS["adam"]), logits))


def test_float16_and_owner_need_a_keras_optimizer():
    model_fn = trained_by(minimize(OPTIMIZERS["adam"]))
    with pytest.raises(
        UserError, match=r'^RunConfig\(precision="mixed_float16"\) needs loss scaling'
    ):
        new(model_fn, precision="mixed_float16")
    with pytest.raises(UserError, match=r"^RunConfig\(precision='mixed_bfloat16'\) is a policy of"):
        new(model_fn, precision="mixed_bfloat16")
    program = ModelFnProgram(model_fn, None, None, lambda: tf.device("CPU:0"), "float32")
    owner = {"slots_are_whole": False, "distribution": "owner"}
    program.updates = type("Owner", (Updates,), owner)()
    with pytest.raises(UserError, match=r"^RunConfig\(model_distribution='owner'\) divides the st"):
        build(program, x(4), classes())


def test_callbacks_are_told_that_the_rate_is_fixed_in_the_graph():
    program = new(trained_by(minimize(OPTIMIZERS["adam"])))
    optimizer = program.callback_model().optimizer
    assert optimizer.learning_rate == pytest.approx(0.05)
    with pytest.raises(AttributeError, match="^a callback sets optimizer.learning_rate, but"):
        optimizer.learning_rate = 0.1


def test_variables_are_reused_within_a_call_as_in_tensorflow_1():
    def logits(features, mode):
        with v1.variable_scope("tower", reuse=v1.AUTO_REUSE):
            first = dense(features, 3, "out")
        with v1.variable_scope("tower", reuse=True):
            return first + dense(features * 2.0, 3, "out")

    model_fn = trained_by(minimize(OPTIMIZERS["proximal adagrad"]), logits)
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    step(program, x(4), classes(), parts=2)
    session.train(x(4), classes())
    assert_same(program, session)


def test_a_name_used_twice_without_reuse_is_tensorflow_s_own_error():
    def logits(features, mode):
        return dense(features, 3, "out") + dense(features, 3, "out")

    with pytest.raises(ValueError, match="^Variable out/kernel already exists, disallowed. Did"):
        new(trained_by(minimize(OPTIMIZERS["adam"]), logits))


def test_values_of_a_checkpoint_are_taken_when_variables_are_made(tmp_path):
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("old/kernel", [4, 3], initializer=v1.ones_initializer())
        v1.get_variable("old/bias", [3], initializer=v1.ones_initializer())
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(tmp_path / "model"))

    def logits(features, mode):
        outputs = dense(features, 3, "out")
        v1.train.init_from_checkpoint(str(tmp_path / "model"), {"old/": "out/"})
        return outputs

    program = new(trained_by(minimize(OPTIMIZERS["adam"]), logits))
    assert program.named_variables()["model/out/kernel"].numpy().tolist() == [[1.0] * 3] * 4
    step(program, x(4), classes())  # a trace of other shapes leaves them alone
    step(program, x(4), classes(), parts=2)
    assert not np.allclose(program.named_variables()["model/out/kernel"], 1.0)


def test_weights_made_outside_of_model_fn_are_refused():
    weights = tf.Variable(tf.ones([4, 3]), name="mine")

    def logits(features, mode):
        return tf.matmul(features, weights) + dense(features, 3, "out")

    with pytest.raises(
        UserError, match="^model_fn uses the weights 'mine:0', which were created ou"
    ):
        new(trained_by(minimize(OPTIMIZERS["adam"]), logits))


def test_a_variable_of_another_dtype_is_an_error_that_names_it():
    def logits(features, mode):
        kind = tf.float32 if mode == TRAIN else tf.float64
        extra = v1.get_variable("extra", [3], kind, initializer=v1.zeros_initializer())
        return dense(features, 3, "out") + tf.cast(extra, tf.float32)

    program = new(trained_by(minimize(OPTIMIZERS["adam"]), logits))
    with pytest.raises(UserError, match="'extra' of float32 before and now requests float64"):
        build(program, x(4), classes(), training=False)


def test_the_loss_of_a_batch_is_what_model_fn_says():
    model_fn = trained_by(minimize(OPTIMIZERS["adam"]))
    program, session = new(model_fn), Session1(model_fn, x(4), classes())
    program.select_mode(True)

    @tf.function(autograph=False)
    def trace():
        return [t.total for t in forward(program, batch(x(4), classes())).terms]

    expected = session.run(session.spec.loss, x(4), classes())
    np.testing.assert_allclose(trace()[0], expected, rtol=1e-6)


def synchronized_on_two_replicas() -> str:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

    def logits(features, mode):
        layer = keras.layers.BatchNormalization(synchronized=True)
        return dense(layer(features, training=mode == TRAIN), 3, "out")

    def input_fn():
        return tf.data.Dataset.from_tensor_slices((x(4), classes())).batch(4)

    model_fn = trained_by(minimize(OPTIMIZERS["adam"]), logits)
    try:
        tfbig.train_distributed(model_fn, input_fn, strategy="mirrored", devices=2)
    except UserError as error:
        return str(error)
    return ""


def test_statistics_over_replicas_need_a_keras_optimizer(in_process):
    message = in_process(synchronized_on_two_replicas)
    assert message.startswith("model_fn has a layer with synchronized=True and returns a train_op")
