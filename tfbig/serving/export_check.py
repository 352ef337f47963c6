"""Which calls show that an export does what its model does, and what to say if it does not."""

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
from tfbig.serving.samples import as_tensors, known_values, said, sampled

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
        folder: where the SavedModel is.
        target: where it is to be.
        model: what was exported.
        preprocessing: what comes before it, in order.
        specs: the arguments of `serve`, structures of tf.TensorSpecs.
        example: a batch, or None.

    Raises:
        UserError: it does something else.
    """

    def reference(arguments):
        first, *others = arguments
        for step in preprocessing:
            first = step(first)
        first = match_features(model, first, log_unused=False)
        # Seeds and states that a call moves on stay as they are, but for the second call.
        with tf.device("CPU:0"), keras.StatelessScope():
            return model(first, *others), model(first, *others)

    if example is not None:
        found: Any = _with_example(specs, example, reference)
    else:
        found = sampled(specs, reference, *known_values(model))
    calls = []
    if isinstance(found, str):
        _warn(target, found, "; pass example=, a batch that it takes")
    else:
        inputs, (outputs, again) = found
        random = _differ(outputs, again)
        if random:
            log.info("export: the model's outputs are random, so only their shapes are compared")
        calls.append(Call(None, inputs, _arrays(outputs), random))
        names = [spec.name for spec in tf.nest.flatten(specs)]
        named = _named_outputs(outputs)
        # Several inputs without names, as of a subclass, cannot be told apart in a signature.
        if named is not None and (len(names) == 1 or None not in names):
            flat = dict(zip(names, tf.nest.flatten(inputs), strict=True))
            calls.append(Call("serving_default", flat, named, random))
    dtypes = {layer.compute_dtype for layer in _private_api.flatten_layers(model)}
    _check(folder, target, calls, bool(dtypes & {"float16", "bfloat16"}))


def check_signatures(
    folder: str, target: str, functions: dict[str, Any], strings: Sequence[Sequence[bytes]]
) -> None:
    """Compares the signatures of an exported model_fn with the functions that they were made of.

    Args:
        folder, target: as above.
        functions: concrete functions of named tensors, by signature.
        strings: lists of strings that they may take.

    Raises:
        UserError: one does something else.
    """
    calls, half = [], False
    for name, function in functions.items():
        specs = function.structured_input_signature[1]
        found = sampled(specs, lambda given, function=function: function(**given), strings)
        if isinstance(found, str):
            _warn(f"{target}, signature {name!r}", found, "")
            continue
        inputs, outputs = found
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
            f"export to {target!r}: the SavedModel that was written does not do what the model "
            f"does when another process loads it: {error}. It was removed again."
        ) from error


def _with_example(specs: list, example: Any, reference: Callable) -> tuple[Any, Any]:
    """The example as the arguments of `serve`, and what the model returns for it."""
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
            f"export: the model cannot take example= ({said(error)}); give "
            f"a batch of what it takes, {kinds[0] if len(kinds) == 1 else kinds}."
        ) from error


def _warn(target: str, reason: str, advice: str) -> None:
    log.warning(
        "export to %s: it is loaded by another process, but not called, since the model takes no "
        "made-up batch (%s)%s",
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
    """Outputs under the names that Keras's signature gives them, or None: they are nested."""
    if isinstance(outputs, dict):
        named = dict(outputs)
    elif isinstance(outputs, (list, tuple)):
        named = {f"output_{number}": value for number, value in enumerate(outputs)}
    else:
        named = {"output_0": outputs}
    if not all(isinstance(value, tf.Tensor) for value in named.values()):
        return None
    return {str(name): value.numpy() for name, value in named.items()}
