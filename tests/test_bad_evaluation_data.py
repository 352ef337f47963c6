"""Evaluation data that give no loss: the error names the batch, wherever it is evaluated."""

import logging
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.test_bad_data import batches, changed, model_fn
from tests.training.small_runs import arrays, build, config, train
from tfbig.errors import UserError

FEATURES, LABELS = arrays()
# Of batches of ten. The first layer of `build` has a relu, which makes 0 of NaN on a CPU.
BAD = {
    "features": (changed(FEATURES, 3, 4, np.nan), LABELS),
    "labels": (FEATURES, changed(LABELS, 3, 4, 9)),
}
SAID = {
    "features": "features has NaN in example 4 of the batch",
    "labels": "labels has class 9 in example 4 of the batch, but the model has 3 classes: 0 to 2",
}


def refusal(call) -> str:
    with pytest.raises(UserError) as raised:
        call()
    return str(raised.value)


def expected(kind: str, reads: str) -> str:
    return f"batch 3 of {reads}: {SAID[kind]}; repair or leave out such examples in {reads}."


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("jit", [True, False], ids=["jit", "graph"])
def test_bad_values_end_a_run_that_evaluates_on_them(kind, jit, tmp_path):
    bad, good = batches(*BAD[kind]), batches(FEATURES, LABELS)
    evaluating = dict(eval_input_fn=bad, max_steps=2, config=config(jit_compile=jit))
    said = refusal(lambda: train(input_fn=good, model_dir=tmp_path / "run", **evaluating))
    assert said == expected(kind, "eval_input_fn")


@pytest.mark.parametrize("kind", BAD)
def test_bad_values_end_an_evaluation_of_a_model(kind):
    evaluate = lambda model: tfbig.evaluate(model, batches(*BAD[kind]), strategy="one_device")  # noqa: E731
    assert refusal(lambda: evaluate(build())) == expected(kind, "input_fn")
    plain = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "relu")])
    said = refusal(lambda: evaluate(plain))
    if kind == "features":
        assert said == expected(kind, "input_fn")
    else:  # what a class is, only a loss tells
        assert "a label is 9, but the predictions have 3 classes" in said


def test_bad_values_end_an_estimators_evaluation(tmp_path):
    estimator = tfbig.Estimator(model_fn, str(tmp_path), config())
    estimator.train(batches(FEATURES, LABELS), max_steps=2)
    said = refusal(lambda: estimator.evaluate(batches(*BAD["features"])))
    assert said == expected("features", "input_fn")


def test_an_entry_that_no_input_takes_may_have_nan():
    features = {"x": FEATURES, "id": np.full(len(LABELS), np.nan, "float32")}

    def named():
        model = keras.Sequential([keras.Input((8,), name="x"), keras.layers.Dense(3)])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    data = batches(features, LABELS)
    result = train(named, data, eval_input_fn=data, max_steps=2)
    assert math.isfinite(result.loss)
    assert math.isfinite(result.metrics["loss"])


def test_weights_that_diverged_are_said_and_do_not_end_the_run(caplog):
    model_fn = lambda: build(rate=1e38)  # noqa: E731
    data = lambda: tf.data.Dataset.from_tensor_slices(arrays()).batch(10)  # noqa: E731
    with caplog.at_level(logging.WARNING, "tfbig"):
        result = train(
            model_fn,
            data,
            eval_input_fn=data,
            max_steps=8,
            config=config(eval_every_steps=4),
            callbacks=[keras.callbacks.TerminateOnNaN()],
        )
    assert not math.isfinite(result.metrics["loss"])
    lines = [r.getMessage() for r in caplog.records if "evaluation's loss" in r.getMessage()]
    assert len(lines) == 1
    assert (
        "NaN or infinite, for the first time in batch 1 of eval_input_fn, in which no value is "
        in lines[0]
    )
