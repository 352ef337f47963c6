"""A new last layer for a trained model."""

import logging
import weakref

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.endings import Ending, NoFeatures, ending_of, pools
from tfbig.finetuning.recipe import REGRESSION

log = logging.getLogger("tfbig")
_OF_ITS_OWN = ("train_step", "test_step", "compute_loss")
_new_heads: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def with_head(model: keras.Model, head: int | str) -> keras.Model:
    """Replaces the classifier of a model by a new Dense layer; the other layers are shared.

    Args:
        model: Sequential or functional, with one output. If it ends in a classifier, the new
            layer takes the inputs of the classifier, and the classifier's activation, pooling and
            flattening are removed too; otherwise it takes the output. Features with spatial or
            time dimensions are pooled: as before the old classifier, or by the average.
        head: the number of classes (logits), or "regression" for one output.

    Raises:
        UserError: the model has no such output or no weights, or it ends in probabilities and its
            classifier cannot be identified.
    """
    graph = _private_api.functional_graph(model)
    if graph is None or len(graph.outputs) != 1 or not model.weights:
        raise UserError(
            f"Recipe.head={head!r} needs a Sequential or functional model with one output and "
            f"weights; the model {model.name!r} is not one. Build the new model in model_fn."
        )
    units = 1 if head == REGRESSION else head
    try:
        ending = ending_of(model)
        features = _pooled(ending, _data_format(model), _free("head_pooling", model))
    except NoFeatures as error:
        raise UserError(
            f"Recipe.head={head!r} cannot replace the classifier of {model.name!r}: "
            f"{error}. Build the new model in model_fn, as keras.Model(loaded.input, "
            f"keras.layers.Dense({units})(features))."
        ) from error
    own = [name for name in _OF_ITS_OWN if _private_api.overrides(model, name)]
    if own:
        log.warning(
            "the model with the new head is a plain keras.Model without %s of %s, a %s. "
            "Build the new model in model_fn to keep it.",
            " and ".join(own),
            model.name,
            type(model).__name__,
        )
    name = _free("head", model)
    several = len(model.inputs) > 1 or not isinstance(model, keras.Sequential)
    inputs = model.input if several else model.inputs[0]  # in the structure of its call
    # float32 with a mixed precision policy too, as for all outputs.
    dense = keras.layers.Dense(units, name=name, dtype="float32")
    made = keras.Model(inputs, dense(features))
    _new_heads[made] = head
    log.info(
        "the head %r takes %d features, %s",
        name,
        features.shape[-1],
        f"in place of {', '.join(ending.replaced)}" if ending.replaced else "the model's output",
    )
    return made


def _free(name: str, model: keras.Model) -> str:
    """The name, with a number if a layer of the model has it already.

    Keras's automatic names are unique only in the process that built the model, because their
    numbers start again in another process.
    """
    names = {layer.name for layer in model.layers}
    return next(
        each for each in (name, *(f"{name}_{i}" for i in range(1, 99))) if each not in names
    )


def _pooled(ending: Ending, data_format: str, name: str) -> keras.KerasTensor:
    """Pools the spatial or time dimensions of the features by a layer with this name."""
    features, how = ending.features, "average"
    places = len(features.shape) - 2
    if places and ending.pooling is not None:
        how = pools(ending.pooling)
    if places and how == "pick":  # such as the first time step
        features = ending.pooling.operation(features, ending.pooling.arguments[0][1])
    elif places:
        if places > 3:
            raise NoFeatures(f"its features have {places} spatial dimensions, more than 3")
        # The average over time steps uses the mask.
        pooling = getattr(keras.layers, f"Global{how.capitalize()}Pooling{places}D")
        features = pooling(data_format=data_format, dtype="float32", name=name)(features)
    if len(features.shape) != 2 or features.shape[-1] is None:
        raise NoFeatures(f"its features have the shape {('batch', *features.shape[1:])}")
    return features


def _data_format(model: keras.Model) -> str:
    """The data format of a model's features: that of its last layer with a data_format."""
    formats = [getattr(layer, "data_format", None) for layer in _private_api.flatten_layers(model)]
    return next((each for each in reversed(formats) if each), "channels_last")


def new_head_of(model: keras.Model) -> int | str | None:
    """The head that `with_head` added to this model, or None."""
    return _new_heads.get(model)
