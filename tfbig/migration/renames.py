"""Decides for a name of TensorFlow: a new name, advice, or no change."""

from collections.abc import Sequence

from tfbig.compat.gone import gone_estimator, gone_layer
from tfbig.compat.names import CANNED, FROM_TRAIN, IN_ESTIMATOR, LAYERS, OURS, STOPPING
from tfbig.migration import contrib, tensorflow_names
from tfbig.migration.by_hand import PLACEHOLDER, advice
from tfbig.migration.names import Name, Rename

_PLACEHOLDERS = ("placeholder", "placeholder_with_default")
_SPEC = Rename(
    1,
    "TensorSpec",
    in_tf=True,
    positional=("dtype", "shape", "name"),
    needs=("shape",),
    otherwise="write tf.TensorSpec([None, …], dtype)",
)


def decide(name: Name, tf1: bool = False, where: str = "") -> Rename | str | None:
    """Returns the new name, advice for a manual change, or None: the name does not change.

    Example: `decide(Name(("layers", "dense"), False)).new == "tfbig.compat.v1.layers.dense"`.

    Args:
        name: the name.
        tf1: whether the file is written for TensorFlow 1, so that a canned estimator is that of
            TensorFlow 1 without compat.v1 too.
        where: "receiver": in a serving_input_receiver_fn; "raw": in the features of
            build_raw_serving_input_receiver_fn.
    """
    parts = name.parts
    if not parts:
        return None
    if parts[0] in _PLACEHOLDERS and where:
        return _placeholder(name, where)
    if parts[0] == "contrib" or parts == ("tpu", "CrossShardOptimizer"):
        return _of_contrib(name)
    text = advice(parts)
    if text is not None:
        return text
    first, second = parts[0], parts[1] if len(parts) > 1 else None
    if name.ours:
        return gone_layer(second) if first == "layers" and second else None
    if first == "estimator":
        return _of_estimator(parts, tf1 or name.v1)
    if first == "layers":
        if second is None:
            return Rename(1, "tfbig.compat.v1.layers")
        if second in LAYERS:
            return Rename(2, f"tfbig.compat.v1.layers.{second}")
        return gone_layer(second) or "it is not a name of tf.layers"
    if not name.v1 and (first == "flags" or parts[:2] == ("app", "flags")):
        return Rename(2 if first == "app" else 1, "absl.flags")
    if first == "keras" or tensorflow_names.exists(parts, v1=name.v1):
        return None
    if not name.v1 and tensorflow_names.exists(parts, v1=True):
        return Rename(len(parts), ".".join(parts), in_v1=True)
    return _unknown(parts)


def _placeholder(name: Name, where: str) -> Rename | str | None:
    if where == "raw":
        return _SPEC if name.parts[0] == "placeholder" else PLACEHOLDER
    return None if name.v1 else Rename(1, name.parts[0], in_v1=True)


def _of_contrib(name: Name) -> Rename | str | None:
    if name.ours:
        return None
    parts = name.parts if name.parts[0] == "contrib" else ("contrib", *name.parts)
    found = contrib.moved(parts)
    if found is None:
        gone = None
        if parts[1:2] == ("estimator",) and len(parts) > 2:
            gone = gone_estimator(f"experimental.{parts[2]}") or gone_estimator(parts[2])
        return gone or advice(parts)
    return found if parts is name.parts else found._replace(used=found.used - 1)


def _of_estimator(parts: Sequence[str], tf1: bool) -> Rename | str:
    place = "tfbig.compat.v1.estimator" if tf1 else "tfbig.estimator"
    if len(parts) == 1:
        return Rename(1, place)
    second = parts[1]
    if second in OURS:
        return Rename(2, f"tfbig.{second}")
    if second in FROM_TRAIN:
        return Rename(2, f"train.{second}", in_v1=True)
    if second in CANNED:
        return Rename(2, f"{place}.{second}")
    if second == "experimental" and len(parts) > 2 and parts[2] in STOPPING:
        return Rename(3, f"tfbig.estimator.{parts[2]}")
    if second in ("experimental", "export", "inputs") or second in IN_ESTIMATOR:
        return Rename(2, f"tfbig.estimator.{second}")
    if second == "tpu":
        return Rename(2, "tfbig.compat.v1.estimator.tpu")
    return "it is not a name of tf.estimator"


def _unknown(parts: Sequence[str]) -> str:
    return f"TensorFlow 2.21 has no {'.'.join(parts)}, neither in tf nor in tf.compat.v1"
