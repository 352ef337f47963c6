"""Properties of layers that decide how batches are padded and how a step is compiled."""

import keras

from tfbig import _private_api
from tfbig.programs.keras.loss_probe import probe_loss_values
from tfbig.programs.metric_aggregation import inner_metrics, is_sum

_CONVOLUTIONS = (
    *(getattr(keras.layers, f"{kind}{n}D") for kind in ("Conv", "MaxPooling") for n in (1, 2, 3)),
    *(getattr(keras.layers, f"Conv{n}DTranspose") for n in (1, 2, 3)),
    *(
        getattr(keras.layers, f"{kind}Conv{n}D")
        for kind in ("Depthwise", "Separable")
        for n in (1, 2)
    ),
)
_RECURRENT = (keras.layers.LSTM, keras.layers.GRU)  # whose cuDNN kernels XLA cannot compile

# Layers that mix the examples of a batch, or whose computation is unknown.
_MIXING = (
    keras.layers.BatchNormalization,
    keras.layers.Lambda,
    keras.layers.ActivityRegularization,
    keras.layers.TFSMLayer,
    keras.layers.JaxLayer,
)

# Losses that compare the examples of a batch with each other, or sum over them before they divide.
_MIXING_LOSSES = (keras.losses.circle, keras.losses.dice, keras.losses.tversky)


def exact_with_padding(model: keras.Model, metrics: list) -> bool:
    """Whether rows of weight 0 change neither gradients, state nor metrics.

    True only if this is certain: a Sequential or functional model whose layers, loss and metrics
    come from Keras or tfbig and treat each example independently. Other models receive batches of
    their true size, which is exact but not compiled.
    """
    if type(model) is not keras.Sequential and not _private_api.is_plain_functional(model):
        return False
    if not all(_treats_examples_alone(layer) for layer in _private_api.flatten_layers(model)):
        return False
    losses = [entry.loss for entry in _private_api.compiled_losses(model)]
    if len(losses) != 1 or not _known(type(losses[0]), getattr(losses[0], "fn", None)):
        return False
    if getattr(losses[0], "fn", None) in _MIXING_LOSSES:
        return False
    if any(_reduces_examples(losses[0], output) for output in model.outputs):
        return False
    rank = max((len(output.shape) for output in model.outputs), default=0)
    return all(is_sum(m) and _weighs_examples(m, rank) for m in inner_metrics(metrics))


def layer_without_xla(model: keras.Model) -> str | None:
    """The class name of a layer that declares supports_jit=False, or None."""
    for layer in _private_api.flatten_layers(model):
        if not getattr(layer, "supports_jit", True) and not isinstance(layer, _RECURRENT):
            return type(layer).__name__
    return None


def runs_convolutions(layers: list[keras.layers.Layer]) -> bool:
    """Whether some layer is a convolution or a max pooling."""
    return any(isinstance(layer, _CONVOLUTIONS) for layer in layers)


def has_per_replica_statistics(layers: list[keras.layers.Layer]) -> bool:
    """Whether some layer normalizes over the examples of each replica."""
    return any(
        isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
        for layer in layers
    )


def _reduces_examples(loss: keras.losses.Loss, output: keras.KerasTensor) -> bool:
    """Whether a Keras loss has no value per example, as for outputs of shape [n]."""
    sizes = probe_loss_values(loss, output, output)  # None: the labels have another shape
    return sizes is not None and not sizes.of_examples


def _weighs_examples(metric: keras.metrics.Metric, rank: int) -> bool:
    """Whether a metric accepts one weight per example for outputs of this rank.

    Means do. Metrics that count cases broadcast weights over labels of shape [n, k] at most, and
    IoU metrics need one weight per label.
    """
    if isinstance(metric, keras.metrics.Mean):
        return True
    return rank <= 2 and not isinstance(metric, keras.metrics.IoU)


def _treats_examples_alone(layer: keras.layers.Layer) -> bool:
    operations = getattr(layer, "operations", ())  # of a functional model, also a nested one
    return (
        _known(type(layer), getattr(layer, "activation", None))
        and not isinstance(layer, _MIXING)
        and all(isinstance(operation, keras.layers.Layer) for operation in operations)
        and getattr(layer, "activity_regularizer", None) is None
        and not getattr(layer, "stateful", False)
    )


def _known(*things) -> bool:
    """Whether classes and functions are defined in Keras, TensorFlow or tfbig. True for None."""
    modules = [getattr(thing, "__module__", None) or "" for thing in things if thing is not None]
    return all(module.split(".")[0] in ("keras", "tensorflow", "tfbig") for module in modules)
