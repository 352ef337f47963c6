"""Heads: losses, predictions and metrics are those of formulas, and errors say what to write."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import UserError

e = tfbig.estimator
REDUCTION = tf.compat.v1.losses.Reduction
LOGITS = np.array([[1.0], [-2.0], [0.5]], np.float32)
LABELS = np.array([1, 0, 0])
WEIGHTS = np.array([1.0, 0.0, 3.0], np.float32)
CROSS = np.log1p(np.exp(-LOGITS[:, 0])) + (1 - LABELS) * LOGITS[:, 0]
SPLIT = {"features": {"w": WEIGHTS}}


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("sum", np.sum(CROSS * WEIGHTS)),
        ("sum_over_batch_size", np.sum(CROSS * WEIGHTS) / 3),
        (REDUCTION.SUM, np.sum(CROSS * WEIGHTS)),
        (REDUCTION.MEAN, np.sum(CROSS * WEIGHTS) / 4),
        (REDUCTION.SUM_BY_NONZERO_WEIGHTS, np.sum(CROSS * WEIGHTS) / 2),
    ],
)
def test_a_loss_is_reduced_as_the_head_says(reduction, expected):
    head = e.BinaryClassHead(weight_column="w", loss_reduction=reduction)
    loss = head.loss(LABELS, LOGITS, SPLIT["features"])
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    divided = head.loss_denominator(LABELS, LOGITS, SPLIT["features"])
    assert float(loss) * float(divided) == pytest.approx(np.sum(CROSS * WEIGHTS), abs=1e-6)


def test_no_weight_at_all_is_no_loss():
    head = e.RegressionHead(weight_column="w", loss_reduction=REDUCTION.MEAN)
    zeros = np.zeros(3, np.float32)
    assert float(head.loss(LABELS, LOGITS, {"w": zeros})) == 0.0


def test_regularization_is_added_once_and_has_a_metric():
    head = e.BinaryClassHead()
    penalties = [tf.constant(0.25), tf.constant(0.5)]
    loss = head.loss(LABELS, LOGITS, regularization_losses=penalties)
    assert float(loss) == pytest.approx(CROSS.mean() + 0.75, abs=1e-6)
    metrics = head.update_metrics(
        head.metrics(penalties), {}, LOGITS, LABELS, regularization_losses=penalties
    )
    assert float(metrics["regularization_loss"].result()) == 0.75


def test_the_metrics_of_two_classes():
    head = e.BinaryClassHead(weight_column="w", thresholds=[0.7], name="h")
    metrics = head.update_metrics(head.metrics(), SPLIT["features"], LOGITS, LABELS)
    found = {name: float(metric.result()) for name, metric in metrics.items()}
    logistic = 1 / (1 + np.exp(-LOGITS[:, 0]))
    mean = lambda values: np.sum(values * WEIGHTS) / 4  # noqa: E731
    expected = {
        "average_loss/h": mean(CROSS),
        "prediction/mean/h": mean(logistic),
        "label/mean/h": mean(LABELS),
        "accuracy/h": 0.25,  # the third example is taken for a 1
        "accuracy_baseline/h": 0.75,
        "precision/h": 0.25,
        "recall/h": 1.0,
        "accuracy/positive_threshold_0.7/h": 1.0,
        "precision/positive_threshold_0.7/h": 1.0,
        "recall/positive_threshold_0.7/h": 1.0,
        "auc/h": 1.0,
        "auc_precision_recall/h": 1.0,
    }
    assert found == pytest.approx(expected, abs=1e-4)


def test_names_of_labels_are_looked_up_and_come_back():
    head = e.MultiClassHead(3, label_vocabulary=["a", "b", "c"])
    logits = np.eye(3, dtype=np.float32)[[2, 0]]
    labels = np.array(["c", "b"])
    losses = -np.log(np.exp([1.0, 0.0]) / (np.e + 2))
    assert float(head.loss(labels, logits)) == pytest.approx(losses.mean(), abs=1e-6)
    predicted = head.predictions(logits)
    assert predicted["classes"].numpy().tolist() == [[b"c"], [b"a"]]
    assert predicted["class_ids"].numpy().tolist() == [[2], [0]]
    assert predicted["all_classes"].numpy().tolist() == [[b"a", b"b", b"c"]] * 2
    assert list(head.predictions(logits, ["logits"])) == ["logits"]


def test_labels_of_several_classes_may_be_sparse_names():
    head = e.MultiLabelHead(
        3, label_vocabulary=["a", "b", "c"], classes_for_class_based_metrics=["b"]
    )
    logits = np.array([[1.0, -1.0, 0.0], [0.0, 2.0, 0.0]], np.float32)
    dense = np.array([[1, 0, 1], [0, 1, 0]])
    sparse = tf.SparseTensor([[0, 0], [0, 1], [1, 0]], ["a", "c", "b"], [2, 2])
    expected = np.mean(np.log1p(np.exp(logits)) - dense * logits)
    for labels in (dense, sparse):
        assert float(head.loss(labels, logits)) == pytest.approx(expected, abs=1e-6)
    metrics = head.update_metrics(head.metrics(), {}, logits, dense)
    mean = np.mean(1 / (1 + np.exp(-logits[:, 1])))
    assert float(metrics["probability_mean/b"].result()) == pytest.approx(mean, abs=1e-6)
    assert float(metrics["auc/b"].result()) == pytest.approx(1.0)


def test_regressors_transform_their_predictions():
    logits, labels = np.array([[0.5], [1.0]], np.float32), np.array([2.0, 0.0], np.float32)
    poisson = e.PoissonRegressionHead(compute_full_loss=False)
    expected = np.mean(np.exp(logits[:, 0]) - labels * logits[:, 0])
    assert float(poisson.loss(labels, logits)) == pytest.approx(expected, abs=1e-6)
    found = poisson.predictions(logits)["predictions"]
    np.testing.assert_allclose(found, np.exp(logits), rtol=1e-6)
    two = e.RegressionHead(label_dimension=2, weight_column="w")
    each = {"w": np.array([[1.0, 2.0]], np.float32)}
    loss = two.loss([[1.0, 1.0]], np.array([[0.0, 3.0]], np.float32), each)
    assert float(loss) == pytest.approx((1 * 1 + 2 * 4) / 2)


def test_several_heads_share_the_logits():
    head = e.MultiHead([e.RegressionHead(name="n"), e.BinaryClassHead(name="b")], [2.0, 1.0])
    logits = np.concatenate([np.array([[1.0], [2.0], [3.0]], np.float32), LOGITS], 1)
    labels = {"n": np.array([1.0, 1.0, 1.0], np.float32), "b": LABELS}
    assert head.logits_dimension == 2
    assert float(head.loss(labels, logits)) == pytest.approx(2 * 5 / 3 + CROSS.mean(), abs=1e-6)
    keys = set(head.predictions(logits))
    assert ("n", "predictions") in keys
    assert ("b", "probabilities") in keys
    outputs = head.export_outputs(head.predictions(logits))
    assert {"serving_default", "n", "b", "b/predict", "predict"} < set(outputs)
    assert "b/logistic" in outputs["predict"].outputs()


def test_summed_losses_of_several_heads_have_no_mean():
    heads = [e.RegressionHead(name=name, loss_reduction="sum") for name in ("a", "b")]
    assert not {"loss/a", "loss/b"} & set(e.MultiHead(heads).metrics())


def test_a_head_of_ones_own_is_a_head():
    class Absolute(e.Head):
        logits_dimension = 1

        def loss(self, labels, logits, features=None, mode=None, regularization_losses=None):
            return tf.reduce_mean(tf.abs(labels - logits[:, 0]))

        def predictions(self, logits, keys=None):
            return {"predictions": logits}

        def metrics(self, regularization_losses=None):
            return {"error": keras.metrics.Mean()}

        def update_metrics(self, eval_metrics, features, logits, labels, mode=None,
                           regularization_losses=None):  # fmt: skip
            eval_metrics["error"].update_state(tf.abs(labels - logits[:, 0]))
            return eval_metrics

    def input_fn():
        x, y = np.array([[1.0], [2.0]], np.float32), np.array([2.0, 4.0], np.float32)
        return tf.data.Dataset.from_tensors(({"x": x}, y)).repeat(60)

    columns = [tf.feature_column.numeric_column("x")]
    estimator = e.LinearEstimator(
        Absolute(), columns, optimizer=lambda: keras.optimizers.SGD(0.05),
        config=tfbig.RunConfig(jit_compile=False),
    )  # fmt: skip
    before = estimator.evaluate(lambda: input_fn().take(1))
    assert before["error"] == before["loss"] == 3.0
    after = estimator.train(input_fn).evaluate(lambda: input_fn().take(1))
    assert after["loss"] < 0.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: e.MultiClassHead(2), "n_classes must be > 2: 2. For two classes, use Binary"),
        (lambda: e.MultiClassHead(3, label_vocabulary=["a"]), "does not have .n_classes. items"),
        (lambda: e.BinaryClassHead(thresholds=[1.5]), r"thresholds not in \(0, 1\)"),
        (lambda: e.BinaryClassHead(loss_reduction="none"), "Invalid loss_reduction: none"),
        (lambda: e.RegressionHead(0), "Invalid label_dimension 0"),
        (lambda: e.RegressionHead(loss_fn=lambda a, logits: 0), "must contain argument: labels"),
        (lambda: e.MultiLabelHead(1), "n_classes must be > 1"),
        (lambda: e.MultiHead([e.BinaryClassHead()]), "must have name specified"),
        (lambda: e.BinaryClassHead().loss(None, LOGITS), "must provide a labels Tensor"),
        (lambda: e.BinaryClassHead().loss(np.zeros([3, 2]), LOGITS), "Mismatched label shape"),
        (lambda: e.BinaryClassHead().loss(np.array(["a"] * 3), LOGITS), "pass their values as"),
        (lambda: e.MultiClassHead(3).loss(LABELS, LOGITS), "logits shape must be"),
        (
            lambda: e.BinaryClassHead(weight_column="v").loss(LABELS, LOGITS, {"w": WEIGHTS}),
            r"weight_column='v': input_fn has no such feature; it has \['w'\]",
        ),
        (
            lambda: e.RegressionHead(2, weight_column="w").loss(
                np.zeros([2, 3, 2]), np.zeros([2, 3, 2], np.float32), {"w": np.ones([2, 1])}
            ),
            "weights shape must be",
        ),
        (lambda: e.BinaryClassHead().predictions(LOGITS, ["clases"]), "must be one of"),
        (
            lambda: e.BinaryClassHead().create_estimator_spec({}, "train", LOGITS, LABELS),
            "train_op_fn and optimizer cannot both be None",
        ),
    ],
)
def test_errors_say_what_was_wrong(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_out_of_range_is_an_error_of_the_step(label):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be"):
        e.BinaryClassHead().loss(np.array([0, 1, label]), LOGITS)
