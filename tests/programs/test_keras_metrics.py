"""The metrics of compiled models."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.programs.batches import (
    CLOSE,
    WEIGHTS,
    batch,
    classes,
    classifier,
    keras_program,
    update_metrics,
    x,
)


@pytest.mark.parametrize("rows", [None, 9])
@pytest.mark.parametrize("weight", [None, WEIGHTS])
def test_metrics_are_those_of_keras_evaluate(weight, rows):
    model = classifier()
    element = [a for a in (x(4), classes(), weight) if a is not None]
    program = keras_program(model, *element)
    expected = model.evaluate(*element[:2], sample_weight=weight, verbose=0, return_dict=True)
    expected.pop("loss")
    program.reset_metrics()
    results = update_metrics(program, batch(*element, rows=rows))
    assert results == pytest.approx(expected, rel=1e-6)
    program.reset_metrics()
    assert set(program.metric_results().values()) == {0.0}


def test_a_metric_with_a_value_for_each_class_gives_a_list():
    metric = keras.metrics.F1Score(average=None, threshold=0.5, name="f1")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="sigmoid")])
    model.compile("sgd", "binary_crossentropy", metrics=[metric])
    labels = np.eye(3, dtype="float32")[classes()]
    program = keras_program(model, x(4), labels)
    results = update_metrics(program, batch(x(4), labels))
    assert list(results) == ["f1"]
    said = model(x(4)).numpy() > 0.5
    both = np.sum(said * labels, axis=0)
    expected = 2 * both / np.maximum(said.sum(0) + labels.sum(0), 1)
    np.testing.assert_allclose(results["f1"], expected, **CLOSE)


def test_a_model_s_own_compute_metrics_is_called():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.largest = layers.Dense(1), keras.metrics.Mean(name="largest")

        def call(self, inputs):
            return self.dense(inputs)

        def compute_metrics(self, x, y, y_pred, sample_weight=None):
            self.largest.update_state(keras.ops.max(y))
            return self.get_metrics_result()

    model = Own()
    model.compile("sgd", "mse")
    program = keras_program(model, x(4), x(1))
    assert update_metrics(program, batch(x(4), x(1))) == {"largest": pytest.approx(x(1).max())}
