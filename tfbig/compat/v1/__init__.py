"""The names of tf.compat.v1 that TensorFlow 2.21 has dropped: layers, estimator, nn.rnn_cell.

All other names of TF1 are still in `tf.compat.v1` itself.
"""

from tfbig._lazy import lazy

__all__ = ["estimator", "layers", "nn"]

__getattr__, __dir__ = lazy(__name__, dict.fromkeys(__all__))
