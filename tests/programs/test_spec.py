"""An EstimatorSpec is checked when it is created."""

import keras
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import UserError
from tfbig.programs.model_fn.export_output import (
    ClassificationOutput,
    PredictOutput,
    RegressionOutput,
)

TRAIN, EVAL, PREDICT = (
    tfbig.ModeKeys.TRAIN,
    tfbig.ModeKeys.EVAL,
    tfbig.ModeKeys.PREDICT,
)
SGD = keras.optimizers.SGD
v1 = tf.compat.v1


def test_the_modes_have_the_names_that_estimators_gave_them():
    assert (TRAIN, EVAL, PREDICT) == ("train", "eval", "infer")


def test_each_mode_needs_its_own_fields_and_no_more():
    assert tfbig.EstimatorSpec(TRAIN, loss=1.0, optimizer=SGD()).loss == 1.0
    assert tfbig.EstimatorSpec(EVAL, loss=1.0).optimizer is None
    assert tfbig.EstimatorSpec(PREDICT, predictions=[2.0]).predictions == [2.0]


def test_the_fields_of_tf_estimator_are_there():
    with tf.Graph().as_default():
        hook, scaffold = v1.train.StopAtStepHook(3), v1.train.Scaffold()
        loss, count = tf.ones([1]), v1.train.create_global_step()
        spec = tfbig.EstimatorSpec(
            mode=TRAIN,
            predictions={"a": loss},
            loss=loss,
            train_op=v1.assign_add(count, 1),
            eval_metric_ops={"mean": v1.metrics.mean(loss)},
            export_outputs={"serving_default": PredictOutput(loss)},
            training_chief_hooks=[hook],
            training_hooks=[hook],
            scaffold=scaffold,
            evaluation_hooks=[hook],
            prediction_hooks=[hook],
        )
    assert spec.scaffold is scaffold
    assert spec.prediction_hooks == (hook,)


def test_the_only_export_output_is_serving_default_too():
    def made(**outputs):
        spec = tfbig.EstimatorSpec(PREDICT, predictions=one.outputs(), export_outputs=outputs)
        return spec.export_outputs

    with tf.Graph().as_default():
        one, two = PredictOutput({"y": tf.ones([1])}), PredictOutput({"y": tf.zeros([1])})
        assert made(head=one) == {"head": one, "serving_default": one}
        assert made(serving_default=one) == {"serving_default": one}
        assert made(serving_default=one, head=two) == {"serving_default": one, "head": two}
        assert tfbig.EstimatorSpec(PREDICT, predictions=tf.ones([1])).export_outputs is None


def sgd(rate=0.1):
    return v1.train.GradientDescentOptimizer(rate)


CASES = {
    "an unknown mode": (
        "training",
        dict,
        "EstimatorSpec(mode='training'): expected ModeKeys.TRAIN, EVAL or PREDICT; pass the "
        "mode that model_fn was given.",
    ),
    "no loss": (
        TRAIN,
        lambda: {"optimizer": SGD()},
        "Missing loss. EstimatorSpec for mode 'train' has none; pass loss=<scalar or [n]>.",
    ),
    "no loss to evaluate": (
        EVAL,
        dict,
        "Missing loss. EstimatorSpec for mode 'eval' has none; pass loss=<scalar or [n]>.",
    ),
    "no train_op": (
        TRAIN,
        lambda: {"loss": 1.0},
        "Missing train_op. EstimatorSpec for mode 'train' has neither that nor an optimizer; "
        "pass optimizer=keras.optimizers.Adam(…) or another Keras optimizer, or "
        "train_op=<a tf.compat.v1.train optimizer>.minimize(loss, global_step).",
    ),
    "no predictions": (
        PREDICT,
        dict,
        "Missing predictions. EstimatorSpec for mode 'infer' has none; pass "
        "predictions=<tensor or dict of tensors>.",
    ),
    "a loss for each example and a train_op": (
        TRAIN,
        lambda: {"loss": tf.ones([3]), "train_op": tf.no_op()},
        "Loss must be scalar, given: ",
    ),
    "a loss of two numbers in a row": (
        TRAIN,
        lambda: {"loss": tf.ones([1, 2]), "train_op": tf.no_op()},
        "Loss must be scalar, given: ",
    ),
    "two things that update": (
        TRAIN,
        lambda: {"loss": 1.0, "train_op": tf.no_op(), "optimizer": SGD()},
        "EstimatorSpec has a train_op and an optimizer, which would both update; pass one of them.",
    ),
    "an optimizer of TensorFlow 1": (
        TRAIN,
        lambda: {"loss": 1.0, "optimizer": sgd()},
        "EstimatorSpec(optimizer=…) takes a Keras optimizer and was given "
        "GradientDescentOptimizer; pass one of keras.optimizers, or, with "
        'model_distribution="replicated", train_op=optimizer.minimize(loss, '
        "tf.compat.v1.train.get_global_step()).",
    ),
    "a train_op that is none": (
        TRAIN,
        lambda: {"loss": 1.0, "train_op": 3},
        "train_op must be an Operation or a Tensor, and is int; pass what the minimize or "
        "apply_gradients of a tf.compat.v1.train optimizer returns.",
    ),
    "metrics that are no dict": (
        EVAL,
        lambda: {"loss": 1.0, "eval_metric_ops": [1]},
        "eval_metric_ops must be a dict, given: list.",
    ),
    "a metric that is a tensor": (
        EVAL,
        lambda: {"loss": 1.0, "eval_metric_ops": {"m": tf.zeros([2])}},
        "Values of eval_metric_ops must be (metric_value, update_op) tuples or Keras metrics, "
        "given: Tensor for key: m; pass what a tf.compat.v1.metrics function returns, or a Keras "
        "metric that has been updated with this batch.",
    ),
    "a metric of three": (
        EVAL,
        lambda: {"loss": 1.0, "eval_metric_ops": {"m": (1, 2, 3)}},
        "Values of eval_metric_ops must be (metric_value, update_op) tuples or Keras metrics, "
        "given: tuple for key: m; ",
    ),
    "a value that is no tensor": (
        EVAL,
        lambda: {"loss": 1.0, "eval_metric_ops": {"m": (1.0, tf.no_op())}},
        "the value of eval_metric_ops['m'] must be a Tensor, and is float.",
    ),
    "an update that is none": (
        EVAL,
        lambda: {"loss": 1.0, "eval_metric_ops": {"m": (tf.ones([]), 1.0)}},
        "the update_op of eval_metric_ops['m'] must be an Operation or a Tensor, and is float.",
    ),
    "an output that is none": (
        PREDICT,
        lambda: {"predictions": 1.0, "export_outputs": {"a": 1.0}},
        "Values in export_outputs must be ExportOutput objects; 'a' is float. Pass PredictOutput, "
        "ClassificationOutput or RegressionOutput.",
    ),
    "no default output": (
        PREDICT,
        lambda: {
            "predictions": 1.0,
            "export_outputs": {n: RegressionOutput(tf.ones([2])) for n in "ab"},
        },
        "Multiple export_outputs were provided (a, b), but none of them is specified as the "
        "default; name one of them 'serving_default'.",
    ),
    "a hook that is none": (
        EVAL,
        lambda: {"loss": 1.0, "evaluation_hooks": [print]},
        "All hooks must be SessionRunHook instances; evaluation_hooks has "
        "builtin_function_or_method.",
    ),
    "a scaffold that is none": (
        EVAL,
        lambda: {"loss": 1.0, "scaffold": 1},
        "scaffold must be a tf.compat.v1.train.Scaffold, and is int.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_mode_needs_is_asked_for(case):
    mode, make, message = CASES[case]
    with tf.Graph().as_default(), pytest.raises(UserError) as raised:
        tfbig.EstimatorSpec(mode, **make())
    assert str(raised.value).startswith(message)


def test_outputs_are_named_as_tensorflow_serving_names_them():
    scores, classes = tf.ones([2, 3]), tf.constant(["a", "b"])
    assert set(ClassificationOutput(scores, classes).outputs()) == {"scores", "classes"}
    assert set(ClassificationOutput(classes=classes).outputs()) == {"classes"}
    assert set(RegressionOutput(scores).outputs()) == {"outputs"}
    assert set(PredictOutput(scores).outputs()) == {"output"}
    doubled = PredictOutput({"a": scores}).map_tensors(lambda t: t * 2)
    assert doubled.outputs()["a"].numpy().tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (ClassificationOutput, "At least one of scores and classes must be set"),
        (lambda: ClassificationOutput(tf.constant(["a"])), "Classification scores must be a float"),
        (lambda: ClassificationOutput(classes=tf.ones([2])), "Classification classes must be a st"),
        (lambda: RegressionOutput(tf.constant([1])), "Regression output value must be a float32"),
        (lambda: RegressionOutput(1.0), "value must be a Tensor; got float"),
        (lambda: PredictOutput({1: tf.ones([])}), "Prediction output key must be a string; got 1"),
        (lambda: PredictOutput({"a": 1}), "Prediction output 'a' must be a Tensor; got int"),
    ],
)
def test_outputs_of_another_kind_are_refused(make, message):
    with pytest.raises(UserError, match=f"^{message}"):
        make()
