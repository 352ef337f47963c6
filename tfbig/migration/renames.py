"""Decides for a name of TensorFlow: a new name, advice, or no change."""

from collections.abc import Sequence
from typing import NamedTuple

from tfbig.compat.gone import gone_layer
from tfbig.compat.names import FROM_TRAIN, IN_ESTIMATOR, LAYERS, OURS, STOPPING
from tfbig.migration import tensorflow_names
from tfbig.migration.by_hand import advice


class Rename(NamedTuple):
    """A new name.

    Attributes:
        used: number of parts of the old name that the new one replaces.
        new: the new name.
        in_v1: whether it is a name in tf.compat.v1, under any import alias.
    """

    used: int
    new: str
    in_v1: bool = False


class Name(NamedTuple):
    """A name of TensorFlow: the parts after `tf` or `tf.compat.v1`, and which of these it is in.

    Example: `Name.of("tensorflow.compat.v1.train.AdamOptimizer").parts[0] == "train"`.

    Attributes:
        ours: whether it is already the name in tfbig.
    """

    parts: tuple[str, ...]
    v1: bool
    ours: bool = False

    @classmethod
    def of(cls, full: str) -> "Name | None":
        """Parses a full name; None: it is not a name of TensorFlow."""
        root, *parts = full.split(".")
        if root == "tfbig":
            if parts[:2] == ["compat", "v1"]:
                return cls(tuple(parts[2:]), True, True)
            return cls(("estimator", "RunConfig"), True, True) if parts == ["RunConfig"] else None
        if root != "tensorflow":
            return None
        if parts[:2] == ["compat", "v1"]:
            return cls(tuple(parts[2:]), True)
        if parts[:2] == ["compat", "v2"]:
            return cls(tuple(parts[2:]), False)
        return cls(tuple(parts), False)


def decide(name: Name) -> Rename | str | None:
    """Returns the new name, advice for a manual change, or None: the name does not change.

    Example: `decide(Name(("layers", "dense"), False)).new == "tfbig.compat.v1.layers.dense"`.
    """
    parts = name.parts
    if not parts:
        return None
    text = advice(parts)
    if text is not None:
        return text
    first, second = parts[0], parts[1] if len(parts) > 1 else None
    if name.ours:
        return gone_layer(second) if first == "layers" and second else None
    if first == "estimator":
        return _of_estimator(parts)
    if first == "layers":
        if second is None:
            return Rename(1, "tfbig.compat.v1.layers")
        if second in LAYERS:
            return Rename(2, f"tfbig.compat.v1.layers.{second}")
        return gone_layer(second) or "it is not a name of tf.layers"
    if not name.v1 and first in ("app", "flags"):
        return _of_absl(parts)
    if first == "keras" or tensorflow_names.exists(parts, v1=name.v1):
        return None
    if not name.v1 and tensorflow_names.exists(parts, v1=True):
        return Rename(len(parts), ".".join(parts), in_v1=True)
    return _unknown(parts)


def _of_absl(parts: Sequence[str]) -> Rename:
    if parts[0] == "flags":
        return Rename(1, "absl.flags")
    if len(parts) > 1 and parts[1] in ("flags", "run"):
        return Rename(2, f"absl.{'flags' if parts[1] == 'flags' else 'app.run'}")
    return Rename(1, "absl.app")


def _of_estimator(parts: Sequence[str]) -> Rename | str:
    if len(parts) == 1:
        return Rename(1, "tfbig.compat.v1.estimator")
    second = parts[1]
    if second in OURS:
        return Rename(2, f"tfbig.{second}")
    if second in FROM_TRAIN:
        return Rename(2, f"train.{second}", in_v1=True)
    if second in ("export", "inputs") or second in IN_ESTIMATOR:
        return Rename(2, f"tfbig.estimator.{second}")
    if second == "experimental" and len(parts) > 2 and parts[2] in STOPPING:
        return Rename(3, f"tfbig.estimator.{parts[2]}")
    if second in ("experimental", "tpu"):
        return Rename(2, f"tfbig.compat.v1.estimator.{second}")
    return "it is not a name of tf.estimator"


def _unknown(parts: Sequence[str]) -> str:
    return f"TensorFlow 2.21 has no {'.'.join(parts)}, neither in tf nor in tf.compat.v1"
