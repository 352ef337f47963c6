"""As with tf.estimator: an Estimator, train_and_evaluate, the best model exported and served.

$ python examples/estimator_train_and_evaluate.py --devices=2
$ tfbig launch --workers=2 --ps=1 --evaluator -- \
    python examples/estimator_train_and_evaluate.py --model_dir=runs/estimator
"""

import tempfile

import tfbig
import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from tfbig.datasets import digits

_DEVICES = flags.DEFINE_integer("devices", None, "Number of devices; None: all GPUs or the CPU.")
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Checkpoints and exports; None: temporary.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 400, "The step at which to stop.")


def model_fn(features, labels, mode, params):
    x = keras.layers.Dense(params["hidden_units"], "relu", name="hidden")(
        keras.layers.Flatten()(features)
    )
    logits = keras.layers.Dense(10, name="logits")(x)
    predictions = {"class_ids": tf.argmax(logits, 1), "probabilities": tf.nn.softmax(logits)}
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions=predictions)
    loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if mode == tfbig.ModeKeys.EVAL:
        accuracy = tf.compat.v1.metrics.accuracy(labels, predictions["class_ids"])
        return tfbig.EstimatorSpec(mode, loss=loss, eval_metric_ops={"accuracy": accuracy})
    return tfbig.EstimatorSpec(mode, loss=loss, optimizer=keras.optimizers.Adam(1e-3))


def main(argv: list[str]) -> None:
    del argv
    estimator = tfbig.Estimator(
        model_fn,
        _MODEL_DIR.value or tempfile.mkdtemp(),
        config=tfbig.RunConfig(eval_every_steps=100, tf_random_seed=1),
        params={"hidden_units": 128},
        devices=_DEVICES.value,
    )
    served_features = tf.TensorSpec([None, 8, 8, 1], tf.float32)
    receiver_fn = tfbig.estimator.export.build_raw_serving_input_receiver_fn(served_features)
    hooks = [
        tfbig.estimator.LoggingTensorHook({"step": "global_step", "loss": "loss"}, 100),
        tfbig.stop_if_no_decrease_hook(estimator, "loss", max_steps_without_decrease=300),
    ]
    result, exported = tfbig.train_and_evaluate(
        estimator,
        tfbig.TrainSpec(digits.input_fn, max_steps=_MAX_STEPS.value, hooks=hooks),
        tfbig.EvalSpec(
            digits.input_fn,
            steps=None,
            exporters=[
                tfbig.BestExporter(serving_input_receiver_fn=receiver_fn),
                tfbig.FinalExporter("final", receiver_fn),
            ],
        ),
    )
    if not exported:  # in a cluster only the chief exports
        return
    predicted = [one["class_ids"] for one in estimator.predict(digits.input_fn)]
    print(f"predicted {len(predicted)} held-out digits, the first as {predicted[0]}")
    served = tf.saved_model.load(exported[1]).signatures["serving_default"]
    answer = served(input=tf.zeros([1, 8, 8, 1]))["probabilities"]
    print(f"the export answers with {np.size(answer)} probabilities")
    print(f"step {result['global_step']}: held-out accuracy {result['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
