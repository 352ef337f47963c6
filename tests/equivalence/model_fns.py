"""Estimator-style model_fns, each with the compiled Keras model that it amounts to."""

import keras
from keras import layers
from keras.initializers import GlorotUniform

import tfbig
from tests.equivalence import models


# Weights are drawn from seeds of their own: a model_fn makes its layers anew in each trace.
def _hidden(normalize: bool) -> layers.Layer:
    return layers.Dense(
        24, use_bias=not normalize, kernel_initializer=GlorotUniform(seed=1), name="hidden"
    )


def _norm() -> layers.Layer:
    return layers.BatchNormalization(momentum=0.8, name="norm")


def _logits() -> layers.Layer:
    return layers.Dense(
        10, dtype="float32", kernel_initializer=GlorotUniform(seed=2), name="logits"
    )


class ModelFn:
    """A model_fn(features, labels, mode).

    Args:
        optimizer: makes one.
        scalar: the loss is a scalar, the mean over the batch; otherwise of shape [n].
        normalize: with batch normalisation.
    """

    def __init__(self, optimizer, *, scalar: bool = False, normalize: bool = False):
        self._optimizer, self._scalar, self._normalize = optimizer, scalar, normalize

    def __call__(self, features, labels, mode):
        x = _hidden(self._normalize)(features)
        if self._normalize:
            x = _norm()(x, training=mode == tfbig.ModeKeys.TRAIN)
        logits = _logits()(keras.ops.relu(x))
        loss = keras.ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        accuracy = keras.metrics.SparseCategoricalAccuracy()
        accuracy.update_state(labels, logits)
        return tfbig.EstimatorSpec(
            mode,
            loss=keras.ops.mean(loss) if self._scalar else loss,
            optimizer=self._optimizer(),
            eval_metric_ops={"accuracy": accuracy},
        )

    def as_keras(self) -> keras.Model:
        """The same as a compiled model; the paths of its variables begin with `whole`."""
        model = Whole(self._normalize)
        accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        model.compile(self._optimizer(), models.crossentropy(), metrics=[accuracy])
        return model


class Whole(keras.Model):
    """What a ModelFn computes."""

    def __init__(self, normalize: bool):
        super().__init__(name="whole")
        self.hidden = _hidden(normalize)
        self.norm = _norm() if normalize else None
        self.logits = _logits()

    def call(self, x, training=False):
        x = self.hidden(x)
        if self.norm is not None:
            x = self.norm(x, training=training)
        return self.logits(keras.ops.relu(x))
