"""WarmStartSettings: which variables are initialized from an earlier checkpoint."""

import numpy as np
import pytest

import tfbig
from tests.estimator import iris
from tfbig.errors import UserError


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    iris.estimator(folder).train(iris.endless_input_fn, steps=20)
    return folder


def started(settings, tmp_path, model_fn=iris.model_fn):
    """The values after one step with a learning rate of 0."""
    estimator = iris.estimator(tmp_path, still(model_fn), warm_start_from=settings)
    estimator.train(iris.input_fn, steps=1)
    return iris.values(tmp_path)


def still(model_fn):
    def with_rate_0(features, labels, mode, params):
        rate = iris.v1.train.AdamOptimizer
        iris.v1.train.AdamOptimizer = lambda _: rate(0.0)
        try:
            return model_fn(features, labels, mode, params)
        finally:
            iris.v1.train.AdamOptimizer = rate

    return with_rate_0


def same(values, old, names):
    before = iris.values(old)
    return {name for name in names if np.array_equal(values[name], before[name])}


WEIGHTS = {"hidden/kernel", "hidden/bias", "logits/kernel", "logits/bias"}


def test_a_path_initializes_all_weights_and_no_optimizer_variables(old, tmp_path):
    values = started(str(old), tmp_path)
    assert same(values, old, WEIGHTS) == WEIGHTS
    assert values["global_step"] == 1
    assert not same(values, old, {"hidden/kernel/Adam_1", "beta1_power"})


def test_a_pattern_selects_weights(old, tmp_path):
    settings = tfbig.WarmStartSettings(str(old), vars_to_warm_start="hidden.*")
    assert same(started(settings, tmp_path), old, WEIGHTS) == {"hidden/kernel", "hidden/bias"}


def test_a_list_selects_among_optimizer_variables_too(old, tmp_path):
    settings = tfbig.WarmStartSettings(str(old), vars_to_warm_start=["hidden/kernel$", "beta1"])
    values = started(settings, tmp_path)
    assert same(values, old, WEIGHTS) == {"hidden/kernel"}
    assert values["beta1_power"] == pytest.approx(iris.values(old)["beta1_power"] * 0.9)


def test_a_renamed_variable_is_read_by_its_earlier_name(old, tmp_path):
    def renamed(features, labels, mode, params):
        hidden = iris.dense(features["x"], params["units"], "first", iris.tf.nn.tanh)
        return iris.spec_of(mode, iris.dense(hidden, 3, "logits"), labels, iris.adam)

    names = {"first/kernel": "hidden/kernel", "first/bias": "hidden/bias"}
    settings = tfbig.WarmStartSettings(str(old), var_name_to_prev_var_name=names)
    values, before = started(settings, tmp_path, renamed), iris.values(old)
    for name, previous in {**names, "logits/kernel": "logits/kernel"}.items():
        np.testing.assert_array_equal(values[name], before[previous])


@pytest.mark.slow
def test_a_checkpoint_in_model_dir_wins(old, tmp_path):
    first = started(None, tmp_path)
    second = started(str(old), tmp_path)
    np.testing.assert_array_equal(second["hidden/kernel"], first["hidden/kernel"])


def test_evaluate_before_training_uses_the_warm_start(old, tmp_path):
    new = iris.estimator(tmp_path, warm_start_from=str(old)).evaluate(iris.eval_input_fn)
    before = iris.estimator(old).evaluate(iris.eval_input_fn)
    assert {**new, "global_step": 20} == pytest.approx(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dict(vars_to_warm_start="nothing"),
            "no variable matches 'nothing'; there are hidden/bias",
        ),
        (dict(var_name_to_prev_var_name={"x": "y"}), "names 'x', which model_fn does not create"),
        (dict(var_name_to_prev_var_name={"hidden/bias": "y"}), "has no variable 'y'"),
        (dict(var_name_to_prev_var_name={"hidden/bias": "hidden/kernel"}), "hidden/bias has shape"),
        (dict(var_name_to_vocab_info={"x": 1}), "var_name_to_vocab_info=…. is not supported"),
        (dict(vars_to_warm_start=3), "expected a regular expression"),
    ],
)
def test_errors_name_the_invalid_setting(old, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        started(tfbig.WarmStartSettings(str(old), **settings), tmp_path)


def backbone(start, frozen=False):
    """A backbone and a head with initial values; a frozen backbone is not in var_list."""

    def model_fn(features, labels, mode):
        del labels
        made = {
            name: iris.v1.get_variable(
                name,
                [],
                initializer=iris.v1.constant_initializer(value),
                trainable=name != "statistic",
            )
            for name, value in (("backbone/w", start), ("head/h", 1.0), ("statistic", start))
        }
        loss = iris.tf.reduce_mean(features * made["backbone/w"] * made["head/h"])
        train_op = iris.v1.train.GradientDescentOptimizer(0.0).minimize(
            loss,
            iris.v1.train.get_global_step(),
            var_list=[made["head/h"]] if frozen else [made["backbone/w"], made["head/h"]],
        )
        predictions = features * made["statistic"]
        return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op, predictions=predictions)

    return model_fn


def ones():
    return iris.tf.data.Dataset.from_tensors([[1.0]])


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_that_train_op_does_not_update_are_initialized_and_statistics_are_not(
    tmp_path, frozen
):
    old = str(tmp_path / "old")
    iris.estimator(old, backbone(42.0)).train(ones)
    new = iris.estimator(tmp_path / "new", backbone(36.0, frozen), warm_start_from=old)
    assert new.evaluate(ones) == {"loss": 42.0, "global_step": 0}
    assert list(new.predict(ones)) == [36.0]
    new.train(ones)
    expected = {"backbone/w": 42.0, "head/h": 1.0, "statistic": 36.0, "global_step": 1}
    assert iris.values(new.model_dir) == expected
    assert new.evaluate(ones) == {"loss": 42.0, "global_step": 1}
