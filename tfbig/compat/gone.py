"""Names of TF1 without a counterpart, and what to write instead; does not import TensorFlow."""

_MODEL_FN = """\
def model_fn(features, labels, mode, params):
    net = tf.compat.v1.feature_column.input_layer(features, params["feature_columns"]){hidden}
    logits = tfbig.compat.v1.layers.dense(net, {units}, name="logits")
    predictions = {predictions}
    if mode == tfbig.ModeKeys.PREDICT:
        return tfbig.EstimatorSpec(mode, predictions=predictions)
    loss = {loss}
    metrics = {{{metrics}}}
    step = tf.compat.v1.train.get_or_create_global_step()
    train_op = tf.compat.v1.train.{optimizer}.minimize(loss, step)
    return tfbig.EstimatorSpec(mode, loss=loss, train_op=train_op, eval_metric_ops=metrics)
params = {{"feature_columns": feature_columns{more}}}
estimator = tfbig.Estimator(model_fn, model_dir, params=params)"""
_HIDDEN = """
    for units in params["hidden_units"]:
        net = tfbig.compat.v1.layers.dense(net, units, tf.nn.relu)"""
_CLASSES = {
    "units": 'params["n_classes"]',
    "predictions": '{"class_ids": tf.argmax(logits, 1), "probabilities": tf.nn.softmax(logits)}',
    "loss": "tf.compat.v1.losses.sparse_softmax_cross_entropy(labels, logits)",
    "metrics": '"accuracy": tf.compat.v1.metrics.accuracy(labels, tf.argmax(logits, 1))',
    "more": ', "n_classes": 3',
}
_NUMBERS = {
    "units": "1",
    "predictions": '{"predictions": logits}',
    "loss": "tf.compat.v1.losses.mean_squared_error(labels, logits[:, 0])",
    "metrics": '"mse": tf.compat.v1.metrics.mean_squared_error(labels, logits[:, 0])',
    "more": "",
}
_DEEP = {"hidden": _HIDDEN, "optimizer": "AdagradOptimizer(0.05)"}
_LINEAR = {"hidden": "", "optimizer": "FtrlOptimizer(0.2)"}


def _model_fn(network: dict, output: dict) -> str:
    more = output["more"] + (', "hidden_units": [10, 10]' if network["hidden"] else "")
    return _MODEL_FN.format_map(network | output | {"more": more})


_CANNED = {
    "DNNClassifier": (_DEEP, _CLASSES),
    "DNNRegressor": (_DEEP, _NUMBERS),
    "DNNEstimator": (_DEEP, _CLASSES),
    "LinearClassifier": (_LINEAR, _CLASSES),
    "LinearRegressor": (_LINEAR, _NUMBERS),
    "LinearEstimator": (_LINEAR, _CLASSES),
    "BaselineClassifier": (_LINEAR, _CLASSES),
    "BaselineRegressor": (_LINEAR, _NUMBERS),
    "BaselineEstimator": (_LINEAR, _CLASSES),
    "DNNLinearCombinedClassifier": (_DEEP, _CLASSES),
    "DNNLinearCombinedRegressor": (_DEEP, _NUMBERS),
    "DNNLinearCombinedEstimator": (_DEEP, _CLASSES),
}
_TREES = "trees are not neural networks: use sklearn.ensemble.HistGradientBoosting{kind} or XGBoost"
_TPU = (
    "write tfbig.{name}; train_batch_size becomes params={{'batch_size': …}}, host_call and "
    "scaffold_fn become summaries and tf.compat.v1.train.init_from_checkpoint in model_fn, and "
    "eval_metrics=(fn, tensors) becomes eval_metric_ops=fn(*tensors)"
)
_HEAD = "compute the loss, the predictions and the metrics in model_fn"
_ESTIMATOR = {
    "BoostedTreesClassifier": _TREES.format(kind="Classifier"),
    "BoostedTreesRegressor": _TREES.format(kind="Regressor"),
    "BoostedTreesEstimator": _TREES.format(kind="Classifier"),
    **dict.fromkeys(
        (
            *("BinaryClassHead", "Head", "LogisticRegressionHead", "MultiClassHead", "MultiHead"),
            *("MultiLabelHead", "PoissonRegressionHead", "RegressionHead"),
        ),
        _HEAD,
    ),
    "add_metrics": "add them to eval_metric_ops in model_fn",
    "classifier_parse_example_spec": "write tf.feature_column.make_parse_example_spec(columns)",
    "regressor_parse_example_spec": "write tf.feature_column.make_parse_example_spec(columns)",
    "export.EvalOutput": "leave it out: signatures are for serving alone",
    "export.TensorServingInputReceiver": (
        'write export.ServingInputReceiver; model_fn is given {"feature": the tensor}'
    ),
    "tpu.TPUEstimator": _TPU.format(name="Estimator(model_fn, model_dir, config, params)"),
    "tpu.TPUEstimatorSpec": _TPU.format(name="EstimatorSpec"),
    "tpu.RunConfig": _TPU.format(name="RunConfig(…)"),
    "tpu.TPUConfig": "leave it out; iterations_per_loop is tfbig.RunConfig(steps_per_loop=…)",
    "tpu.InputPipelineConfig": "leave it out; the loop cuts each global batch by itself",
    "experimental.InMemoryEvaluatorHook": (
        "write eval_input_fn= of tfbig.train_distributed, or tfbig.train_and_evaluate"
    ),
    "experimental.KMeans": "use sklearn.cluster.MiniBatchKMeans",
    "experimental.LinearSDCA": "use an optimizer, such as tf.compat.v1.train.FtrlOptimizer",
    "experimental.RNNClassifier": "write a model_fn with keras.layers.LSTM(units)(inputs)",
    "experimental.RNNEstimator": "write a model_fn with keras.layers.LSTM(units)(inputs)",
    "experimental.build_raw_supervised_input_receiver_fn": (
        "export a serving signature with export.build_raw_serving_input_receiver_fn"
    ),
    "experimental.call_logit_fn": "call the function itself",
    "experimental.dnn_logit_fn_builder": (
        "write tfbig.compat.v1.layers.dense for each of the layers in model_fn"
    ),
    "experimental.linear_logit_fn_builder": (
        "write tf.compat.v1.feature_column.linear_model(features, columns) in model_fn"
    ),
    "experimental.make_stop_at_checkpoint_step_hook": (
        "write max_steps= of train, or tf.compat.v1.train.StopAtStepHook"
    ),
}
_KERAS_LAYERS = {
    "Dense": "dense", "Dropout": "dropout", "Flatten": "flatten", "Conv1D": "conv1d",
    "Conv2D": "conv2d", "Conv2DTranspose": "conv2d_transpose",
    "SeparableConv2D": "separable_conv2d", "BatchNormalization": "batch_normalization",
    "MaxPooling1D": "max_pooling1d", "MaxPooling2D": "max_pooling2d",
    "AveragePooling1D": "average_pooling1d", "AveragePooling2D": "average_pooling2d",
}  # fmt: skip
_NO_FUNCTION = {
    "conv3d": "Conv3D", "conv3d_transpose": "Conv3DTranspose", "max_pooling3d": "MaxPooling3D",
    "average_pooling3d": "AveragePooling3D", "separable_conv1d": "SeparableConv1D",
}  # fmt: skip
_CELLS = {
    "BasicLSTMCell": "LSTMCell", "LSTMCell": "LSTMCell", "GRUCell": "GRUCell",
    "BasicRNNCell": "SimpleRNNCell", "MultiRNNCell": "StackedRNNCells",
    "RNNCell": "Layer", "LSTMStateTuple": None, "DropoutWrapper": None,
    "ResidualWrapper": None, "DeviceWrapper": None,
}  # fmt: skip
_RNN = {
    "dynamic_rnn": "keras.layers.RNN(cell, return_sequences=True, return_state=True)(inputs)",
    "static_rnn": "keras.layers.RNN(cell, return_sequences=True, unroll=True)(inputs)",
    "bidirectional_dynamic_rnn": "keras.layers.Bidirectional(keras.layers.RNN(cell))(inputs)",
    "static_bidirectional_rnn": "keras.layers.Bidirectional(keras.layers.RNN(cell))(inputs)",
}


def canned_model_fn(name: str) -> str | None:
    """A model_fn that replaces one of tf.estimator's canned estimators, or None.

    Example: `canned_model_fn("DNNClassifier")`.
    """
    return _model_fn(*_CANNED[name]) if name in _CANNED else None


def gone_estimator(name: str) -> str | None:
    """Advice for `tf.estimator.<name>`, or None if tfbig has a counterpart.

    Example: `gone_estimator("tpu.TPUConfig")`.
    """
    if name in _CANNED:
        return (
            "the canned estimators were removed with tf.estimator; write the model_fn, which "
            "docs/from_estimator.md shows"
        )
    return _ESTIMATOR.get(name)


def gone_layer(name: str) -> str | None:
    """Advice for `tf.layers.<name>`, or None if tfbig has a counterpart.

    Example: `gone_layer("Dense")`.
    """
    if name in _KERAS_LAYERS:
        function = f"tfbig.compat.v1.layers.{_KERAS_LAYERS[name]}(inputs, …)"
        return f"write the function {function}, or keras.layers.{name}(…)(inputs)"
    if name in _NO_FUNCTION:
        return f"write keras.layers.{_NO_FUNCTION[name]}(…)(inputs)"
    return None


def gone_rnn(name: str) -> str | None:
    """Advice for `tf.nn.<name>` or `tf.nn.rnn_cell.<name>`, or None.

    Example: `gone_rnn("rnn_cell.BasicLSTMCell")`.
    """
    if name in _RNN:
        return f"write {_RNN[name]}"
    if not name.startswith("rnn_cell"):
        return None
    cell = _CELLS.get(name.removeprefix("rnn_cell").lstrip("."))
    layer = f"keras.layers.{cell}(units)" if cell else "keras.layers.LSTM(units, dropout=…)"
    return f"TensorFlow 2.21 has no RNN cells of TF1; write {layer} of Keras in model_fn"
