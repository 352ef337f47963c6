"""The names of tf.estimator and tf.layers that tfbig has; does not import TensorFlow."""

# With the same name in tfbig and in tfbig.estimator.
OURS = (
    *("BestExporter", "Estimator", "EstimatorSpec", "EvalSpec", "FinalExporter", "LatestExporter"),
    *("ModeKeys", "RunConfig", "TrainSpec", "WarmStartSettings", "train_and_evaluate"),
)
# In tfbig.estimator with the meaning of TensorFlow 2, in tfbig.compat.v1.estimator with that of 1.
CANNED = tuple(
    f"{network}{kind}"
    for network in ("Baseline", "DNN", "DNNLinearCombined", "Linear")
    for kind in ("Classifier", "Estimator", "Regressor")
)
# Only in tfbig.estimator.
IN_ESTIMATOR = (
    *("BinaryClassHead", "Head", "LogisticRegressionHead", "MultiClassHead", "MultiHead"),
    *("MultiLabelHead", "PoissonRegressionHead", "RegressionHead", "add_metrics"),
    *("classifier_parse_example_spec", "regressor_parse_example_spec"),
    *("CheckpointSaverHook", "CheckpointSaverListener", "Exporter", "FinalOpsHook"),
    *("LoggingTensorHook", "NanTensorHook", "StepCounterHook", "StopAtStepHook"),
    "SummarySaverHook",
)
# Names that tf.estimator re-exported from tf.compat.v1.train.
FROM_TRAIN = (
    *("FeedFnHook", "GlobalStepWaiterHook", "NanLossDuringTrainingError", "ProfilerHook"),
    *("SecondOrStepTimer", "SessionRunArgs", "SessionRunContext", "SessionRunHook"),
    *("SessionRunValues", "VocabInfo"),
)
STOPPING = (
    "make_early_stopping_hook",
    "stop_if_higher_hook",
    "stop_if_lower_hook",
    "stop_if_no_decrease_hook",
    "stop_if_no_increase_hook",
)
# The module of tfbig.compat.v1.layers that defines each function.
LAYERS = {
    "average_pooling1d": "pooling",
    "average_pooling2d": "pooling",
    "batch_normalization": "normalization",
    "conv1d": "convolution",
    "conv2d": "convolution",
    "conv2d_transpose": "convolution",
    "dense": "core",
    "dropout": "core",
    "flatten": "core",
    "max_pooling1d": "pooling",
    "max_pooling2d": "pooling",
    "separable_conv2d": "convolution",
}
