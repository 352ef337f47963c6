"""Looks up names in the installed TensorFlow."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any

_MISSING = object()


@functools.cache
def _tensorflow() -> Any:
    import tensorflow  # slow, and not needed for --help or invalid files

    return tensorflow


def _find(names: Sequence[str], v1: bool) -> Any:
    """The object with a name; attributes are followed only through modules, as others may vary."""
    found = _tensorflow().compat.v1 if v1 else _tensorflow()
    for name in names:
        if not inspect.ismodule(found) and not _is_loader(found):
            break
        try:
            found = getattr(found, name)
        # Names of Keras are loaded lazily, and some no longer exist.
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
    """Whether a call of `tf.<names>` has another meaning now than in TF1.

    That is so if its arguments have other names: the 0.5 in `tf.nn.dropout(x, 0.5)` was keep_prob;
    or another order, as in `tf.nn.in_top_k`; or other defaults, as in
    `tf.random_normal_initializer`. And a condition of shape [n] chose rows in `tf.where`.

    Example: `differs(["nn", "dropout"], 2, [])`.

    Args:
        names: parts of a name that exists in both.
        positional: number of positional arguments of the call.
        keywords: names of the keyword arguments.
    """
    old, new = _find(names, True), _find(names, False)
    if old is new or not callable(old) or not callable(new):
        return False
    if tuple(names) == ("where",):
        return positional + len(keywords) > 1
    old_names, new_names = (_bound(f, positional, keywords) for f in (old, new))
    if old_names is None:
        return False
    return old_names != new_names or _other_defaults(old, new, old_names)


def _other_defaults(old: Any, new: Any, given: dict[str, Any]) -> bool:
    """Whether a parameter that a call leaves out has another default; None means the usual one."""
    before, after = (inspect.signature(f).parameters for f in (old, new))
    pairs = [(before[n].default, after[n].default) for n in before if n in after and n not in given]
    unset = (None, inspect.Parameter.empty)
    return any(a != b and not any(a is n or b is n for n in unset) for a, b in pairs)


def _bound(function: Any, positional: int, keywords: Sequence[str]) -> dict[str, Any] | None:
    """The position of the argument that each parameter gets; None if they do not bind."""
    try:
        signature = inspect.signature(function)
        bound = signature.bind_partial(*range(positional), **dict.fromkeys(keywords))
    except (TypeError, ValueError):
        return None
    return dict(bound.arguments)
