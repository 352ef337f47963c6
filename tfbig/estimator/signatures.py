"""The signatures of an exported model_fn, with the names that tf.estimator gave them."""

import logging
import os
from typing import Any, NamedTuple

import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.estimator.export import ServingInputReceiver
from tfbig.programs.model_fn.export_output import PredictOutput

log = logging.getLogger("tfbig")

_DEFAULT = "serving_default"
_PREDICT = "tensorflow/serving/predict"


class Signature(NamedTuple):
    """One signature: tensors by name, and how a server may call it."""

    inputs: dict[str, tf.Tensor]
    outputs: dict[str, tf.Tensor]
    method: str


def signatures_of(spec: Any, receiver: ServingInputReceiver) -> dict[str, Signature]:
    """All signatures of a spec, by name.

    Args:
        spec: an EstimatorSpec in PREDICT mode.
        receiver: checked.

    Raises:
        UserError: none of several outputs is the default.
    """
    outputs = dict(spec.export_outputs or {_DEFAULT: PredictOutput(spec.predictions)})
    if _DEFAULT not in outputs and len(outputs) == 1:
        outputs[_DEFAULT] = next(iter(outputs.values()))
    if _DEFAULT not in outputs:
        raise UserError(
            f"Multiple `export_outputs` were provided ({', '.join(outputs)}), but none of them is "
            f"specified as the default; name one of them {_DEFAULT!r}."
        )
    found = {}
    for name, output in outputs.items():
        found[name] = _signature(name, output, receiver.receiver_tensors)
        for other, tensors in (receiver.receiver_tensors_alternatives or {}).items():
            found[f"{other}:{name}"] = _signature(name, output, tensors)
    return found


def with_methods(folder: str, methods: dict[str, str]) -> None:
    """Gives a SavedModel's signatures their methods; TensorFlow writes "predict" for all.

    Args:
        folder: of the SavedModel.
        methods: by signature.
    """
    if all(method == _PREDICT for method in methods.values()):
        return
    _private_api.set_signature_methods(os.path.join(folder, "saved_model.pb"), methods)
    fingerprint = os.path.join(folder, "fingerprint.pb")  # it has a sum over the signatures
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
        "the signature %r takes %s: TensorFlow Serving's %s calls send serialized tf.Examples "
        "alone, so this one is for its predict calls",
        name,
        ", ".join(inputs),
        method.rsplit("/", 1)[1],
    )
    return Signature(inputs, output.outputs(), _PREDICT)
