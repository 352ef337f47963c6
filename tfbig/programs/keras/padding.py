"""Whether a Keras model may be given a padded batch with weights of 0 for the padding."""

import keras

from tfbig import _private_api
from tfbig.programs.keras.loss_probe import sizes_of_values
from tfbig.programs.metric_sums import inner_metrics, is_sum

# Layers that mix the examples of a batch, or may do anything.
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

    True only where it is known: layers, loss and metrics of Keras or tfbig themselves that treat
    each example alone, in a Sequential or functional model. All else is given its batches in
    their true size, which is exact but is not compiled.
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


def _reduces_examples(loss: keras.losses.Loss, output: keras.KerasTensor) -> bool:
    """Whether one of Keras's losses gives no value for each example, as for outputs [n]."""
    sizes = sizes_of_values(loss, output, output)  # None: its labels have another shape
    return sizes is not None and not sizes.of_examples


def _weighs_examples(metric: keras.metrics.Metric, rank: int) -> bool:
    """Whether a metric of outputs of this rank takes one weight for each example.

    Means do. Those that count cases broadcast weights over labels of shape [n, k] at most, and
    the intersections over unions want a weight for each label.
    """
    if isinstance(metric, keras.metrics.Mean):
        return True
    return rank <= 2 and not isinstance(metric, keras.metrics.IoU)


def _treats_examples_alone(layer: keras.layers.Layer) -> bool:
    operations = getattr(layer, "operations", ())  # of a functional model, nested ones too
    return (
        _known(type(layer), getattr(layer, "activation", None))
        and not isinstance(layer, _MIXING)
        and all(isinstance(operation, keras.layers.Layer) for operation in operations)
        and getattr(layer, "activity_regularizer", None) is None
        and not getattr(layer, "stateful", False)
    )


def _known(*things) -> bool:
    """Whether classes and functions are Keras's, TensorFlow's or tfbig's own; None is, too."""
    modules = [getattr(thing, "__module__", None) or "" for thing in things if thing is not None]
    return all(module.split(".")[0] in ("keras", "tensorflow", "tfbig") for module in modules)
