"""Calls a model_fn, and checks and converts its result."""

import functools
import inspect
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig.errors import UserError
from tfbig.layers.sparse_rows import with_sparse
from tfbig.programs import program
from tfbig.programs.model_fn.regularization import find_penalty
from tfbig.programs.model_fn.spec import EstimatorSpec
from tfbig.programs.program import BatchPart, Term

_ARGUMENTS = ("features", "labels", "mode", "params", "config")


def check_result(spec: Any, mode: str) -> EstimatorSpec:
    """Returns the result of a model_fn if it is an EstimatorSpec of the mode.

    Raises:
        UserError: it is something else, or a spec of another mode.
    """
    if not isinstance(spec, EstimatorSpec):
        raise UserError(
            f"model_fn returned {type(spec).__name__} in mode {mode!r}; return "
            "tfbig.EstimatorSpec(mode, loss=…, optimizer=…)."
        )
    if spec.mode != mode:
        raise UserError(
            f"model_fn was called with mode {mode!r} and returned a spec for {spec.mode!r}; "
            "pass its mode argument on to EstimatorSpec."
        )
    return spec


def is_estimator_style(model_fn: Any) -> bool:
    """Whether a callable is a model_fn(features, …), and not a function that builds a model."""
    return (
        callable(model_fn)
        and not isinstance(model_fn, keras.Model)
        and "features" in inspect.signature(model_fn).parameters
    )


def check_arguments(model_fn: Any, params: Any = None) -> None:
    """Refuses a model_fn with unknown required arguments, or without a needed one.

    Args:
        model_fn: estimator-style.
        params: the value for its argument `params`. None: there is none.

    Raises:
        UserError: the message names the arguments.
    """
    takes = inspect.signature(model_fn).parameters
    name = getattr(model_fn, "__name__", type(model_fn).__name__)
    unknown = [
        key
        for key, p in takes.items()
        if p.default is p.empty
        and key not in _ARGUMENTS
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if unknown:
        raise UserError(
            f"model_fn ({name}) has following not expected args: {unknown}; it can ask for "
            "features, labels, mode, params and config by name. Give other arguments a default, "
            "or use functools.partial."
        )
    if params is not None and "params" not in takes:
        raise UserError(
            f"model_fn ({name}) does not include params argument, but params ({params}) is "
            "passed to Estimator; write def model_fn(features, labels, mode, params), or leave "
            "params out."
        )


def call_model_fn(model_fn, batch: BatchPart, mode, params, config) -> EstimatorSpec:
    """Calls a model_fn with those of labels, mode, params and config that it has arguments for.

    Raises:
        UserError: a part of input_fn's batches would be ignored, or an argument is unknown.
    """
    check_arguments(model_fn)
    batch = batch._replace(features=with_sparse(batch.features), labels=with_sparse(batch.labels))
    given = {"labels": batch.labels, "mode": mode, "params": params, "config": config}
    takes = inspect.signature(model_fn).parameters
    if batch.labels is not None and "labels" not in takes:
        raise UserError(
            "model_fn does not take labels, but input_fn returns labels; write "
            "def model_fn(features, labels, mode), or have input_fn return features alone."
        )
    if batch.sample_weight is not None:
        raise UserError(
            "input_fn returns sample weights, which an estimator-style model_fn is not given; put "
            "them into the features, and the weighted loss into EstimatorSpec(loss=…)."
        )
    keywords = {k: v for k, v in given.items() if k in takes}
    return model_fn(features=batch.features, **keywords)


def divided_term(loss: tf.Tensor, denominator: Any) -> Term:
    """Converts a scalar loss with EstimatorSpec.loss_denominator to a term.

    Args:
        loss: scalar.
        denominator: 1 for a sum, or a scalar tensor.
    """
    if isinstance(denominator, int):
        return Term(program.UNDIVIDED, loss)
    denominator = tf.cast(denominator, tf.float32)
    return Term(program.EXPLICIT, loss * denominator, denominator=denominator)


def split_terms(terms: list[Term], batch: BatchPart) -> list[Term]:
    """Takes the regularization out of a summed loss: it counts once, and not in each part."""
    (term,) = terms
    tensors = tf.nest.flatten((batch.features, batch.labels))
    penalty = find_penalty(term.total, [t for t in tensors if t is not None])
    if penalty is None:
        return terms
    return [term._replace(total=term.total - penalty), Term(program.ONCE, penalty)]


def loss_term(loss: tf.Tensor, features: Any, denominator: Any = None) -> Term:
    """Converts the loss of an EstimatorSpec to a term of the loss of a batch.

    Args:
        loss: a scalar, which is treated as the mean over the batch, or one value per example:
            of shape [], [1] or [n, …].
        features: structure of tensors of shape [n, …].
        denominator: EstimatorSpec.loss_denominator, of a scalar loss.

    Raises:
        UserError: the loss has another number of rows than the features. If the shapes are known
            only when the step runs, it raises tf.errors.InvalidArgumentError instead.
    """
    loss = tf.cast(loss, tf.float32)
    if denominator is not None:
        return divided_term(tf.reshape(loss, []), denominator)
    if loss.shape.num_elements() == 1:
        caveat = "the loss of model_fn's spec is one number for a batch"
        return Term(program.SCALAR, tf.reshape(loss, []), caveat=caveat)
    examples = tf.nest.flatten(features)[0]
    message = (
        f"Loss must be scalar, or have a value for each example of the batch, given: {loss}. "
        "Pass its mean."
    )
    rows, expected = loss.shape[0], examples.shape[0]
    if rows is not None and expected is not None:
        if rows != expected:
            raise UserError(message)
    else:  # TensorFlow accepts any number of rows, and the mean would be wrong
        same = tf.debugging.assert_equal(tf.shape(loss)[0], tf.shape(examples)[0], message)
        with tf.control_dependencies([same]):
            loss = tf.identity(loss)
    per_row = tf.cast(tf.reduce_prod(tf.shape(loss)[1:]), tf.float32)
    return Term(program.EXAMPLES, tf.reduce_sum(loss), per_row=per_row)


class ModelFnRecorder:
    """Calls a model_fn and records the specs that it returns.

    A model_fn is called in each trace and on each replica. The tensors of a spec belong to its
    trace, but the hooks and the scaffold of a run are those of the first spec.

    Args:
        model_fn: estimator-style. This object has the same signature.

    Attributes:
        first: the first spec of each mode.
    """

    def __init__(self, model_fn: Callable):
        functools.update_wrapper(self, model_fn)
        self._model_fn = model_fn
        self._local = threading.local()  # replicas are traced in threads of their own
        self.first: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Calls the model_fn and records its result."""
        spec = self._model_fn(*arguments, **keywords)
        self._local.spec = spec
        self.first.setdefault(getattr(spec, "mode", ""), spec)
        return spec

    @property
    def spec(self) -> Any:
        """The result of the last call in this thread."""
        return self._local.spec
