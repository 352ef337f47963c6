"""What programs of TF1 do beside the model: they run after `tfbig migrate --write` alone."""

import numpy as np
import pytest
import tensorflow as tf

from tests import harness
from tests.migration.follow import followed

ARGPARSE = """
import argparse
import tensorflow as tf

parser = argparse.ArgumentParser()
parser.add_argument("--train_steps", type=int)
tf.flags.DEFINE_string("name", "nobody", "A flag of absl.")


def main(argv):
    print("steps", parser.parse_args(argv[1:]).train_steps, tf.flags.FLAGS.name)


if __name__ == "__main__":
    tf.app.run(MAIN)
"""
SERVING = """
import tensorflow as tf


def serving_input_receiver_fn():
    row = tf.placeholder(tf.string, [None])
    x, = tf.decode_csv(row, [[0.0]])
    return tf.estimator.export.ServingInputReceiver({"x": x[:, None]}, {"csv_row": row})


def model_fn(features, labels, mode):
    y = tf.matmul(features["x"], tf.get_variable("w", initializer=[[2.0]]))
    if mode == tf.estimator.ModeKeys.PREDICT:
        return tf.estimator.EstimatorSpec(mode, predictions={"y": y})
    loss = tf.losses.mean_squared_error(labels, y)
    train_op = tf.train.GradientDescentOptimizer(0.0).minimize(loss, tf.train.get_global_step())
    return tf.estimator.EstimatorSpec(mode, loss=loss, train_op=train_op)


def input_fn():
    dataset = tf.data.Dataset.from_tensors(({"x": [[1.0], [2.0]]}, [[1.0], [2.0]]))
    iterator = dataset.repeat().make_one_shot_iterator()
    features, labels = iterator.get_next()
    return features, labels


config = tf.estimator.RunConfig(FOLDER, session_config=tf.ConfigProto(allow_soft_placement=True))
estimator = tf.estimator.Estimator(model_fn, config=config)
estimator.train(input_fn, steps=1)
"""


@pytest.mark.parametrize("main", ["", "main", "main=main"])
def test_flags_of_argparse_and_of_absl_both_reach_the_program(main, tmp_path):
    text, by_hand = followed(ARGPARSE.replace("MAIN", main))
    assert by_hand == 0
    (tmp_path / "program.py").write_text(text)
    done = harness.run_forked(
        "program.py", "--train_steps=7", "--name=somebody", folder=tmp_path, timeout=120
    )
    assert "steps 7 somebody" in done.out


@pytest.mark.slow
def test_a_receiver_with_a_placeholder_is_exported(tmp_path):
    text, by_hand = followed(SERVING.replace("FOLDER", repr(str(tmp_path / "model"))))
    assert by_hand == 0
    names = {}
    exec(compile(text, "program.py", "exec"), names)
    estimator = names["estimator"]
    assert estimator.model_dir == str(tmp_path / "model")
    path = estimator.export_saved_model(
        str(tmp_path / "export"), names["serving_input_receiver_fn"]
    )
    path = path.decode() if isinstance(path, bytes) else path
    served = tf.saved_model.load(path).signatures["serving_default"]
    y = served(csv_row=tf.constant(["3.0", "5.0"]))["y"]
    np.testing.assert_allclose(y, [[6.0], [10.0]])
