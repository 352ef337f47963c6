"""Estimator.export_saved_model: a model_fn in PREDICT mode as a SavedModel."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.estimator.export import ServingInputReceiver, checked_receiver, identifier
from tfbig.estimator.placing import placement_of, writes
from tfbig.estimator.signatures import Signature, signatures_of, with_methods
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.serving.checker import CHECKER
from tfbig.serving.export_check import check_signatures
from tfbig.serving.samples import values_of_graph
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint

log = logging.getLogger("tfbig")


def export(
    estimator: Any,
    base: str,
    serving_input_receiver_fn: Callable[[], Any],
    *,
    assets_extra: dict[str, str] | None,
    checkpoint: Any,
) -> str:
    """As `Estimator.export_saved_model`; in a cluster the chief writes, and others do nothing."""
    if not callable(serving_input_receiver_fn):
        raise UserError(
            "export_saved_model: serving_input_receiver_fn must be defined; "
            "tfbig.estimator.export.build_raw_serving_input_receiver_fn(…) makes one."
        )
    if not writes(placement_of(estimator)):
        return base
    path = estimator.checkpoint(checkpoint)
    CHECKER.start()  # which imports TensorFlow meanwhile
    module, functions, methods, graph = _module(estimator, path, serving_input_receiver_fn)
    os.makedirs(base, exist_ok=True)
    folder = _timestamped(base)
    temporary = os.path.join(base, f"temp-{os.path.basename(folder)}")
    try:
        tf.saved_model.save(module, temporary, signatures=functions)
        with_methods(temporary, methods)
        for name, source in (assets_extra or {}).items():
            _copy(source, os.path.join(temporary, "assets.extra", name))
        check_signatures(temporary, base, functions, values_of_graph(graph))
        os.rename(temporary, folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"export to {base!r} failed: {reason}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("SavedModel written to: %s, of %s", folder, path)
    return folder


def _module(
    estimator: Any, path: str, serving_input_receiver_fn: Callable
) -> tuple[tf.Module, dict[str, Any], dict[str, str], tf.Graph]:
    """A module with the variables, its functions by signature, their methods, and the graph."""
    config = estimator.config
    precision = config.precision
    if precision == "float32":  # the default; a policy that the user has set stays
        precision = keras.config.dtype_policy().name
    program = ModelFnProgram(
        estimator.model_fn, estimator.params, config, contextlib.nullcontext, precision
    )
    made: dict[str, Any] = {}

    def trace() -> Any:
        made["receiver"] = receiver = checked_receiver(serving_input_receiver_fn())
        flat = tf.nest.flatten(receiver.features)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in flat]
        structure = tf.nest.pack_sequence_as(receiver.features, specs)
        with program.tracing():
            program.build_prediction(structure, lambda fn, _: (fn(*flat), set())[1])
            made["spec"] = program.prediction_spec(receiver.features)
        return tf.zeros([])

    with tf.device("CPU:0"):
        graph = tf.compat.v1.wrap_function(trace, signature=[])
    receiver: ServingInputReceiver = made["receiver"]
    variables = program.named_variables()
    values = NamedCheckpoint(path).values_for(variables)
    for name, value in values.items():
        variables[name].assign(value)
    signatures = signatures_of(made["spec"], receiver)
    module = tf.Module()
    module.model_variables = {name.replace(".", "_"): v for name, v in variables.items()}
    module.tables = list(program.tables)
    functions = {name: _served(graph, s, variables) for name, s in signatures.items()}
    return module, functions, {name: s.method for name, s in signatures.items()}, graph.graph


def _served(graph: Any, signature: Signature, variables: dict[str, tf.Variable]) -> Any:
    """The function of a signature, whose arguments have the receiver tensors' names."""
    names = list(signature.inputs)
    tensors = [signature.inputs[name] for name in names]
    outputs = list(signature.outputs)
    pruned = graph.prune(tensors, [signature.outputs[name] for name in outputs])

    used = {id(tensor) for tensor in pruned.captured_inputs}
    handles = {name: v.handle for name, v in variables.items() if id(v.handle) in used}

    def serve(**given: Any) -> Any:
        for name, handle in handles.items():  # else they are captured under numbers
            tf.compat.v1.get_default_graph().capture(handle, name=identifier(name))
        found = pruned(*(given[name] for name in names))
        return dict(zip(outputs, found, strict=True))

    specs = {n: tf.TensorSpec(t.shape, t.dtype, name=n) for n, t in signature.inputs.items()}
    return tf.function(serve, autograph=False).get_concrete_function(**specs)


def _timestamped(base: str) -> str:
    """A folder that is not there yet, named by the time in seconds."""
    now = int(time.time())
    while os.path.exists(os.path.join(base, str(now))):
        now += 1
    return os.path.join(base, str(now))


def _copy(source: str, target: str) -> None:
    if not os.path.isfile(source):
        raise UserError(f"export_saved_model: assets_extra has {source!r}, which is no file.")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)
