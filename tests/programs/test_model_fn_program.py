"""Estimator-style model_fns as programs."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import WEIGHTS, N, batch, build, classes, forward, loss_of, x
from tests.programs.model_fn_runs import built, regression, run, train_step
from tfbig.errors import UserError
from tfbig.programs import program as kinds
from tfbig.programs.model_fn.call import is_estimator_style
from tfbig.programs.model_fn.train_op import CallbackModel

EVAL, TRAIN = tfbig.ModeKeys.EVAL, tfbig.ModeKeys.TRAIN


# Variables.


def test_training_makes_all_variables_by_name():
    program = built()
    assert {n: tuple(v.shape) for n, v in program.named_variables().items()} == {
        "model/out/kernel": (4, 1),
        "model/out/bias": (1,),
        "optimizer/sgd/iteration": (),
        "optimizer/sgd/learning_rate": (),
        "optimizer/sgd/out_kernel_0_momentum": (4, 1),
        "optimizer/sgd/out_bias_0_momentum": (1,),
    }
    assert len(program.trainable) == 2
    assert program.state == []
    assert program.metric_variables == []


def test_all_traces_and_modes_share_the_variables():
    program = built(evaluation=True)
    kernel, bias = (program.named_variables()[f"model/out/{n}"] for n in ("kernel", "bias"))
    given = batch(x(4), x(1))
    expected = np.mean((x(4) @ kernel.numpy() + bias - x(1)) ** 2)
    for training in (True, False, True):
        np.testing.assert_allclose(
            run(program, given, training=training), expected, rtol=1e-5, atol=1e-6
        )
    kernel.assign(tf.zeros_like(kernel))
    expected = np.mean((bias.numpy() - x(1)) ** 2)
    for training in (True, False):
        np.testing.assert_allclose(
            run(program, given, training=training), expected, rtol=1e-5, atol=1e-6
        )
    assert set(program.named_variables()) == set(built().named_variables())


def test_updates_are_those_of_the_optimizer_and_its_slots_are_kept_between_traces():
    program = built()
    names = program.named_variables()
    kernel, bias = names["model/out/kernel"], names["model/out/bias"]
    weights, momentum = np.concatenate([kernel.numpy().ravel(), bias.numpy()]), np.zeros(5)
    inputs = np.concatenate([x(4), np.ones([N, 1])], axis=1)
    for _ in range(3):
        gradient = 2 * inputs.T @ (inputs @ weights - x(1)[:, 0]) / N
        momentum = 0.5 * momentum - 0.1 * gradient
        weights = weights + momentum
        train_step(program, batch(x(4), x(1)))
    found = np.concatenate([kernel.numpy().ravel(), bias.numpy()])
    np.testing.assert_allclose(found, weights, rtol=1e-5, atol=1e-6)
    assert int(names["optimizer/sgd/iteration"]) == 3
    np.testing.assert_allclose(
        names["optimizer/sgd/out_kernel_0_momentum"].numpy().ravel(), momentum[:4], rtol=1e-4
    )


def normalised(features, labels, mode):
    hidden = layers.BatchNormalization(momentum=0.5, name="norm")(features, training=mode == TRAIN)
    output = layers.Dense(1, trainable=False, name="frozen")(layers.Dense(2)(hidden))
    loss = keras.losses.mean_squared_error(labels, output)
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))


def test_state_is_changed_in_training_alone_and_frozen_layers_are_not_trained():
    program = built(normalised, evaluation=True)
    mean = program.named_variables()["model/norm/moving_mean"]
    assert len(program.trainable) == 4  # gamma, beta and the middle layer's two
    assert len(program.state) == 2
    frozen = program.named_variables()["model/frozen/kernel"].numpy()
    assert "optimizer/sgd/iteration" in program.named_variables()
    run(program, batch(x(4), x(1)), training=False)
    assert not mean.numpy().any()
    run(program, batch(x(4), x(1)), training=True)
    np.testing.assert_allclose(mean, 0.5 * x(4).mean(0), rtol=1e-5, atol=1e-6)
    train_step(program, batch(x(4), x(1)))
    np.testing.assert_array_equal(program.named_variables()["model/frozen/kernel"], frozen)


def test_a_layer_may_be_frozen_after_it_was_called():
    def model_fn(features, labels, mode):
        layer = layers.Dense(1, name="base")
        output = layers.Dense(1, name="head")(layer(features))
        layer.trainable = False
        loss = keras.losses.mean_squared_error(labels, output)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(0.1))

    program = built(model_fn)
    names = program.named_variables()
    assert [v.name for v in program.trainable] == ["head/kernel:0", "head/bias:0"]
    assert not any("base" in name for name in names if name.startswith("optimizer/"))
    before = {name: v.numpy() for name, v in names.items()}
    train_step(program, batch(x(4), x(1)))
    changed = {n for n, v in names.items() if n[:5] == "model" and (v.numpy() != before[n]).any()}
    assert changed == {"model/head/kernel", "model/head/bias"}


def extra_layer_in(where):
    def model_fn(features, labels, mode):
        output = layers.Dense(1, name="out")(features)
        if mode == where:
            output = layers.Dense(1, name="extra")(output)
        loss = keras.losses.mean_squared_error(labels, output)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))

    return model_fn


def test_a_weight_that_evaluation_alone_has_is_an_error_that_names_it():
    program = built(extra_layer_in(EVAL))
    with pytest.raises(UserError) as raised:
        build(program, x(4), x(1), training=False)
    assert str(raised.value) == (
        "model_fn created variables in EVAL mode that TRAIN mode does not have: extra/bias, "
        "extra/kernel; build the same layers in every mode, and give a layer whose automatic name "
        "differs between modes a name."
    )


def test_a_weight_that_training_alone_has_is_none():
    program = built(extra_layer_in(TRAIN), evaluation=True)
    assert "model/extra/kernel" in program.named_variables()


def test_a_weight_that_a_later_trace_makes_is_an_error():
    calls = []

    def model_fn(features, labels, mode):
        calls.append(mode)
        name = "first" if len(calls) == 1 else "later"
        loss = keras.losses.mean_squared_error(labels, layers.Dense(1, name=name)(features))
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))

    with pytest.raises(UserError, match="^model_fn created the variable 'later/kernel', which it"):
        program = built(model_fn)
        run(program, batch(x(4), x(1)), training=True)


# Loss.


def loss_is(make):
    def model_fn(features, labels, mode):
        output = layers.Dense(3, name="out")(features)
        loss = make(keras.ops.sparse_categorical_crossentropy(labels, output, from_logits=True))
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))

    return model_fn


@pytest.mark.parametrize(
    ("make", "shape", "kind", "per_row"),
    [
        (lambda each: each, (), kinds.EXAMPLES, 1.0),
        (lambda each: each[:, None], (), kinds.EXAMPLES, 1.0),
        (keras.ops.mean, (), kinds.SCALAR, 1.0),
        (lambda each: each, (5,), kinds.EXAMPLES, 5.0),
        (lambda each: tf.cast(tf.reduce_mean(each), tf.float16), (), kinds.SCALAR, 1.0),
        (lambda each: tf.reduce_mean(each, keepdims=True), (), kinds.SCALAR, 1.0),
    ],
    ids=["[n]", "[n, 1]", "a scalar", "[n, tokens]", "a float16", "[1]"],
)
def test_a_loss_is_its_mean_over_the_batch(make, shape, kind, per_row):
    program = built(loss_is(make), (x(*shape, 4), classes(*shape)))
    given = batch(x(*shape, 4), classes(*shape))
    (term,) = forward(program, given).terms
    assert term.kind == kind
    assert float(term.per_row) == per_row
    assert term.total.dtype == tf.float32
    kernel, bias = (program.named_variables()[f"model/out/{n}"] for n in ("kernel", "bias"))
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(
        classes(*shape), x(*shape, 4) @ kernel.numpy() + bias.numpy()
    )
    np.testing.assert_allclose(loss_of([term]), expected, rtol=2e-3)


WRONG_LOSSES = {
    "of another axis": lambda each: tf.reduce_mean(tf.stack([each, each, each], 1), 0),
    "of some examples": lambda each: tf.boolean_mask(each, tf.range(tf.size(each)) > 1),
}


@pytest.mark.parametrize("of", WRONG_LOSSES)
def test_a_loss_with_another_number_of_rows_than_the_batch_is_refused(of):
    program = built(loss_is(WRONG_LOSSES[of]), (x(4), classes()))
    message = "Loss must be scalar, or have a value for each example of the batch, given"
    with pytest.raises((UserError, tf.errors.InvalidArgumentError), match=message):
        forward(program, batch(x(4), classes()))


# Metrics.


def test_metrics_are_evaluation_s_and_add_up_over_batches():
    program = built(evaluation=True)
    kernel, bias = (program.named_variables()[f"model/out/{n}"] for n in ("kernel", "bias"))
    for seed in (0, 7):
        run(program, batch(x(4, seed=seed), x(1)), training=False)
    outputs = [x(4, seed=seed) @ kernel.numpy() + bias.numpy() for seed in (0, 7)]
    assert program.metric_results() == {"mean": pytest.approx(np.mean(outputs), rel=1e-5)}
    program.reset_metrics()
    assert program.metric_results() == {"mean": 0.0}
    program.select_mode(True)
    assert program.metric_results() == {}
    assert not any("mean" in name for name in program.named_variables())


def test_a_metric_made_in_evaluation_alone_is_no_new_weight():
    def model_fn(features, labels, mode):
        output = layers.Dense(3, activation="sigmoid", bias_initializer="ones")(features)
        metrics = None
        if mode == EVAL:
            f1 = keras.metrics.F1Score(threshold=0.5)  # one value for each class
            f1.update_state(labels, output)
            metrics = {"f1": f1}
        return tfbig.EstimatorSpec(
            mode,
            loss=keras.losses.binary_crossentropy(labels, output),
            optimizer=keras.optimizers.SGD(0.1),
            eval_metric_ops=metrics,
        )

    labels = np.eye(3, dtype="float32")[classes()]
    program = built(model_fn, (x(4), labels), evaluation=True)
    run(program, batch(x(4), labels), training=False)
    results = program.metric_results()
    assert list(results) == ["f1_0", "f1_1", "f1_2"]
    assert all(0 <= value <= 1 for value in results.values())
    assert any(results.values())


# What model_fn is given.


def test_model_fn_is_given_what_it_asks_for_by_name():
    seen = []

    def model_fn(features, labels, mode, params, config, extra=5):
        seen.append((sorted(features), mode, params, config, extra))
        output = layers.Dense(1)(features["a"]) + layers.Dense(1)(features["b"])
        loss = keras.losses.mean_squared_error(labels, output)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))

    config = tfbig.RunConfig()
    element = ({"a": x(4), "b": x(2)}, x(1))
    built(model_fn, element, evaluation=True, params={"p": 1}, config=config)
    given = (["a", "b"], {"p": 1}, config, 5)
    expected = [(given[0], mode, *given[1:]) for mode in (TRAIN, EVAL)]
    assert [at for i, at in enumerate(seen) if at not in seen[:i]] == expected


def test_model_fn_need_not_take_labels_where_there_are_none():
    def model_fn(features, mode):
        loss = keras.ops.mean(layers.Dense(1)(features) ** 2, axis=-1)
        return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(0.1))

    assert len(built(model_fn, (x(4),)).trainable) == 2
    with pytest.raises(UserError, match="^model_fn does not take labels, but input_fn returns la"):
        built(model_fn)


def test_layers_are_made_under_the_precision_and_float16_losses_are_scaled():
    program = built(precision="mixed_float16", evaluation=True)
    assert isinstance(program.optimizer, keras.optimizers.LossScaleOptimizer)
    assert "optimizer/loss_scale_optimizer/dynamic_scale" in program.named_variables()
    assert keras.config.dtype_policy().name == "float32"
    plain = copied(program, built(evaluation=True))
    losses = [run(p, batch(x(4), x(1)), training=False) for p in (plain, program)]
    assert 0 < abs(losses[0] - losses[1]) < 1e-2


def copied(source, target):
    for name, variable in source.named_variables().items():
        if name.startswith("model/"):
            target.named_variables()[name].assign(variable)
    return target


# What is refused.


def returning(value):
    return lambda features, labels, mode: value(mode) if callable(value) else value


def spec(mode, **arguments):
    loss = tf.zeros([]) if "loss" not in arguments else arguments.pop("loss")
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.SGD(), **arguments)


REFUSED = {
    "nothing": (returning(None), "^model_fn returned NoneType in mode 'train'; return tfbig.Est"),
    "a loss": (returning(1.0), "^model_fn returned float in mode 'train'; return tfbig.Estimato"),
    "another mode": (
        returning(lambda mode: spec(EVAL)),
        "^model_fn was called with mode 'train' and returned a spec for 'eval'; pass its mode",
    ),
    "a number as a metric": (
        returning(lambda mode: spec(mode, eval_metric_ops={"m": 3.0})),
        r"^Values of eval_metric_ops must be .* tuples or Keras metrics, given: float for key: m",
    ),
    "an argument": (
        lambda features, labels, mode, width: None,
        r"^model_fn \(<lambda>\) has following not expected args: \['width'\]; it can ask for feat",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_fn_is_refused(case):
    model_fn, message = REFUSED[case]
    with pytest.raises(UserError, match=message):
        built(model_fn)


def test_sample_weights_are_refused_not_ignored():
    with pytest.raises(UserError, match="^input_fn returns sample weights, which an estimator-st"):
        built(element=(x(4), x(1), WEIGHTS))


def test_an_estimator_style_function_has_features():
    assert is_estimator_style(regression)
    assert is_estimator_style(lambda features: None)
    assert not is_estimator_style(lambda params: None)
    assert not is_estimator_style(keras.Sequential())


def test_callbacks_see_the_optimizer_and_are_told_that_there_is_no_model():
    program = built()
    stand_in = program.callback_model()
    assert isinstance(stand_in, CallbackModel)
    assert stand_in.stop_training is False
    assert stand_in.optimizer is program.optimizer
    with pytest.raises(AttributeError, match=r"asked for model\.save, but an estimator-style mod"):
        stand_in.save("somewhere")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_none_is_found_in_a_batch(value):
    features = x(4)
    features[3, 2] = value
    name = "NaN" if np.isnan(value) else "an infinity"
    program = built()
    assert program.explain_batch({"a": x(1), "b": features}, x(1)) == (
        f"features['b'] has {name} in example 3 of the batch"
    )
    assert program.explain_batch(x(4), x(1)) is None
