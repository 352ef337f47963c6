"""tfbig.compat.v1.estimator and nn: each name of TF1 is there, or says what to write."""

import operator
import re
import subprocess
import sys

import pytest
import tensorflow as tf

import tfbig
from tfbig.compat.names import CANNED
from tfbig.compat.v1 import estimator, nn
from tfbig.errors import UserError

# What `dir(tf.compat.v1.estimator)` of TensorFlow 2.15 lists, with its folders.
NAMES = """
    BaselineClassifier BaselineEstimator BaselineRegressor BestExporter BinaryClassHead
    BoostedTreesClassifier BoostedTreesEstimator BoostedTreesRegressor CheckpointSaverHook
    CheckpointSaverListener DNNClassifier DNNEstimator DNNLinearCombinedClassifier
    DNNLinearCombinedEstimator DNNLinearCombinedRegressor DNNRegressor Estimator EstimatorSpec
    EvalSpec Exporter FeedFnHook FinalExporter FinalOpsHook GlobalStepWaiterHook Head
    LatestExporter LinearClassifier LinearEstimator LinearRegressor LoggingTensorHook
    LogisticRegressionHead
    ModeKeys MultiClassHead MultiHead MultiLabelHead NanLossDuringTrainingError NanTensorHook
    PoissonRegressionHead ProfilerHook RegressionHead RunConfig SecondOrStepTimer SessionRunArgs
    SessionRunContext SessionRunHook SessionRunValues
    StepCounterHook StopAtStepHook SummarySaverHook
    TrainSpec VocabInfo WarmStartSettings add_metrics classifier_parse_example_spec
    regressor_parse_example_spec train_and_evaluate
    experimental.InMemoryEvaluatorHook experimental.KMeans experimental.LinearSDCA
    experimental.RNNClassifier experimental.RNNEstimator
    experimental.build_raw_supervised_input_receiver_fn experimental.call_logit_fn
    experimental.dnn_logit_fn_builder experimental.linear_logit_fn_builder
    experimental.make_early_stopping_hook experimental.make_stop_at_checkpoint_step_hook
    experimental.stop_if_higher_hook experimental.stop_if_lower_hook
    experimental.stop_if_no_decrease_hook experimental.stop_if_no_increase_hook
    export.ClassificationOutput export.EvalOutput export.ExportOutput export.PredictOutput
    export.RegressionOutput export.ServingInputReceiver export.TensorServingInputReceiver
    export.build_parsing_serving_input_receiver_fn export.build_raw_serving_input_receiver_fn
    inputs.numpy_input_fn inputs.pandas_input_fn
    tpu.InputPipelineConfig tpu.RunConfig tpu.TPUConfig tpu.TPUEstimator tpu.TPUEstimatorSpec
""".split()


# Those that are refused, and what their advice names.
REFUSED = {
    **dict.fromkeys(
        ("BoostedTreesClassifier", "BoostedTreesEstimator", "BoostedTreesRegressor"), "XGBoost"
    ),
    "experimental.KMeans": "MiniBatchKMeans",
    "experimental.LinearSDCA": "FtrlOptimizer",
    "experimental.RNNClassifier": "keras.layers.LSTM",
    "experimental.RNNEstimator": "keras.layers.LSTM",
    "experimental.build_raw_supervised_input_receiver_fn": "build_raw_serving_input_receiver_fn",
    "export.EvalOutput": "leave it out",
}


@pytest.mark.parametrize("place", [estimator, tfbig.estimator], ids=["compat.v1", "tfbig"])
@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_tf_estimator_works_or_says_what_to_write(name, place):
    folder, _, last = name.rpartition(".")
    found = operator.attrgetter(folder)(place) if folder else place
    if name not in REFUSED:
        assert callable(getattr(found, last))
        return
    with pytest.raises(UserError) as caught:
        getattr(found, last)
    assert re.match(rf"tf\.estimator\.{name} does not exist in tfbig; .{{12}}", str(caught.value))
    assert REFUSED[name] in str(caught.value)


@pytest.mark.parametrize("name", CANNED)
def test_a_canned_estimator_is_that_of_its_tensorflow(name):
    old, new = getattr(estimator, name), getattr(tfbig.estimator, name)
    assert old is not new
    assert issubclass(old, new)


def test_what_exists_is_tfbigs_own():
    for name in ("Estimator", "EstimatorSpec", "ModeKeys", "RunConfig", "TrainSpec"):
        assert getattr(estimator, name) is getattr(tfbig, name)
    receiver = estimator.export.ServingInputReceiver
    assert receiver is tfbig.estimator.export.ServingInputReceiver
    assert estimator.StopAtStepHook is tfbig.estimator.StopAtStepHook
    assert estimator.SessionRunHook is tf.compat.v1.train.SessionRunHook
    assert "Estimator" in dir(estimator)
    assert not hasattr(estimator, "Estimatr")


def test_a_from_import_says_it_too():
    with pytest.raises(UserError, match="BoostedTreesRegressor does not exist in tfbig; trees"):
        from tfbig.compat.v1.estimator import BoostedTreesRegressor  # noqa: F401


def test_rnn_cells_say_which_keras_layer_to_write():
    with pytest.raises(UserError, match=r"rnn_cell.GRUCell: .* write keras.layers.GRUCell\(units"):
        _ = nn.rnn_cell.GRUCell


def test_importing_it_imports_no_tensorflow():
    code = "import sys; from tfbig.compat.v1 import estimator, layers, nn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "tfbig.compat.v1.layers" in done.stdout.split(), done.stderr
    assert not {"tensorflow", "keras", "numpy"} & set(done.stdout.split())
