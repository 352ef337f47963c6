"""The canned estimators of tf.compat.v1.estimator.

They differ from those of TensorFlow 2 in three things: a loss is the sum over a batch unless
loss_reduction says otherwise; the name of an optimizer is that of a class of tf.compat.v1.train,
with tf.estimator's old learning rates; and they have arguments for partitioners.
"""

from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.canned import baseline, combined, dnn, linear


class _TF1:
    """Refuses partitioners; the other arguments are those of the class of TensorFlow 2."""

    tf1 = True

    def __init__(
        self,
        *arguments: Any,
        input_layer_partitioner: Any = None,
        partitioner: Any = None,
        **keywords: Any,
    ):
        if input_layer_partitioner is not None or partitioner is not None:
            raise UserError(
                f"{type(self).__name__}: leave partitioners out; strategy= and RunConfig determine "
                "the devices of parameters."
            )
        super().__init__(*arguments, **keywords)


class DNNClassifier(_TF1, dnn.DNNClassifier):
    """tf.compat.v1.estimator.DNNClassifier, for code of TensorFlow 1."""


class DNNRegressor(_TF1, dnn.DNNRegressor):
    """tf.compat.v1.estimator.DNNRegressor, for code of TensorFlow 1."""


class DNNEstimator(_TF1, dnn.DNNEstimator):
    """tf.compat.v1.estimator.DNNEstimator, for code of TensorFlow 1."""


class LinearClassifier(_TF1, linear.LinearClassifier):
    """tf.compat.v1.estimator.LinearClassifier, for code of TensorFlow 1."""


class LinearRegressor(_TF1, linear.LinearRegressor):
    """tf.compat.v1.estimator.LinearRegressor, for code of TensorFlow 1."""


class LinearEstimator(_TF1, linear.LinearEstimator):
    """tf.compat.v1.estimator.LinearEstimator, for code of TensorFlow 1."""


class BaselineClassifier(_TF1, baseline.BaselineClassifier):
    """tf.compat.v1.estimator.BaselineClassifier, for code of TensorFlow 1."""


class BaselineRegressor(_TF1, baseline.BaselineRegressor):
    """tf.compat.v1.estimator.BaselineRegressor, for code of TensorFlow 1."""


class BaselineEstimator(_TF1, baseline.BaselineEstimator):
    """tf.compat.v1.estimator.BaselineEstimator, for code of TensorFlow 1."""


class DNNLinearCombinedClassifier(_TF1, combined.DNNLinearCombinedClassifier):
    """tf.compat.v1.estimator.DNNLinearCombinedClassifier, for code of TensorFlow 1."""


class DNNLinearCombinedRegressor(_TF1, combined.DNNLinearCombinedRegressor):
    """tf.compat.v1.estimator.DNNLinearCombinedRegressor, for code of TensorFlow 1."""


class DNNLinearCombinedEstimator(_TF1, combined.DNNLinearCombinedEstimator):
    """tf.compat.v1.estimator.DNNLinearCombinedEstimator, for code of TensorFlow 1."""
