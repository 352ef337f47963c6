"""Checks of a Keras model and its batches, before training and after a step has failed."""

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.feature_matching import match_features


def check_model(model: keras.Model, custom_steps: bool = False) -> None:
    """Refuses a model if the training loop would have to ignore a part of it.

    Args:
        model: to be trained.
        custom_steps: whether the model's own train_step and test_step are run.

    Raises:
        UserError: one line that names the part, and says what to write instead.
    """
    custom = custom_steps and _private_api.overrides(model, "train_step")
    if not model.compiled or (model.optimizer is None and not custom):
        raise UserError(
            f"the model {model.name!r} is not compiled; call "
            'model.compile(optimizer="adam", loss=…) before it is returned or passed.'
        )
    for method, instead in (
        ("train_step", "override compute_loss instead, or write an estimator-style model_fn"),
        ("test_step", "override compute_loss or compute_metrics instead"),
    ):
        if not custom_steps and _private_api.overrides(model, method):
            raise UserError(
                f"{type(model).__name__} has its own {method}, which tfbig's loop would not "
                f"call; {instead}."
            )
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if getattr(inner, "gradient_accumulation_steps", None) and not custom:
        raise UserError(
            f"optimizer gradient_accumulation_steps={inner.gradient_accumulation_steps}: Keras's "
            "own accumulation fails under tf.distribute; leave it None and write "
            f"RunConfig(accumulation_steps={inner.gradient_accumulation_steps})."
        )
    if getattr(model, "run_eagerly", False):
        raise UserError(
            "the model is compiled with run_eagerly=True, but tfbig's loop is traced; leave it "
            "out of compile()."
        )


def check_labels(model: keras.Model, outputs: Any, labels: Any) -> None:
    """Compares the shapes of labels and outputs, for losses whose rule is known.

    Args:
        model: compiled.
        outputs: the model's outputs, a structure of KerasTensors.
        labels: structure of KerasTensors of shape [None, …].

    Raises:
        UserError: a shape is certainly wrong. Keras would broadcast it or fail inside the loss.
    """
    if model.loss is None or _private_api.overrides(model, "compute_loss"):
        return
    if labels is None:
        raise UserError(
            "input_fn gives no labels, but the model is compiled with a loss; return (features, "
            "labels) from input_fn, or leave loss out of compile() and use add_loss."
        )
    given, count = len(keras.tree.flatten(labels)), len(keras.tree.flatten(outputs))
    if given > count:
        raise UserError(
            f"input_fn gives {given} labels, but the model has {count} output(s); give one label "
            "tensor for each output with a loss."
        )
    for loss, _, label, shape in _with_outputs(model, outputs, labels):
        _check_label(loss_name(loss), tuple(label.shape), shape)


def check_features(model: keras.Model, features: Any) -> None:
    """Compares dtypes of features with the inputs of a model, and the shape if there is one input.

    Raises:
        UserError: the model would fail inside one of its layers.
    """
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    flat = keras.tree.flatten(features)
    for path, tensor in flatten_with_names(features):
        if tensor is None:  # an optional input
            continue
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        accepted = {keras.backend.standardize_dtype(one.dtype) for one in inputs}
        if inputs and dtype.startswith(("string", "complex")) and dtype not in accepted:
            where = f"features[{path!r}]" if path else "features"
            raise UserError(
                f"input_fn gives {where} of dtype {dtype}, but the model {model.name!r} takes "
                f"{' and '.join(sorted(accepted))}; turn them into numbers in input_fn."
            )
    if inputs and len(flat) > len(inputs) and not isinstance(features, dict):
        raise _wrong_features(model, features, None)  # Keras would ignore some of them
    if len(inputs) != 1 or len(flat) != 1:
        return
    expected, given = tuple(inputs[0].shape), tuple(flat[0].shape)
    # Keras itself adds or removes a last dimension of 1.
    shapes = (given, (*given, 1), given[:-1] if given[-1] == 1 else given)
    if not any(_compatible(expected, shape) for shape in shapes):
        raise UserError(
            f"input_fn gives features of shape {_shown(given)}, but the model {model.name!r} "
            f"expects {_shown(expected)}."
        )


def checked_outputs(model: keras.Model, features: Any) -> Any:
    """Calls a model with KerasTensors of features, and returns those of its outputs.

    Raises:
        UserError: the model does not accept the shapes or the structure of the features.
    """
    features = match_features(model, features)
    check_features(model, features)
    try:
        return _private_api.output_spec(model, features)
    except (ValueError, TypeError) as error:  # a layer is called with wrong arguments
        raise _wrong_features(model, features, error) from error


def _wrong_features(model: keras.Model, features: Any, error: Exception | None) -> UserError:
    given = [(path, tuple(t.shape)) for path, t in flatten_with_names(features)]
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    takes = [(t.name if len(inputs) > 1 else "", tuple(t.shape)) for t in inputs]
    advice = f"it takes {_listed(takes)}" if takes else f"Keras says: {_first_sentence(error)}"
    return UserError(
        f"the model {model.name!r} cannot be called with the features of input_fn, "
        f"{_listed(given)}; {advice}. Let input_fn give what the model takes."
    )


def _listed(named: list[tuple[str, tuple]]) -> str:
    """Names and shapes in readable form: "a (batch, 6) and b (batch, 2)"."""
    return " and ".join(f"{name} {_shown(shape)}".strip() for name, shape in named)


def _first_sentence(error: Exception) -> str:
    """The first sentence of Keras's message, without arguments of the layer and color codes."""
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    text = re.sub(r"Exception encountered when calling .*?\n\n", "", text)
    return " ".join(text.split()).split(". ")[0].split(" Arguments received")[0].rstrip(".")


def _check_label(loss: str, label: tuple, output: tuple) -> None:
    expected = None
    if loss == "sparse_categorical_crossentropy":
        if label not in (output[:-1], (*output[:-1], 1)) and not _compatible(label, output[:-1]):
            expected = f"{_shown(output[:-1])}, class numbers from 0 to {output[-1]} - 1"
            if label == output:
                expected += "; for one-hot labels compile with categorical_crossentropy"
    elif loss in ("categorical_crossentropy", "mean_squared_error", "mean_absolute_error",
                  "mse", "mae", "binary_crossentropy", "kl_divergence", "huber"):  # fmt: skip
        squeezed = output[:-1] if output[-1] == 1 else output
        extended = (*output, 1)
        if not any(_compatible(label, shape) for shape in (output, squeezed, extended)):
            expected = _shown(output)
    if expected:
        raise UserError(
            f"labels have the shape {_shown(label)}, but {loss} on an output of shape "
            f"{_shown(output)} expects {expected}."
        )


def explain_keras_batch(model: keras.Model, outputs: Any, features: Any, labels: Any) -> str | None:
    """Describes what in a batch makes the loss infinite or NaN, or None.

    Args:
        model: compiled.
        outputs: the model's outputs, a structure of KerasTensors.
        features, labels: structures of NumPy arrays of shape [n, …].
    """
    # A custom compute_loss may use features that no input takes.
    if not _private_api.overrides(model, "compute_loss"):
        features = match_features(model, features)
    found = explain_numbers("features", features) or explain_numbers("labels", labels)
    if found or labels is None:
        return found
    for loss, path, label, shape in _with_outputs(model, outputs, labels):
        name = f"labels[{path!r}]" if path else "labels"
        if np.asarray(label).dtype.kind in "OSU":
            return (
                f"{name} are strings; map them to numbers, say by np.searchsorted(classes, labels)"
            )
        if loss_name(loss) == "sparse_categorical_crossentropy" and shape[-1]:
            ignored = label == getattr(loss, "ignore_class", None)
            broken = np.argwhere((label % 1 != 0) & ~ignored)
            if len(broken):
                return (
                    f"{name} has {label[tuple(broken[0])]:g} in example {broken[0][0]} of the "
                    "batch, but class numbers are whole; to predict numbers give the model a head "
                    'for regression (Recipe(head="regression"), or a loss such as "mse")'
                )
            wrong = np.argwhere(((label < 0) | (label >= shape[-1])) & ~ignored)
            if len(wrong):
                return (
                    f"{name} has class {label[tuple(wrong[0])]} in example {wrong[0][0]} of the "
                    f"batch, but the model has {shape[-1]} classes: 0 to {shape[-1] - 1}"
                )
    return None


def explain_numbers(name: str, structure: Any) -> str | None:
    """Names the first array with a NaN or an infinity, and the index of its example, or None."""
    if structure is None:
        return None
    for path, array in flatten_with_names(structure):
        array = np.asarray(array)
        if array.dtype.kind != "f":
            continue
        wrong = np.argwhere(~np.isfinite(array))
        if len(wrong):
            where = f"{name}[{path!r}]" if path else name
            value = "NaN" if np.isnan(array[tuple(wrong[0])]) else "an infinity"
            return f"{where} has {value} in example {wrong[0][0]} of the batch"
    return None


def with_nan_of(features: Any, terms: list) -> list:
    """Makes the loss NaN if a feature is NaN or infinite.

    On CPUs the relu of NaN is 0, so the loss of an evaluation would be finite. Training finds the
    NaN in the gradients.
    """
    floats = [t for t in tf.nest.flatten(features) if t is not None and t.dtype.is_floating]
    if not floats:
        return terms
    finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in floats])
    total = tf.where(finite, terms[0].total, float("nan"))
    return [terms[0]._replace(total=total), *terms[1:]]


def flatten_with_names(structure: Any) -> list[tuple[str, Any]]:
    """The leaves of a structure, each with its path as text: "image", "meta/width", "0"."""
    flat = keras.tree.flatten_with_path(structure)
    return [("/".join(map(str, path)), leaf) for path, leaf in flat]


def _with_outputs(model: keras.Model, outputs: Any, labels: Any) -> list[tuple]:
    """Matches losses with labels and outputs; [] if the match is ambiguous.

    Returns:
        (loss, the label's name, label, the output's shape) for each output with a loss.
    """
    flat = keras.tree.flatten(outputs)
    names = sorted(outputs) if isinstance(outputs, dict) else getattr(model, "output_names", None)
    losses = _in_order(model.loss, names, len(flat))
    given = _in_order(labels, names, len(flat))
    if losses is None or given is None:
        return []
    paths = [path for path, _ in flatten_with_names(labels)]
    if isinstance(labels, dict):
        paths = names
    return [
        (loss, path, label, tuple(output.shape))
        for loss, path, label, output in zip(losses, paths, given, flat, strict=False)
        if loss is not None and label is not None
    ]


def _in_order(structure: Any, names: list[str] | None, count: int) -> list | None:
    """One entry per output, matched by name or position; None if the match is ambiguous."""
    if isinstance(structure, dict):
        known = names is not None and len(names) == count and set(structure) <= set(names)
        return [structure.get(name) for name in names] if known else None
    flat = keras.tree.flatten(structure)
    if len(flat) == 1:
        flat = flat * count
    return flat if len(flat) == count else None


def loss_name(loss: Any) -> str:
    """The name of a loss function, such as "mean_squared_error"; "" if it has none.

    Args:
        loss: an argument of compile for one output.
    """
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return ""
    fn = getattr(loss, "fn", loss)
    return getattr(fn, "__name__", "")


def _compatible(first: tuple, second: tuple) -> bool:
    return len(first) == len(second) and all(
        a is None or b is None or a == b for a, b in zip(first, second, strict=True)
    )


def _shown(shape: tuple) -> str:
    return "(" + ", ".join("batch" if d is None else str(d) for d in shape) + ")"
