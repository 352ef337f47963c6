"""What the installed TensorFlow has under which name."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

_MISSING = object()


@functools.cache
def _tensorflow() -> Any:
    import tensorflow  # takes seconds: help and bad files need none of it

    return tensorflow


def _find(names: Sequence[str], v1: bool) -> Any:
    """The object of a name; as far as modules lead, since attributes of objects vary."""
    found = _tensorflow().compat.v1 if v1 else _tensorflow()
    for name in names:
        if not inspect.ismodule(found) and not _is_loader(found):
            break
        try:
            found = getattr(found, name)
        # Keras's names are loaded lazily, and some of them are gone.
        except (AttributeError, ImportError):
            return _MISSING
    return found


def _is_loader(value: Any) -> bool:
    return "Lazy" in type(value).__name__ or "ModuleWrapper" in type(value).__name__


def exists(names: Sequence[str], v1: bool) -> bool:
    """Whether `tf.<names>`, or `tf.compat.v1.<names>`, exists.

    Example: `exists(["train", "AdamOptimizer"], v1=True)`.
    """
    return _find(names, v1) is not _MISSING


def differs(names: Sequence[str], positional: int, keywords: Sequence[str]) -> bool:
    """Whether a call that TF1 understands means another thing to `tf.<names>` of today.

    So it is if the arguments have other names: `tf.nn.dropout(x, 0.5)` took what is kept.

    Example: `differs(["nn", "dropout"], 2, [])`.

    Args:
        names: exist in both.
        positional: how many arguments the call gives by place.
        keywords: those it gives by name.
    """
    old, new = _find(names, True), _find(names, False)
    if old is new or not callable(old) or not callable(new):
        return False
    old_names, new_names = (_bound(f, positional, keywords) for f in (old, new))
    return old_names is not None and old_names != new_names


def _bound(function: Any, positional: int, keywords: Sequence[str]) -> set[str] | None:
    """The names of the parameters that a call's arguments go to; None if it cannot be called so."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*range(positional), **dict.fromkeys(keywords))
    except (TypeError, ValueError):
        return None
    return set(bound.arguments)
