"""Names of TF1 without a counterpart, and what to write instead; does not import TensorFlow."""

_TREES = "trees are not neural networks: use sklearn.ensemble.HistGradientBoosting{kind} or XGBoost"
_ESTIMATOR = {
    "BoostedTreesClassifier": _TREES.format(kind="Classifier"),
    "BoostedTreesRegressor": _TREES.format(kind="Regressor"),
    "BoostedTreesEstimator": _TREES.format(kind="Classifier"),
    "export.EvalOutput": "leave it out: signatures are for serving alone",
    "experimental.KMeans": "use sklearn.cluster.MiniBatchKMeans",
    "experimental.LinearSDCA": "use an optimizer, such as tf.compat.v1.train.FtrlOptimizer",
    "experimental.RNNClassifier": "write a model_fn with keras.layers.LSTM(units)(inputs)",
    "experimental.RNNEstimator": "write a model_fn with keras.layers.LSTM(units)(inputs)",
    "experimental.build_raw_supervised_input_receiver_fn": (
        "export a serving signature with export.build_raw_serving_input_receiver_fn"
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


def gone_estimator(name: str) -> str | None:
    """Advice for `tf.estimator.<name>`, or None if tfbig has a counterpart.

    Example: `gone_estimator("experimental.KMeans")`.
    """
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
