"""Checks an export by calls whose outputs must equal those of the model."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.feature_matching import match_features
from tfbig.serving.checker import Call, check_saved_model
from tfbig.serving.samples import as_tensors, error_text, find_sample, known_values

log = logging.getLogger("tfbig")


def check_keras_export(
    folder: str,
    target: str,
    model: keras.Model,
    preprocessing: Sequence[Callable],
    specs: list,
    example: Any,
) -> None:
    """Compares an exported Keras model's `serve` and default signature with the model.

    Args:
        folder: the folder of the SavedModel.
        target: the folder to which it will be moved, for error messages.
        model: the exported model.
        preprocessing: the functions before the model, in order.
        specs: the arguments of `serve`, structures of tf.TensorSpecs.
        example: a batch, or None to generate one.

    Raises:
        UserError: the SavedModel computes something else.
    """

    def reference(arguments):
        first, *others = arguments
        for step in preprocessing:
            first = step(first)
        first = match_features(model, first, log_unused=False)
        # The scope keeps seeds and states of the model unchanged, except for the second call.
        with tf.device("CPU:0"), keras.StatelessScope():
            return model(first, *others), model(first, *others)

    if example is not None:
        sample: Any = _with_example(specs, example, reference)
    else:
        sample = find_sample(specs, reference, *known_values(model))
    calls = []
    if isinstance(sample, str):
        _warn(target, sample, "; pass example=, a batch that it accepts")
    else:
        inputs, (outputs, repeated) = sample
        random = _differ(outputs, repeated)
        if random:
            log.info("export: the model's outputs are random, so only their shapes are compared")
        calls.append(Call(None, inputs, _arrays(outputs), random))
        names = [spec.name for spec in tf.nest.flatten(specs)]
        named = _named_outputs(outputs)
        # Several inputs without names, as in a subclassed model, are ambiguous in a signature.
        if named is not None and (len(names) == 1 or None not in names):
            flat = dict(zip(names, tf.nest.flatten(inputs), strict=True))
            calls.append(Call("serving_default", flat, named, random))
    dtypes = {layer.compute_dtype for layer in _private_api.flatten_layers(model)}
    _check(folder, target, calls, bool(dtypes & {"float16", "bfloat16"}))


def check_signatures(
    folder: str, target: str, functions: dict[str, Any], strings: Sequence[Sequence[bytes]]
) -> None:
    """Compares the signatures of an exported model_fn with the functions they were made from.

    Args:
        folder, target: as in `check_keras_export`.
        functions: concrete functions of named tensors, by signature.
        strings: lists of string values that the inputs may accept.

    Raises:
        UserError: a signature computes something else.
    """
    calls, half = [], False
    for name, function in functions.items():
        specs = function.structured_input_signature[1]
        sample = find_sample(specs, lambda given, function=function: function(**given), strings)
        if isinstance(sample, str):
            _warn(f"{target}, signature {name!r}", sample, "")
            continue
        inputs, outputs = sample
        random = _differ(outputs, function(**as_tensors(inputs, specs)))
        calls.append(Call(name, inputs, {k: v.numpy() for k, v in outputs.items()}, random))
        half |= any(v.dtype in (tf.float16, tf.bfloat16) for v in function.variables)
        half |= keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    _check(folder, target, calls, half)


def _check(folder: str, target: str, calls: list[Call], half: bool) -> None:
    try:
        check_saved_model(folder, calls, half)
    except UserError as error:
        raise UserError(
            f"export to {target!r}: the SavedModel does not compute what the model does when "
            f"another process loads it: {error}. It was deleted."
        ) from error


def _with_example(specs: list, example: Any, reference: Callable) -> tuple[Any, Any]:
    """Returns the example as the arguments of `serve`, and the outputs of the model for it."""
    try:
        arguments = tf.nest.map_structure(
            lambda spec, value: np.asarray(
                value, object if spec.dtype == tf.string else spec.dtype.as_numpy_dtype
            ),
            specs,
            [example] if len(specs) == 1 else list(example),
        )
        return arguments, reference(as_tensors(arguments, specs))
    except (TypeError, ValueError, tf.errors.OpError) as error:
        kinds = tf.nest.map_structure(lambda s: f"{s.dtype.name}{s.shape}", specs)
        raise UserError(
            f"export: the model does not accept example= ({error_text(error)}); "
            f"pass a batch of {kinds[0] if len(kinds) == 1 else kinds}."
        ) from error


def _warn(target: str, reason: str, advice: str) -> None:
    log.warning(
        "export to %s: another process loads it but does not call it, because the model accepts no "
        "generated batch (%s)%s",
        target,
        reason,
        advice,
    )


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [np.asarray(t) for t in tf.nest.flatten(outputs, expand_composites=True)]


def _differ(first: Any, second: Any) -> bool:
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    return not all(
        a.shape == b.shape and (a.tobytes() == b.tobytes() or np.array_equal(a, b))
        for a, b in pairs
    )


def _named_outputs(outputs: Any) -> dict[str, np.ndarray] | None:
    """Returns outputs by their names in Keras's signature; None if they are nested."""
    if isinstance(outputs, dict):
        named = dict(outputs)
    elif isinstance(outputs, (list, tuple)):
        named = {f"output_{number}": value for number, value in enumerate(outputs)}
    else:
        named = {"output_0": outputs}
    if not all(isinstance(value, tf.Tensor) for value in named.values()):
        return None
    return {str(name): value.numpy() for name, value in named.items()}
