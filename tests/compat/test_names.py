"""tfbig.compat.v1.estimator and nn: each name of TF1 is there, or says what to write."""

import ast
import re
import subprocess
import sys

import pytest
import tensorflow as tf

import tfbig
from tfbig.compat.gone import canned_model_fn
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


@pytest.mark.parametrize("name", NAMES)
def test_each_name_of_tf_estimator_is_there_or_says_what_to_write(name):
    place = estimator
    try:
        for part in name.split("."):
            place = getattr(place, part)
    except UserError as error:
        assert re.match(rf"tf\.estimator\.{name} does not exist in tfbig; .{{20}}", str(error))
    assert place is not None


def test_what_exists_is_tfbigs_own():
    for name in ("Estimator", "EstimatorSpec", "ModeKeys", "RunConfig", "TrainSpec"):
        assert getattr(estimator, name) is getattr(tfbig, name)
    receiver = estimator.export.ServingInputReceiver
    assert receiver is tfbig.estimator.export.ServingInputReceiver
    assert estimator.StopAtStepHook is tfbig.estimator.StopAtStepHook
    assert estimator.SessionRunHook is tf.compat.v1.train.SessionRunHook
    assert "Estimator" in dir(estimator)
    assert not hasattr(estimator, "Estimatr")


@pytest.mark.parametrize("kind", ["DNNClassifier", "DNNRegressor", "LinearClassifier"])
def test_a_canned_estimator_says_the_model_fn_to_write(kind):
    with pytest.raises(UserError) as caught:
        getattr(estimator, kind)
    code = str(caught.value).partition("for example:\n\n")[2]
    assert code.strip() == canned_model_fn(kind)
    assert isinstance(ast.parse(code).body[0], ast.FunctionDef)


def test_a_from_import_says_it_too():
    with pytest.raises(UserError, match="LinearRegressor does not exist in tfbig; the canned"):
        from tfbig.compat.v1.estimator import LinearRegressor  # noqa: F401


def test_rnn_cells_say_which_keras_layer_to_write():
    with pytest.raises(UserError, match=r"rnn_cell.GRUCell: .* write keras.layers.GRUCell\(units"):
        _ = nn.rnn_cell.GRUCell


def test_importing_it_imports_no_tensorflow():
    code = "import sys; from tfbig.compat.v1 import estimator, layers, nn; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "tfbig.compat.v1.layers" in done.stdout.split(), done.stderr
    assert not {"tensorflow", "keras", "numpy"} & set(done.stdout.split())
