"""From a list of names, dicts and layers to the transforms that they mean."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras

from tfbig.data.augmentation import image_layers, mixing, text
from tfbig.data.augmentation.image_layers import ImageLayer
from tfbig.data.augmentation.images import Images
from tfbig.data.augmentation.transform import Transform
from tfbig.errors import UserError

_COLOURS = (
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomContrast",
    "RandomErasing",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHue",
    "RandomInvert",
    "RandomPosterization",
    "RandomSaturation",
    "RandomSharpness",
    "Solarization",
)
_MOVES = (
    "RandomFlip",
    "RandomPerspective",
    "RandomRotation",
    "RandomShear",
    "RandomTranslation",
    "RandomZoom",
)
_FIXED_COLOURS = ("AutoContrast", "ContrastLimitedAdaptiveHistogramEqualization")
_FIXED_MOVES = ("CenterCrop", "Resizing")
_CALLED = {"Normalization": False, "Rescaling": False, "ZeroPadding2D": True}  # name: moves
_OTHERS = (
    "AugMix",
    "CutMix",
    "Equalization",
    "MixUp",
    "Pipeline",
    "RandAugment",
    "RandomColorJitter",
    "RandomCrop",
    "RandomElasticTransform",
)
_KERAS = sorted([*_COLOURS, *_MOVES, *_FIXED_COLOURS, *_FIXED_MOVES, *_CALLED, *_OTHERS])
_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
_TEXT = {"SpanCorruption": text.SpanCorruption, "TokenMasking": text.TokenMasking}
_REFUSED = {
    "MaxNumBoundingBoxes": "it changes bounding boxes, which augmentation does not know",
}


def make_transforms(layers: Iterable[Any]) -> list[Transform]:
    """The transforms that a list of layers means; neighbouring image layers are one.

    Raises:
        UserError: it is no list, or an entry of it cannot be used.
    """
    if isinstance(layers, str) or hasattr(layers, "items") or not isinstance(layers, Iterable):
        raise UserError(
            f"augmentation: expected a list of layers, received {layers!r}; write "
            '[{"name": "RandomFlip", "mode": "horizontal"}].'
        )
    transforms: list[Transform] = []
    images: list[ImageLayer] = []
    for made in [one for entry in layers for one in _made(entry)]:
        if isinstance(made, ImageLayer):
            images.append(made)
            if len(images) == 1:
                together = Images(images)
                transforms.append(together)
                images = together.layers
        else:
            transforms.append(made)
            images = []
    if not transforms:
        raise UserError("augmentation: the list of layers is empty; leave augment() out.")
    return transforms


def _made(entry: Any) -> list[Transform | ImageLayer]:
    if hasattr(entry, "items"):
        entry = _from_config(entry)
        return entry if isinstance(entry, list) else _made(entry)
    if isinstance(entry, Transform):
        return [entry]
    if isinstance(entry, (keras.layers.Pipeline, keras.Sequential)):
        return [one for layer in entry.layers for one in _made(layer)]
    if isinstance(entry, keras.layers.Layer):
        return _from_layer(entry)
    raise UserError(
        f'augmentation: {entry!r} is no layer; write a dict such as {{"name": "RandomFlip"}}, a '
        "layer of Keras, or a tfbig.data.augmentation.Transform."
    )


def _from_config(config: Any) -> Any:
    """A layer from a dict; a list for a Pipeline, whose layers may be dicts too."""
    arguments = {str(name): _plain(value) for name, value in config.items()}
    name = arguments.pop("name", None)
    if name in _REFUSED:
        raise UserError(f"augmentation: {name} cannot be used: {_REFUSED[name]}.")
    if name not in _KERAS and name not in _TEXT:
        known = ", ".join([*_KERAS, *_TEXT])
        raise UserError(f"augmentation: there is no layer {name!r}; there are {known}.")
    if "seed" in arguments:
        raise UserError(
            f"augmentation: {name} has seed={arguments['seed']!r}, but all randomness is a "
            "function of the run's seed; leave it out, and set RunConfig(tf_random_seed=…)."
        )
    kind = _TEXT.get(name) or getattr(keras.layers, name)
    if name == "Pipeline" and isinstance(arguments.get("layers"), (list, tuple)):
        return [one for entry in arguments["layers"] for one in _made(entry)]
    if name in _KERAS and name != "Pipeline":
        arguments = {"dtype": "float32", **arguments}  # whatever the policy of the model
    try:
        return kind(**arguments)
    except UserError:
        raise
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        names = [p for p in inspect.signature(kind).parameters if p not in ("kwargs", "seed")]
        raise UserError(
            f"augmentation: {name}: {reason}. Its arguments are {', '.join(names)}."
        ) from None


def _plain(value: Any) -> Any:
    """ConfigDicts and tuples inside a config as dicts and lists, as Keras takes them."""
    if hasattr(value, "items"):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _from_layer(layer: keras.layers.Layer) -> list[Transform | ImageLayer]:
    """What a layer of Keras becomes: a mixing of examples, or layers for single images."""
    if type(layer) is keras.layers.MixUp:
        return [mixing.MixUp(layer)]
    if type(layer) is keras.layers.CutMix:
        return [mixing.CutMix(layer)]
    if type(layer) is keras.layers.RandomColorJitter:
        parts = ("brightness", "contrast", "saturation", "hue")
        there = [part for name in parts if (part := getattr(layer, f"random_{name}")) is not None]
        for part in there:
            part.dtype_policy = layer.dtype_policy  # Keras hands it to the parts of others only
        return [_image_layer(part) for part in there]
    return [_image_layer(layer)]


def _image_layer(layer: keras.layers.Layer) -> ImageLayer:
    name = type(layer).__name__
    if getattr(keras.layers, name, None) is not type(layer) or name not in _KERAS:
        why = _REFUSED.get(name, "nobody has looked whether its draws can be taken row by row")
        raise UserError(
            f"augmentation: {name} cannot be used: {why}. Take one of {', '.join(_KERAS)}, or "
            "write a tfbig.data.augmentation.Transform."
        )
    if name == "RandomFlip" and layer.mode not in _FLIPS:
        raise UserError(
            f"augmentation: RandomFlip: mode={layer.mode!r}; expected {', '.join(_FLIPS)}."
        )
    if name == "Normalization" and layer.input_mean is None and not layer.built:
        raise UserError(
            "augmentation: Normalization has no mean and variance: give mean=… and variance=…, or "
            "call the layer's adapt() before."
        )
    if name in _CALLED:
        return image_layers.Called(layer, moves=_CALLED[name], fixed=True)
    if name == "RandomCrop":
        return image_layers.Crop(layer)
    if name == "RandomContrast":
        return image_layers.Contrast(layer)
    if name == "RandAugment":
        return image_layers.RandAugment(layer, _image_layer)
    if name == "AugMix":
        return image_layers.AugMix(layer, _image_layer)
    if name in ("Equalization", "RandomElasticTransform"):
        fixed = name == "Equalization"
        return image_layers.OneByOne(layer, moves=not fixed, fixed=fixed)
    return ImageLayer(
        layer,
        moves=name in _MOVES or name in _FIXED_MOVES,
        fixed=name in _FIXED_COLOURS or name in _FIXED_MOVES,
    )
