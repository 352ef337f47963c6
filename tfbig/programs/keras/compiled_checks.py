"""How a compiled model's losses, metrics and own methods go together with outputs and labels."""

import contextlib
import inspect
import os
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_LIBRARIES = tuple(
    folder + os.sep for folder in (_OWN, *map(os.path.dirname, (keras.__file__, tf.__file__)))
)
_AS_KERAS_CALLS = {
    "compute_loss": "self, x=None, y=None, y_pred=None, sample_weight=None, training=True",
    "compute_metrics": "self, x, y, y_pred, sample_weight=None",
}


def check_own_methods(model: keras.Model) -> None:
    """Refuses a model's own compute_loss or compute_metrics that `fit` could not call either.

    Raises:
        UserError: it has other arguments than it is called with.
    """
    for method, arguments in _AS_KERAS_CALLS.items():
        if not _private_api.overrides(model, method):
            continue
        signature = inspect.signature(getattr(model, method))
        keywords: dict[str, Any] = {}
        if method == "compute_metrics":
            keywords = {"sample_weight": None}
        elif "training" in signature.parameters:  # else Keras leaves it out
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
    """Refuses labels that would not get to the outputs that they are named after.

    Keras takes the labels of a dict by their place where the names do not fit, so one output's
    labels may become another's.

    Args:
        outputs: what the model returns, a structure of KerasTensors.
        labels: structure of KerasTensors, or None.

    Raises:
        UserError: names or places do not fit; it says what to write.
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
        # A dict of losses for a list of outputs is refused by Keras, before it comes to metrics.
        by_name = isinstance(outputs, dict) or not isinstance(model.loss, dict)
        _check_names(model, names, labels, metrics=by_name)
    else:
        _check_places(model, names, len(keras.tree.flatten(labels)))


def output_names(model: keras.Model, outputs: Any) -> list[str] | None:
    """The names of a model's outputs in the order of their places; None: they have none.

    Args:
        outputs: what the model returns, a structure of KerasTensors.
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
        told = f"leave out {_listed(surplus)}" if surplus else ""
        add = f"add {_listed(missing)}" if missing else ""
        raise UserError(
            f"input_fn gives labels for {_listed(labels)}, but the model {model.name!r} has the "
            f"outputs {_listed(names)}, and a loss for {_listed(wanted)}: "
            f"{' and '.join(filter(None, (told, add)))} in the dict of labels."
        )
    unlabelled = [name for name in names if name not in labels]
    if unlabelled and metrics and _has_metrics(model):
        raise UserError(
            f"input_fn gives no labels for the output {_listed(unlabelled)}, and Keras wants one "
            "for each output where the model is compiled with metrics, of whatever output; give "
            "labels for it (its loss may be None), or leave metrics out of compile()."
        )


def _check_places(model: keras.Model, names: Sequence[str], given: int) -> None:
    """Of labels without names, fewer than outputs, Keras gives the first to the first metrics."""
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
            "would hand them to the metrics of the first outputs, whichever output they are of; "
            "give labels for all of them (their loss may be None), or leave metrics out of "
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
    """Turns what Keras says of compile's arguments and the labels into a UserError.

    An error that comes out of the user's own loss or metric stays as it is.

    Args:
        labels, weight: structures of KerasTensors, or None.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError) or _is_of_user(error):
            raise
        said = " ".join(str(error.args[0] if error.args else error).split()).removesuffix(".")
        if isinstance(error, KeyError) and " " not in said:
            said = f"one of them has no entry {error.args[0]!r}"
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
            f"compile({compiled}) does not go with the outputs of the model {model.name!r} and "
            f"the labels that input_fn gives, {given}: {said[:400]}. Give loss, loss_weights and "
            "metrics an entry for each output (None where there is none), and labels for each "
            "output that has a loss or a metric; sample_weight is one tensor, or as the outputs."
        ) from error


def _is_of_user(error: Exception) -> bool:
    """Whether an error went through code that is neither Keras's, TensorFlow's nor tfbig's."""
    files = [os.path.abspath(f.filename) for f in traceback.extract_tb(error.__traceback__)]
    standard = sysconfig.get_paths()["stdlib"]
    return not all(
        path.startswith(_LIBRARIES)
        or f"{os.sep}optree{os.sep}" in path
        or (path.startswith(standard) and "site-packages" not in path)
        for path in files
    )
