"""Estimator.export_saved_model: writes a model_fn in PREDICT mode as a SavedModel."""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.export import ServingInputReceiver, checked_receiver, identifier
from tfbig.estimator.loading import placement_outside_training, writes_results
from tfbig.layers.sparse_rows import with_rows
from tfbig.programs.model_fn.export_output import PredictOutput
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.serving.checker import CHECKER
from tfbig.serving.export_check import check_signatures
from tfbig.serving.samples import values_of_graph
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint
from tfbig.training.model import precision_of

log = logging.getLogger("tfbig")

_DEFAULT = "serving_default"
_PREDICT = "tensorflow/serving/predict"


class Signature(NamedTuple):
    """The tensors of one signature by name, and its TensorFlow Serving method."""

    inputs: dict[str, tf.Tensor]
    outputs: dict[str, tf.Tensor]
    method: str


def export(
    estimator: Any,
    base: str,
    serving_input_receiver_fn: Callable[[], Any],
    *,
    assets_extra: dict[str, str] | None,
    checkpoint: Any,
) -> str:
    """Does the work of `Estimator.export_saved_model`; in a cluster, only the chief writes."""
    if not callable(serving_input_receiver_fn):
        raise UserError(
            "export_saved_model: serving_input_receiver_fn must be defined; "
            "tfbig.estimator.export.build_raw_serving_input_receiver_fn(…) makes one."
        )
    if not writes_results(placement_outside_training(estimator)):
        return base
    path = estimator.checkpoint(checkpoint)
    CHECKER.start()  # its process imports TensorFlow during the export
    module, functions, methods, graph = _module(estimator, path, serving_input_receiver_fn)
    os.makedirs(base, exist_ok=True)
    folder = _timestamped(base)
    temporary = os.path.join(base, f"temp-{os.path.basename(folder)}")
    try:
        tf.saved_model.save(module, temporary, signatures=functions)
        set_methods(temporary, methods)
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
    return ExportPath(folder)


class ExportPath(str):
    """A path as a string, with the `decode` of the bytes that tf.estimator returned."""

    __slots__ = ()

    def decode(self, *_: Any) -> str:
        """Returns the path."""
        return str(self)


def _module(
    estimator: Any, path: str, serving_input_receiver_fn: Callable
) -> tuple[tf.Module, dict[str, Any], dict[str, str], tf.Graph]:
    """Returns a module with the variables, its functions and methods by signature, and a graph."""
    config = estimator.config
    program = ModelFnProgram(
        estimator.given_model_fn,
        estimator.params,
        config,
        contextlib.nullcontext,
        precision_of(config),
    )
    traced: dict[str, Any] = {}

    def trace() -> Any:
        traced["receiver"] = receiver = checked_receiver(serving_input_receiver_fn())
        features = with_rows(receiver.features)
        flat = tf.nest.flatten(features)
        specs = [tf.TensorSpec(t.shape, t.dtype) for t in flat]
        structure = tf.nest.pack_sequence_as(features, specs)
        with program.tracing():
            program.build_prediction(structure, lambda fn, _: (fn(*flat), set())[1])
            traced["spec"] = program.prediction_spec(features)
        return tf.zeros([])

    with tf.device("CPU:0"):
        graph = tf.compat.v1.wrap_function(trace, signature=[])
    receiver: ServingInputReceiver = traced["receiver"]
    variables = program.named_variables()
    values = NamedCheckpoint(path).values_for(variables)
    for name, value in values.items():
        variables[name].assign(value)
    signatures = signatures_of(traced["spec"], receiver)
    module = tf.Module()
    module.model_variables = {name.replace(".", "_"): v for name, v in variables.items()}
    module.tables = list(program.tables)
    functions = {name: _serving_function(graph, s, variables) for name, s in signatures.items()}
    return module, functions, {name: s.method for name, s in signatures.items()}, graph.graph


def _serving_function(graph: Any, signature: Signature, variables: dict[str, tf.Variable]) -> Any:
    """Returns the function of a signature; its arguments have the names of the receiver tensors."""
    names = list(signature.inputs)
    tensors = [signature.inputs[name] for name in names]
    outputs = list(signature.outputs)
    pruned = graph.prune(tensors, [signature.outputs[name] for name in outputs])

    used = {id(tensor) for tensor in pruned.captured_inputs}
    handles = {name: v.handle for name, v in variables.items() if id(v.handle) in used}

    def serve(**given: Any) -> Any:
        for name, handle in handles.items():  # otherwise captures get numbers for names
            tf.compat.v1.get_default_graph().capture(handle, name=identifier(name))
        values = pruned(*(given[name] for name in names))
        return dict(zip(outputs, values, strict=True))

    specs = {n: tf.TensorSpec(t.shape, t.dtype, name=n) for n, t in signature.inputs.items()}
    return tf.function(serve, autograph=False).get_concrete_function(**specs)


def _timestamped(base: str) -> str:
    """Returns the path of a new folder, named by the time in seconds."""
    now = int(time.time())
    while os.path.exists(os.path.join(base, str(now))):
        now += 1
    return os.path.join(base, str(now))


def _copy(source: str, target: str) -> None:
    if not os.path.isfile(source):
        raise UserError(f"export_saved_model: assets_extra has {source!r}, which is not a file.")
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copy(source, target)


def signatures_of(spec: Any, receiver: ServingInputReceiver) -> dict[str, Signature]:
    """Returns all signatures of a spec by name, with the names that tf.estimator gives them.

    Args:
        spec: an EstimatorSpec in PREDICT mode.
        receiver: the result of `checked_receiver`.

    Raises:
        UserError: the spec has several outputs, and none of them is the default.
    """
    outputs = dict(spec.export_outputs or {_DEFAULT: PredictOutput(spec.predictions)})
    if _DEFAULT not in outputs and len(outputs) == 1:
        outputs[_DEFAULT] = next(iter(outputs.values()))
    if _DEFAULT not in outputs:
        raise UserError(
            f"Multiple `export_outputs` were provided ({', '.join(outputs)}), but none of them is "
            f"specified as the default; name one of them {_DEFAULT!r}."
        )
    signatures = {}
    for name, output in outputs.items():
        signatures[name] = _signature(name, output, receiver.receiver_tensors)
        for other, tensors in (receiver.receiver_tensors_alternatives or {}).items():
            signatures[f"{other}:{name}"] = _signature(name, output, tensors)
    return signatures


def set_methods(folder: str, methods: dict[str, str]) -> None:
    """Sets the methods of a SavedModel's signatures; TensorFlow writes "predict" for all.

    Args:
        folder: the folder of the SavedModel.
        methods: the method's name by signature.
    """
    if all(method == _PREDICT for method in methods.values()):
        return
    _private_api.set_signature_methods(os.path.join(folder, "saved_model.pb"), methods)
    fingerprint = os.path.join(folder, "fingerprint.pb")  # its checksum covers the signatures
    if os.path.exists(fingerprint):
        os.remove(fingerprint)


def _signature(name: str, output: Any, inputs: dict[str, tf.Tensor]) -> Signature:
    method = output.method_name
    if method == _PREDICT:
        return Signature(inputs, output.outputs(), method)
    only = list(inputs.values())
    if len(only) == 1 and only[0].dtype == tf.string:
        return Signature({"inputs": only[0]}, output.outputs(), method)
    log.warning(
        "the signature %r takes %s, but TensorFlow Serving's %s calls send only serialized "
        "tf.Examples; it is exported for predict calls",
        name,
        ", ".join(inputs),
        method.rsplit("/", 1)[1],
    )
    return Signature(inputs, output.outputs(), _PREDICT)
