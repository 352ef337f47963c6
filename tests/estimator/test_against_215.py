"""The same TF1 model_fns compute what tf.estimator computed on TF 2.15.

data/make_records.py recorded it; data/model_fns.py is what both sides run.
"""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.estimator.data import model_fns
from tests.estimator.data.model_fns import MORE_STEPS, STEPS, WORKS
from tfbig.compat import v1
from tfbig.training.checkpoints.named_checkpoint import latest

DATA = pathlib.Path(__file__).with_name("data")
TOLERANCE = 1e-4
SLOTS = {
    "iris_dnn": {"dense/kernel/Adagrad"},
    "digits_cnn": {"conv2d/kernel/Adam", "conv2d/kernel/Adam_1", "beta1_power", "beta2_power"},
    "digits_batch_norm": {"hidden/dense/kernel/Momentum", "hidden/batch_normalization/moving_mean"},
}


@pytest.fixture(params=WORKS)
def name(request):
    return request.param


@pytest.fixture
def records(name) -> dict[str, np.ndarray]:
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture
def trained_dir(name, tmp_path) -> str:
    """A copy of the model_dir that tf.estimator left after STEPS steps."""
    shutil.copytree(DATA / f"{name}_model_dir", tmp_path / "trained")
    return str(tmp_path / "trained")


def group(records: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    prefix += "/"
    return {k.removeprefix(prefix): v for k, v in records.items() if k.startswith(prefix)}


def write_checkpoint(folder: pathlib.Path, variables: dict[str, np.ndarray]) -> str:
    """Writes a checkpoint in the format of tf.compat.v1.train.Saver; returns its folder."""
    folder.mkdir()
    prefix = folder / "model.ckpt-0"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=[tf.constant(value) for value in variables.values()],
    )
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix.name}"\n')
    return str(folder)


def train(name: str, input_fn, model_dir: str, max_steps: int) -> tuple[int, list[float]]:
    """Trains with tfbig up to max_steps; returns the last step and the loss of each step."""
    work = WORKS[name]
    result = tfbig.train_distributed(
        work.model_fn(v1),
        input_fn,
        strategy="one_device",
        model_dir=model_dir,
        max_steps=max_steps,
        params=work.params(),
        config=tfbig.RunConfig(log_step_count_steps=1),
    )
    return result.global_step, [point["loss"] for point in result.history]


def assert_close(found, expected) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def assert_variables(checkpoint: str, expected: dict[str, np.ndarray]) -> None:
    """Asserts that a checkpoint shows these variables under their TF1 names."""
    reader = tf.train.load_checkpoint(checkpoint)
    missing = set(expected) - set(reader.get_variable_to_shape_map())
    assert not missing
    for key, value in expected.items():
        np.testing.assert_allclose(
            reader.get_tensor(key), value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=key
        )


@pytest.mark.slow
def test_the_loss_of_each_step_and_the_final_weights_are_those_of_tf_estimator(
    name, records, tmp_path
):
    model_dir = write_checkpoint(tmp_path / "initial", group(records, "initial"))
    step, losses = train(name, WORKS[name].train_input_fn, model_dir, STEPS)
    assert step == STEPS
    assert_close(losses, records["losses"])
    assert_variables(latest(model_dir), group(records, "final"))


def test_training_resumes_from_a_checkpoint_of_tf_estimator_as_tf_estimator_would(
    name, records, trained_dir
):
    """The slot variables and the global step are restored too, for Adam and Adagrad."""
    work = WORKS[name]
    step, losses = train(name, work.one_batch_input_fn, trained_dir, STEPS + MORE_STEPS)
    assert step == STEPS + MORE_STEPS
    assert_close(losses, records["more_losses"])


@pytest.mark.slow
def test_an_estimator_evaluates_predicts_and_trains_on_from_a_checkpoint_of_tf_estimator(
    name, records, trained_dir
):
    work = WORKS[name]
    estimator = tfbig.Estimator(work.model_fn(v1), trained_dir, params=work.params())
    evaluation = estimator.evaluate(work.eval_input_fn)
    expected = group(records, "evaluation")
    assert set(evaluation) == set(expected)
    for key, value in expected.items():
        assert_close(evaluation[key], value)

    predicted = list(estimator.predict(work.predict_input_fn))
    assert len(predicted) == model_fns.PREDICTIONS
    for key, value in group(records, "predictions").items():
        assert_close(np.stack([prediction[key] for prediction in predicted]), value)

    estimator.train(work.one_batch_input_fn, steps=MORE_STEPS)
    evaluation = estimator.evaluate(work.eval_input_fn)
    assert evaluation["global_step"] == STEPS + MORE_STEPS
    for key, value in group(records, "more_evaluation").items():
        assert_close(evaluation[key], value)


def test_the_files_were_written_by_a_tf1_saver(name, records):
    """The checkpoint and the records come from one run; it is not a tf.train.Checkpoint."""
    reader = tf.train.load_checkpoint(str(DATA / f"{name}_model_dir"))
    final = group(records, "final")
    assert set(reader.get_variable_to_shape_map()) == set(final)
    for key, value in final.items():
        np.testing.assert_array_equal(reader.get_tensor(key), value)
    assert final["global_step"] == STEPS
    assert len(records["losses"]) == STEPS
    assert SLOTS[name] < set(final)
