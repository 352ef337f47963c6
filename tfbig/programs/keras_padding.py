"""Whether a Keras model may be given a padded batch with weights of 0 for the padding."""

import keras

from tfbig import _private_api

# Layers that mix the examples of a batch, or may do anything.
_MIXING = (
    keras.layers.BatchNormalization,
    keras.layers.Lambda,
    keras.layers.ActivityRegularization,
)


def exact_with_padding(model: keras.Model, metrics: list) -> bool:
    """Whether rows of weight 0 change neither gradients, state nor metrics.

    True only where it is known: layers, loss and metrics of Keras or tfbig themselves that treat
    each example alone, in a Sequential or functional model. All else is given its batches in
    their true size, which is exact but is not compiled.
    """
    if type(model) is not keras.Sequential and not _is_functional(model):
        return False
    if any(_private_api.overrides(model, m) for m in ("compute_loss", "compute_metrics", "call")):
        if not _is_functional(model) and type(model) is not keras.Sequential:
            return False
    layers = _private_api.flatten_layers(model)
    if any(not _treats_examples_alone(layer) for layer in layers):
        return False
    if any(not isinstance(op, keras.layers.Layer) for op in getattr(model, "operations", ())):
        return False
    losses = _private_api.compiled_losses(model)
    if len(losses) != 1 or not _private_api.is_keras_loss_function(losses[0].loss):
        return False
    compiled = _private_api.compiled_metrics(model)
    inner = [m for metric in metrics for m in (metric.metrics if metric is compiled else [metric])]
    return all(_known(metric) and _known_function(metric) for metric in inner)


def _is_functional(model: keras.Model) -> bool:
    return type(model).__name__ == "Functional" and _known(model)


def _known(thing) -> bool:
    return type(thing).__module__.startswith(("keras.src.", "tfbig."))


def _known_function(metric) -> bool:
    fn = getattr(metric, "_fn", None)
    return fn is None or getattr(fn, "__module__", "").startswith(("keras.src.", "tfbig."))


def _treats_examples_alone(layer) -> bool:
    return (
        _known(layer)
        and not isinstance(layer, _MIXING)
        and getattr(layer, "activity_regularizer", None) is None
        and not getattr(layer, "stateful", False)
    )
