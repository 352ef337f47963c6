"""Builds transforms from a list of dicts, Keras layers and transforms."""

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
    "MaxNumBoundingBoxes": "augmentation does not support bounding boxes",
}


def build_transforms(layers: Iterable[Any]) -> list[Transform]:
    """Builds the transforms for a list of layers; consecutive image layers become one transform.

    Raises:
        UserError: the value is not a list, or an entry cannot be used.
    """
    if isinstance(layers, str) or hasattr(layers, "items") or not isinstance(layers, Iterable):
        raise UserError(
            f"augmentation: expected a list of layers, received {layers!r}; write "
            '[{"name": "RandomFlip", "mode": "horizontal"}].'
        )
    transforms: list[Transform] = []
    images: list[ImageLayer] = []
    for made in [one for entry in layers for one in _build(entry)]:
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
        raise UserError("augmentation: the list of layers is empty; omit augment().")
    return transforms


def _build(entry: Any) -> list[Transform | ImageLayer]:
    if hasattr(entry, "items"):
        entry = _from_config(entry)
        return entry if isinstance(entry, list) else _build(entry)
    if isinstance(entry, Transform):
        return [entry]
    if isinstance(entry, (keras.layers.Pipeline, keras.Sequential)):
        return [one for layer in entry.layers for one in _build(layer)]
    if isinstance(entry, keras.layers.Layer):
        return _from_layer(entry)
    raise UserError(
        f'augmentation: {entry!r} is not a layer; pass a dict such as {{"name": "RandomFlip"}}, '
        "a Keras layer, or a tfbig.data.augmentation.Transform."
    )


def _from_config(config: Any) -> Any:
    """Builds a layer from a dict; a list for a Pipeline, whose layers may be dicts too."""
    arguments = {str(name): _plain(value) for name, value in config.items()}
    name = arguments.pop("name", None)
    if name in _REFUSED:
        raise UserError(f"augmentation: {name} cannot be used: {_REFUSED[name]}.")
    if name not in _KERAS and name not in _TEXT:
        known = ", ".join([*_KERAS, *_TEXT])
        raise UserError(f"augmentation: there is no layer {name!r}; the layers are {known}.")
    if "seed" in arguments:
        raise UserError(
            f"augmentation: {name} has seed={arguments['seed']!r}, but all randomness is a "
            "function of the run's seed; omit it, and set RunConfig(tf_random_seed=…)."
        )
    kind = _TEXT.get(name) or getattr(keras.layers, name)
    if name == "Pipeline" and isinstance(arguments.get("layers"), (list, tuple)):
        return [one for entry in arguments["layers"] for one in _build(entry)]
    if name in _KERAS and name != "Pipeline":
        arguments = {"dtype": "float32", **arguments}  # for any dtype policy of the model
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
    """Converts ConfigDicts and tuples in a config to dicts and lists, as Keras needs them."""
    if hasattr(value, "items"):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def _from_layer(layer: keras.layers.Layer) -> list[Transform | ImageLayer]:
    """Converts a Keras layer to a transform that mixes examples, or to layers for single images."""
    if type(layer) is keras.layers.MixUp:
        return [mixing.MixUp(layer)]
    if type(layer) is keras.layers.CutMix:
        return [mixing.CutMix(layer)]
    if type(layer) is keras.layers.RandomColorJitter:
        parts = ("brightness", "contrast", "saturation", "hue")
        there = [part for name in parts if (part := getattr(layer, f"random_{name}")) is not None]
        for part in there:
            part.dtype_policy = layer.dtype_policy  # Keras does not set it for these parts
        return [_image_layer(part) for part in there]
    return [_image_layer(layer)]


def _image_layer(layer: keras.layers.Layer) -> ImageLayer:
    name = type(layer).__name__
    if getattr(keras.layers, name, None) is not type(layer) or name not in _KERAS:
        why = _REFUSED.get(name, "its random numbers may not be independent for each example")
        raise UserError(
            f"augmentation: {name} cannot be used: {why}. Use one of {', '.join(_KERAS)}, or "
            "write a tfbig.data.augmentation.Transform."
        )
    if name == "RandomFlip" and layer.mode not in _FLIPS:
        raise UserError(
            f"augmentation: RandomFlip: mode={layer.mode!r}; expected {', '.join(_FLIPS)}."
        )
    if name == "Normalization" and layer.input_mean is None and not layer.built:
        raise UserError(
            "augmentation: Normalization has no mean and variance: pass mean=… and variance=…, or "
            "call the layer's adapt() first."
        )
    if name in _CALLED:
        return image_layers.CalledLayer(layer, moves=_CALLED[name], fixed=True)
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
        return image_layers.PerImage(layer, moves=not fixed, fixed=fixed)
    return ImageLayer(
        layer,
        moves=name in _MOVES or name in _FIXED_MOVES,
        fixed=name in _FIXED_COLOURS or name in _FIXED_MOVES,
    )
