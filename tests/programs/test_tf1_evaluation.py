"""Metrics of TensorFlow 1 are exact, and an error names what a mode lacks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.programs.batches import N, batch, build, classes, x
from tests.programs.test_tf1_training import OPTIMIZERS, minimize
from tests.programs.tf1 import Session1, dense, v1
from tests.programs.tf1_training_runs import new, step
from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.metric_aggregation import PARTS, UNKNOWN_KIND
from tfbig.programs.model_fn import export_output as export_outputs
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.training.step.whole_batches import check_parts

TRAIN, EVAL, PREDICT = tfbig.ModeKeys.TRAIN, tfbig.ModeKeys.EVAL, tfbig.ModeKeys.PREDICT


def all_metrics(labels, logits):
    odd, score = labels % 2, tf.nn.softmax(logits)[:, 1]
    found = tf.cast(score > 0.3, tf.int32)
    chosen = tf.argmax(logits, 1)
    m = v1.metrics
    return {
        "accuracy": m.accuracy(labels, chosen),
        "mean": m.mean(logits),
        "weighted mean": m.mean(score, weights=tf.cast(labels, tf.float32)),
        "auc": m.auc(odd, score),
        "precision": m.precision(odd, found),
        "recall": m.recall(odd, found),
        "mse": m.mean_squared_error(tf.cast(odd, tf.float32), score),
        "rmse": m.root_mean_squared_error(tf.cast(odd, tf.float32), score),
        "per class": m.mean_per_class_accuracy(labels, chosen, 3),
        "iou": m.mean_iou(labels, chosen, 3),
        "false positives": m.false_positives(odd, found),
        "top 2": m.precision_at_k(tf.cast(labels, tf.int64), logits, 2),
    }


def classifier(features, labels, mode):
    logits = tf.identity(dense(features, 3, "out"), name="logits")
    if mode == PREDICT:
        return tfbig.EstimatorSpec(mode, predictions={"p": tf.nn.softmax(logits), "x": features})
    loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
    if mode == EVAL:
        return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops=all_metrics(labels, logits))
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=minimize(OPTIMIZERS["adam"])(loss))


def evaluated(program: ModelFnProgram, batches, parts: int = 1) -> dict[str, float]:
    """The metrics of batches, each worked through in parts that start from 0, as replicas do."""
    program.select_mode(False)
    program.reset_metrics()
    for features, labels in batches:
        _evaluate(program, features, labels, parts)
    return program.metric_results()


def _evaluate(program: ModelFnProgram, features, labels, parts: int) -> None:
    @tf.function(autograph=False)
    def trace():
        start = program.read()
        total = start.metrics
        for p in range(parts):
            cut = slice(p * N // parts, (p + 1) * N // parts)
            given = batch(features[cut], labels[cut])
            zeros = start._replace(metrics=[tf.zeros_like(v) for v in start.metrics])
            with program.tracing():
                found = program.forward(zeros, given, False).metrics
            total = [a + b for a, b in zip(total, found, strict=True)]
        for variable, value in zip(program.metric_variables, total, strict=True):
            variable.assign(value)

    trace()


BATCHES = [(x(4, seed=i), np.roll(classes(), i)) for i in range(3)]


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 3])
def test_metrics_add_up_over_batches_and_parts_as_in_one_session(parts):
    program = new(classifier)
    build(program, x(4), classes(), training=False)
    session = Session1(classifier, x(4), classes(), EVAL)
    metrics = session.spec.eval_metric_ops
    for features, labels in BATCHES:
        session.run([update for _, update in metrics.values()], features, labels)
    expected = session.session.run({name: value for name, (value, _) in metrics.items()})
    found = evaluated(program, BATCHES, parts)
    assert set(program.metric_kinds) == {PARTS}
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


class Largest(keras.metrics.Metric):
    def __init__(self, name="largest"):
        super().__init__(name=name)
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, values, sample_weight=None):
        self.value.assign(tf.maximum(self.value, tf.reduce_max(values)))

    def result(self):
        return self.value


@pytest.mark.parametrize("kind", ["assigned", "keras"])
def test_metrics_that_are_no_sums_are_refused_by_name_in_parts(kind):
    def model_fn(features, labels, mode):
        spec = classifier(features, labels, TRAIN if mode == TRAIN else EVAL)
        if mode == EVAL and kind == "keras":
            spec.eval_metric_ops["own"] = Largest()
            spec.eval_metric_ops["own"].update_state(features)
        elif mode == EVAL:
            largest = v1.get_local_variable("largest/value", [], tf.float32)
            update = v1.assign(largest, tf.maximum(largest, tf.reduce_max(features)))
            spec.eval_metric_ops["own"] = (tf.identity(largest), update)
        return spec

    program = new(model_fn)
    build(program, x(4), classes(), training=False)
    assert program.metric_kinds.count(UNKNOWN_KIND) == 1
    with pytest.raises(UserError, match="metric .*largest/value is no sum over examples.*2 parts"):
        check_parts(program, Placement(), 2, gathers=True)


def test_metrics_begin_anew_and_are_never_saved():
    program = new(classifier)
    build(program, x(4), classes(), training=False)
    first = evaluated(program, BATCHES)
    assert evaluated(program, BATCHES) == first != evaluated(program, BATCHES[:1])
    assert not any("accuracy" in name or "@" in name for name in program.named_variables())
    program.select_mode(True)
    assert program.metric_results() == {}
    assert program.metric_variables == []


def test_a_value_of_one_batch_is_refused():
    def model_fn(features, labels, mode):
        spec = classifier(features, labels, TRAIN if mode == TRAIN else EVAL)
        if mode == EVAL:
            spec.eval_metric_ops["wrong"] = (tf.reduce_mean(features), tf.no_op())
        return spec

    program = new(model_fn)
    with pytest.raises(UserError, match=r"^the value of eval_metric_ops\['wrong'\] is computed fr"):
        build(program, x(4), classes(), training=False)


def test_keras_metrics_and_layers_mix_with_tensorflow_1():
    def model_fn(features, labels, mode):
        hidden = layers.BatchNormalization(momentum=0.5)(features, training=mode == TRAIN)
        logits = dense(layers.Dropout(0.5, seed=1)(hidden, training=mode == TRAIN), 3, "out")
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        accuracy = keras.metrics.SparseCategoricalAccuracy()
        accuracy.update_state(labels, logits)
        metrics = {"keras": accuracy, "v1": v1.metrics.accuracy(labels, tf.argmax(logits, 1))}
        train_op = minimize(OPTIMIZERS["adam"])(loss)
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op, eval_metric_ops=metrics)

    program = new(model_fn)
    names = program.named_variables()
    assert len(program.trainable) == 4
    assert len(program.state) == 3
    seed = names["model/seed_generator/seed_generator_state"].numpy()
    step(program, x(4), classes())
    moving = names["model/batch_normalization/moving_mean"].numpy()
    np.testing.assert_allclose(moving, 0.5 * x(4).mean(0), rtol=1e-5, atol=1e-6)
    assert (names["model/seed_generator/seed_generator_state"].numpy() != seed).any()
    build(program, x(4), classes(), training=False)
    found = evaluated(program, BATCHES, parts=2)
    assert found["keras"] == pytest.approx(found["v1"])
    assert found["keras"] > 0
    assert evaluated(program, BATCHES[:1]) != found


def test_a_keras_optimizer_trains_variables_of_tensorflow_1():
    def model_fn(features, labels, mode):
        logits = dense(features, 3, "out")
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        loss += sum(0.1 * tf.nn.l2_loss(v) for v in v1.trainable_variables())
        metrics = {"accuracy": v1.metrics.accuracy(labels, tf.argmax(logits, 1))}
        return tfbig.EstimatorSpec(
            mode, loss=loss, optimizer=keras.optimizers.SGD(0.3), eval_metric_ops=metrics
        )

    def with_train_op(features, labels, mode):
        logits = dense(features, 3, "out")
        loss = v1.losses.sparse_softmax_cross_entropy(labels, logits)
        loss += sum(0.1 * tf.nn.l2_loss(v) for v in v1.trainable_variables())
        make = OPTIMIZERS["gradient descent"]
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=minimize(make)(loss))

    program, other = new(model_fn), new(with_train_op)
    for _ in range(3):
        step(program, x(4), classes(), parts=2)
        step(other, x(4), classes())
    for name in ("model/out/kernel", "model/out/bias"):
        np.testing.assert_allclose(
            program.named_variables()[name], other.named_variables()[name], rtol=1e-5, atol=1e-6
        )
    build(program, x(4), classes(), training=False)
    assert list(evaluated(program, BATCHES)) == ["accuracy"]


# Prediction.


def predicted(program: ModelFnProgram, features) -> dict[str, np.ndarray]:
    function = tf.function(program.predict, autograph=False)
    return {k: v.numpy() for k, v in function(tf.constant(features)).items()}


def build_prediction(program: ModelFnProgram, features) -> None:
    def run(trace, flat):
        function = tf.function(lambda *tensors: trace(*tensors), autograph=False)
        concrete = function.get_concrete_function(*flat)
        return {operation.type for operation in concrete.graph.get_operations()}

    program.build_prediction(tf.TensorSpec([None, *features.shape[1:]], features.dtype), run)


def test_predictions_are_those_of_the_trained_weights():
    program, session = new(classifier), Session1(classifier, x(4), classes())
    step(program, x(4), classes())
    session.train(x(4), classes())
    build_prediction(program, x(4))
    found = predicted(program, x(4, seed=5)[:5])
    weights = session.values()
    logits = x(4, seed=5)[:5] @ weights["out/kernel"] + weights["out/bias"]
    np.testing.assert_allclose(found["p"], tf.nn.softmax(logits), rtol=1e-5)
    np.testing.assert_array_equal(found["x"], x(4, seed=5)[:5])


@pytest.mark.parametrize("mode", [EVAL, PREDICT])
def test_a_model_that_is_not_trained_here_makes_its_variables(mode):
    program = ModelFnProgram(classifier, None, None, lambda: tf.device("CPU:0"), "float32")
    if mode == EVAL:
        build(program, x(4), classes(), training=False)
        assert evaluated(program, BATCHES)["accuracy"] > 0
    else:
        build_prediction(program, x(4))
        assert predicted(program, x(4))["p"].shape == (N, 3)
    assert sorted(program.named_variables()) == ["model/out/bias", "model/out/kernel"]


@pytest.mark.parametrize("where", [EVAL, PREDICT])
def test_a_variable_that_training_never_made_is_an_error_that_names_it(where):
    def model_fn(features, labels, mode):
        if mode == where:
            features = dense(features, 4, "extra")
        return classifier(features, labels, mode)

    program = new(model_fn)
    with pytest.raises(UserError) as raised:
        if where == EVAL:
            build(program, x(4), classes(), training=False)
        else:
            build_prediction(program, x(4))
    name = "EVAL" if where == EVAL else "PREDICT"
    assert str(raised.value).startswith(
        f"model_fn created variables in {name} mode that TRAIN mode does not have: extra/bias, "
        "extra/kernel; build the same layers in every mode"
    )


def test_export_outputs_are_those_of_the_features():
    def model_fn(features, labels, mode):
        spec = classifier(features, labels, mode)
        if mode != PREDICT:
            return spec
        scores = spec.predictions["p"]
        outputs = {
            "serving_default": export_outputs.PredictOutput(spec.predictions),
            "classes": export_outputs.ClassificationOutput(scores=scores),
            "value": export_outputs.RegressionOutput(scores[:, 0]),
        }
        return tfbig.EstimatorSpec(mode, predictions=spec.predictions, export_outputs=outputs)

    program = new(model_fn)
    build_prediction(program, x(4))

    @tf.function(autograph=False)
    def export(features):
        spec = program.prediction_spec(features)
        return {name: output.outputs() for name, output in spec.export_outputs.items()}

    found = export(tf.constant(x(4)[:2]))
    expected = predicted(program, x(4)[:2])["p"]
    assert set(found["serving_default"]) == {"p", "x"}
    np.testing.assert_allclose(found["classes"]["scores"], expected)
    np.testing.assert_allclose(found["value"]["outputs"], expected[:, 0])


def test_any_tensor_of_a_trace_can_be_computed_and_changes_nothing():
    program = new(classifier)
    before = program.named_variables()["model/out/kernel"].numpy()

    @tf.function(autograph=False)
    def look():
        given = batch(x(4), classes())
        find = lambda spec, graph: [spec.loss, graph.get_tensor_by_name("logits:0")]  # noqa: E731
        return program.compute_graph_tensors(TRAIN, given, find)

    loss, logits = look()
    np.testing.assert_allclose(logits, x(4) @ before, rtol=1e-5, atol=1e-6)
    assert float(loss) > 0
    np.testing.assert_array_equal(program.named_variables()["model/out/kernel"], before)
    assert int(program.named_variables()["optimizer/global_step"]) == 0
