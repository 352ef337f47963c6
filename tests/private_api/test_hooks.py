"""Hooks, savers and SavedModels of TensorFlow 1."""

import tensorflow as tf

from tfbig import _private_api

v1 = tf.compat.v1


def test_hook_settings():
    v1 = tf.compat.v1.train
    told = {
        v1.StopAtStepHook(num_steps=3): {"num_steps": 3, "last_step": None},
        v1.NanTensorHook("loss", False): {"loss_tensor": "loss", "fail_on_nan_loss": False},
        v1.LoggingTensorHook({"a": "b"}, every_n_secs=2, at_end=True): {
            "tensors": {"a": "b"},
            "every_n_iter": None,
            "every_n_secs": 2,
            "at_end": True,
            "formatter": None,
        },
        v1.LoggingTensorHook(["b"], at_end=True): {
            "tensors": {"b": "b"},
            "every_n_iter": None,
            "every_n_secs": None,
            "at_end": True,
            "formatter": None,
        },
        v1.StepCounterHook(7, output_dir="x"): {
            "every_n_steps": 7,
            "every_n_secs": None,
            "output_dir": "x",
            "summary_writer": None,
        },
        v1.CheckpointSaverHook("x", save_secs=9): {
            "checkpoint_dir": "x",
            "save_steps": None,
            "save_secs": 9,
            "saver": None,
            "scaffold": None,
            "listeners": [],
            "save_graph_def": True,
        },
        v1.SummarySaverHook(4, output_dir="x", summary_op="op"): {
            "save_steps": 4,
            "save_secs": None,
            "output_dir": "x",
            "summary_writer": None,
            "scaffold": None,
            "summary_op": "op",
        },
        v1.FinalOpsHook("op"): {"final_ops": "op", "final_ops_feed_dict": None},
    }
    for hook, settings in told.items():
        assert _private_api.hook_settings(hook) == settings
    assert _private_api.hook_settings(v1.SessionRunHook()) is None


def test_saver_max_to_keep():
    with tf.Graph().as_default():
        variables = [tf.compat.v1.get_variable("x", [])]
        savers = [tf.compat.v1.train.Saver(variables, max_to_keep=n) for n in (3, None)]
    assert [_private_api.saver_max_to_keep(saver) for saver in savers] == [3, None]


def test_set_signature_methods(tmp_path):
    module = tf.Module()
    module.f = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([], tf.float32)])
    tf.saved_model.save(module, str(tmp_path), signatures=module.f)
    path = str(tmp_path / "saved_model.pb")
    _private_api.set_signature_methods(path, {"serving_default": "tensorflow/serving/classify"})
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
    signature = graph.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/classify"
    loaded = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    assert float(loaded(tf.constant(2.0))["y"]) == 2.0
