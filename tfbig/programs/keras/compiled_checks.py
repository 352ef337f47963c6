"""Checks that the arguments of compile match the model's outputs, labels and sample weights."""

import contextlib
import inspect
import os
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

import tfbig
from tfbig import _private_api
from tfbig.errors import UserError

_PACKAGE = os.path.dirname(os.path.abspath(tfbig.__file__))
_LIBRARIES = tuple(
    folder + os.sep for folder in (_PACKAGE, *map(os.path.dirname, (keras.__file__, tf.__file__)))
)
_AS_KERAS_CALLS = {
    "compute_loss": "self, x=None, y=None, y_pred=None, sample_weight=None, training=True",
    "compute_metrics": "self, x, y, y_pred, sample_weight=None",
}


def check_own_methods(model: keras.Model) -> None:
    """Refuses a custom compute_loss or compute_metrics that `fit` could not call either.

    Raises:
        UserError: the method does not accept the arguments of Keras's call.
    """
    for method, arguments in _AS_KERAS_CALLS.items():
        if not _private_api.overrides(model, method):
            continue
        signature = inspect.signature(getattr(model, method))
        keywords: dict[str, Any] = {}
        if method == "compute_metrics":
            keywords = {"sample_weight": None}
        elif "training" in signature.parameters:  # otherwise Keras omits it
            keywords = {"training": True}
        values = [None] * (3 if method == "compute_metrics" else 4)
        try:
            signature.bind(*values, **keywords)
        except TypeError as error:
            raise UserError(
                f"{type(model).__name__}.{method}{signature} cannot be called as Keras calls it "
                f"({error}); write def {method}({arguments})."
            ) from error


def check_outputs(model: keras.Model, outputs: Any, labels: Any) -> None:
    """Refuses labels that Keras would pair with the wrong outputs.

    Keras pairs the labels of a dict by position if the names do not match, so one output may
    receive the labels of another.

    Args:
        model: compiled.
        outputs: the model's outputs, a structure of KerasTensors.
        labels: structure of KerasTensors, or None.

    Raises:
        UserError: names or positions do not match. The message says what to write instead.
    """
    if _private_api.overrides(model, "compute_loss") or model.loss is None or labels is None:
        return
    count = len(keras.tree.flatten(outputs))
    if isinstance(model.loss, (list, tuple)) and count == 1 and len(model.loss) > 1:
        raise UserError(
            f"compile(loss=…) has {len(model.loss)} losses, but the model {model.name!r} has one "
            "output, and Keras would use the first loss alone; write one function that returns "
            "their sum."
        )
    if isinstance(labels, dict) and not keras.tree.is_nested(outputs):
        raise UserError(
            f"input_fn gives labels as a dict with {_listed(labels)}, but the model "
            f"{model.name!r} returns one tensor; give the labels of it alone, such as "
            f"labels[{next(iter(labels), 'name')!r}]."
        )
    names = output_names(model, outputs)
    if count == 1 or names is None:
        return
    if isinstance(labels, dict):
        # For a list of outputs, Keras refuses a dict of losses before it looks at metrics.
        by_name = isinstance(outputs, dict) or not isinstance(model.loss, dict)
        _check_names(model, names, labels, metrics=by_name)
    else:
        _check_positions(model, names, len(keras.tree.flatten(labels)))


def output_names(model: keras.Model, outputs: Any) -> list[str] | None:
    """The names of a model's outputs, ordered by position; None if they have no names.

    Args:
        model: built.
        outputs: the model's outputs, a structure of KerasTensors.
    """
    count = len(keras.tree.flatten(outputs))
    if isinstance(outputs, dict):
        return sorted(outputs) if len(outputs) == count else None
    names = getattr(model, "output_names", None)
    flat = isinstance(outputs, (list, tuple)) and len(outputs) == count
    return list(names) if flat and names and len(names) == count else None


def _check_names(model: keras.Model, names: Sequence[str], labels: dict, metrics: bool) -> None:
    wanted = [name for name, has in zip(names, _with_loss(model, names), strict=True) if has]
    surplus = [name for name in labels if name not in names]
    missing = [name for name in wanted if name not in labels]
    if surplus or missing:
        remove = f"leave out {_listed(surplus)}" if surplus else ""
        add = f"add {_listed(missing)}" if missing else ""
        raise UserError(
            f"input_fn gives labels for {_listed(labels)}, but the model {model.name!r} has the "
            f"outputs {_listed(names)}, and a loss for {_listed(wanted)}: "
            f"{' and '.join(filter(None, (remove, add)))} in the dict of labels."
        )
    unlabelled = [name for name in names if name not in labels]
    if unlabelled and metrics and _has_metrics(model):
        raise UserError(
            f"input_fn gives no labels for the output {_listed(unlabelled)}, and Keras wants one "
            "for each output where the model is compiled with metrics, of whatever output; give "
            "labels for it (its loss may be None), or leave metrics out of compile()."
        )


def _check_positions(model: keras.Model, names: Sequence[str], given: int) -> None:
    """Checks labels without names. If they are fewer than the outputs, Keras may mismatch them.

    Keras passes them to the metrics of the first outputs, whichever outputs they belong to.
    """
    if given >= len(names) or not _has_metrics(model):
        return
    arguments = _private_api.compile_arguments(model)
    has_loss = _with_loss(model, names)
    later = False
    for of_all in (arguments["metrics"], arguments["weighted_metrics"]):
        if isinstance(of_all, dict):
            later |= any(of_all.get(name) for name in names[given:])
        elif isinstance(of_all, (list, tuple)):
            later |= any(of_all[given:])
    if later or has_loss != [i < given for i in range(len(names))]:
        raise UserError(
            f"input_fn gives {given} label tensor(s) for the outputs {_listed(names)}, and Keras "
            "would pass them to the metrics of the first outputs, whichever outputs they belong "
            "to; give labels for all of them (their loss may be None), or leave metrics out of "
            "compile()."
        )


def _with_loss(model: keras.Model, names: Sequence[str]) -> list[bool]:
    """For each output whether it has a loss."""
    loss = model.loss
    if isinstance(loss, dict):
        return [loss.get(name) is not None for name in names]
    if isinstance(loss, (list, tuple)) and len(loss) == len(names):
        return [one is not None for one in loss]
    return [True] * len(names)


def _has_metrics(model: keras.Model) -> bool:
    return _private_api.compiled_metrics(model) is not None


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "none"


@contextlib.contextmanager
def errors_of_compile(model: keras.Model, labels: Any, weight: Any) -> Iterator[None]:
    """Converts Keras's errors about compile's arguments and labels to a UserError.

    An error that is raised in a loss or metric of the user passes unchanged.

    Args:
        model: compiled.
        labels, weight: structures of KerasTensors, or None.

    Raises:
        UserError: it shows the arguments of compile and the shapes of the labels.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError) or _is_of_user(error):
            raise
        reason = " ".join(str(error.args[0] if error.args else error).split()).removesuffix(".")
        if isinstance(error, KeyError) and " " not in reason:
            reason = f"one of them has no entry {error.args[0]!r}"
        arguments = _private_api.compile_arguments(model)
        compiled = ", ".join(
            f"{name}={arguments[name]!r}"
            for name in ("loss", "loss_weights", "metrics", "weighted_metrics")
            if arguments.get(name) is not None
        )
        given = str(keras.tree.map_structure(lambda t: tuple(t.shape), labels))
        if weight is not None:
            shapes = keras.tree.map_structure(lambda t: tuple(t.shape), weight)
            given += f" with sample_weight {shapes}"
        raise UserError(
            f"compile({compiled}) does not match the outputs of the model {model.name!r} and "
            f"the labels that input_fn gives, {given}: {reason[:400]}. Give loss, loss_weights and "
            "metrics an entry for each output (None where there is none), and labels for each "
            "output that has a loss or a metric; sample_weight is one tensor, or one per output."
        ) from error


def _is_of_user(error: Exception) -> bool:
    """Whether the traceback contains code outside Keras, TensorFlow and tfbig."""
    files = [os.path.abspath(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    standard = sysconfig.get_paths()["stdlib"]
    return not all(
        path.startswith(_LIBRARIES)
        or f"{os.sep}optree{os.sep}" in path
        or (path.startswith(standard) and "site-packages" not in path)
        for path in files
    )


def match_sample_weights(model: keras.Model, outputs: Any, weights: Any) -> Any:
    """Arranges sample weights in the structure of the outputs, which compiled losses expect.

    Keras does this for labels in a dict by name or in a tuple by position, but fails on sample
    weights in the same form.

    Args:
        model: compiled.
        outputs: the model's outputs, a structure of tensors.
        weights: one array for all outputs, or a dict or tuple with one per output, or None.

    Raises:
        UserError: there are several weights, but not one per output with a loss.
    """
    if not keras.tree.is_nested(weights) or _private_api.overrides(model, "compute_loss"):
        return weights
    names = _names_or_indices(model, outputs)
    wanted = _names_with_loss(model, names)
    if isinstance(weights, dict):
        given = weights
        fits = set(wanted) <= set(weights) <= set(names)
    else:
        fits = len(weights) in (len(names), len(wanted))
        given = dict(zip(names if len(weights) == len(names) else wanted, weights, strict=False))
    if not fits:
        shown = ", ".join(map(repr, weights)) if isinstance(weights, dict) else f"{len(weights)}"
        raise UserError(
            f"input_fn gives sample weights for several outputs ({shown}), but the model "
            f"{model.name!r} has a loss for {', '.join(map(repr, wanted))}; give one array for "
            "all, or one for each of these (ones for an output that is not weighted)."
        )
    if not keras.tree.is_nested(outputs):
        return given[names[0]]
    if isinstance(outputs, dict):
        return dict(given)
    return keras.tree.pack_sequence_as(outputs, [given.get(name) for name in names])


def _names_or_indices(model: keras.Model, outputs: Any) -> list:
    """The names of the outputs, ordered by position; their indices if they have no names."""
    if isinstance(outputs, dict):
        return sorted(outputs)
    count = len(keras.tree.flatten(outputs))
    names = getattr(model, "output_names", None) or ()
    return list(names) if len(names) == count else list(range(count))


def _names_with_loss(model: keras.Model, names: list) -> list:
    loss = model.loss
    if isinstance(loss, dict):
        return [name for name in names if loss.get(name) is not None]
    if isinstance(loss, (list, tuple)) and len(loss) == len(names):
        return [name for name, each in zip(names, loss, strict=True) if each is not None]
    return names
