"""Every private name of Keras and TensorFlow in use, with its reason and the test guarding it.

All are of TensorFlow 2.21 and Keras 3.15, to which setup.cfg pins; tests/test_private_api.py
checks that each still is what is described here.
"""

import collections
import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.name_scope import current_path
from keras.src.losses import loss as _keras_loss
from keras.src.models.functional import Functional
from keras.src.optimizers.loss_scale_optimizer import LossScaleOptimizer
from keras.src.trainers.trainer import Trainer
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


@contextlib.contextmanager
def automatic_names() -> Iterator[None]:
    """Starts Keras's automatic names (dense, dense_1, …) anew inside the block.

    Reason: a model_fn is called in several traces and modes, and its layers must find their
    variables by name each time; the counters are global. Guard: test_automatic_names.
    """
    saved = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", saved)


def current_keras_path() -> str:
    """The path of the Keras name scopes that are open.

    Reason: a variable creator sees only the last part of a Keras variable's name. Guard:
    tests/programs/test_variable_store.py.
    """
    return current_path()


def keras_variable_of(initial_value) -> keras.Variable | None:
    """The Keras variable that a tf.Variable is made for, from what it is made from, or None.

    Reason: it alone knows its shape beforehand, and whether its layer is frozen. Keras hands over
    a function of no arguments that refers to it. Guard: tests/programs/test_variable_store.py.
    """
    if not callable(initial_value):
        return None
    owner = inspect.getclosurevars(initial_value).nonlocals.get("self")
    return owner if isinstance(owner, keras.Variable) else None


@contextlib.contextmanager
def gradients_already_reduced(optimizer) -> Iterator[None]:
    """Makes `optimizer.apply` skip its own all-reduce inside the block.

    Reason: Keras clips each replica's own gradient and reduces afterwards; reducing first and
    then applying clips the global gradient. Guard: test_gradients_already_reduced and the
    clipping cases of tests/equivalence.
    """
    inner = reduce_no_more(optimizer)
    try:
        yield
    finally:
        if inner is not None:
            del inner._all_reduce_sum_gradients
            del inner._overwrite_model_variables_with_average_value


def reduce_no_more(optimizer):
    """Makes `optimizer.apply` skip its own all-reduce from now on; returns the one changed.

    It leaves the averages of ema_overwrite_frequency to `put_averages_in_place` too.

    Reason and guard: as above, for an optimizer that lives for one trace only.
    """
    if optimizer is None:
        return None
    inner = _inner(optimizer)
    inner._all_reduce_sum_gradients = list
    inner._overwrite_model_variables_with_average_value = lambda variables: None
    return inner


def put_averages_in_place(optimizer) -> None:
    """After `apply`, in a replica: what ema_overwrite_frequency asks for.

    Reason: Keras does it in a conditional that crosses replicas, which MirroredStrategy cannot.
    Guard: the case ema_overwriting of tests/equivalence.
    """
    inner = _inner(optimizer)
    if not (inner.use_ema and inner.ema_overwrite_frequency):
        return
    updates = tf.convert_to_tensor(inner.iterations)
    due = (updates > 0) & (updates % inner.ema_overwrite_frequency == 0)
    averages = inner._model_variables_moving_average
    for variable, average in zip(inner._trainable_variables, averages, strict=True):
        if average is not None:
            constraint = variable.constraint or tf.identity
            variable.assign(tf.where(due, constraint(average), variable))


def _inner(optimizer):
    return optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer


@contextlib.contextmanager
def losses_of_one_replica() -> Iterator[None]:
    """Keeps Keras's loss functions from dividing by the number of replicas inside the block.

    Reason: they divide by it whenever a strategy is active, which is right only if all parts
    of a batch are equally large. Guard: test_losses_of_one_replica.
    """
    import keras.src.backend.tensorflow.trainer as tf_trainer

    saved = _keras_loss.scale_loss_for_distribution
    assert tf_trainer.loss_module is _keras_loss
    _keras_loss.scale_loss_for_distribution = lambda value: value
    try:
        yield
    finally:
        _keras_loss.scale_loss_for_distribution = saved


def build_compiled(model: keras.Model, x, y, sample_weight) -> None:
    """Builds a compiled model with its losses and metrics from KerasTensors of a batch.

    Reason: `fit` does this on its first batch, no public call does. Guard:
    tests/programs/test_keras_program.py.
    """
    model._symbolic_build(data_batch=(x, y, sample_weight))


def compiled_losses(model: keras.Model) -> list:
    """The (path, loss, loss_weights, name) of every output of a built, compiled model."""
    loss = model._compile_loss
    return list(loss._flat_losses) if loss is not None and loss._flat_losses else []


def reported_metrics(model: keras.Model) -> list[keras.metrics.Metric]:
    """A compiled model's metrics but the tracker of the loss, which the loop reports itself.

    Reason: `model.metrics` has it among the others. Guard: tests/programs/test_keras_program.py.
    """
    return [metric for metric in model.metrics if metric is not model._loss_tracker]


@contextlib.contextmanager
def substituted_losses(model: keras.Model, wrap) -> Iterator[tuple]:
    """Puts `wrap(i, loss)` in the place of the model's i-th loss function inside the block.

    Yields what calls them all, `loss(labels, outputs, sample_weight)`, and the metrics that
    report the mean of each, which are left to `wrap`: it knows the true counts.

    Reason: CompileLoss alone knows how labels, outputs and sample weights of any structure go
    together; the loop needs each loss's unreduced values. Guard:
    tests/programs/test_keras_program.py.
    """
    compiled = model._compile_loss
    losses, trackers = compiled._flat_losses, compiled._metrics
    compiled._flat_losses = [
        entry._replace(loss=wrap(i, entry.loss)) for i, entry in enumerate(losses)
    ]
    compiled._metrics = [None] * len(trackers)
    try:
        yield compiled, trackers
    finally:
        compiled._flat_losses, compiled._metrics = losses, trackers


def loss_values(loss: keras.losses.Loss, labels, output, sample_weight, row_weight):
    """A Keras loss's weighted, masked, unreduced values, and the mask.

    `row_weight`, of shape [n] or None, is 0 for padding and weighs whole examples, while
    `sample_weight` follows Keras's rule for its shape.

    Reason: `Loss.__call__` does the same but hides the mask, which is the denominator. A loss
    with its own `__call__` is called, and taken as it is. Guard:
    tests/programs/test_keras_program.py.
    """
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        assert row_weight is None, "such a loss is never given padding"
        return tf.convert_to_tensor(loss(labels, output, sample_weight)), None
    in_mask = keras_mask(output)
    output = tf.nest.map_structure(lambda t: tf.cast(t, loss.dtype), output)
    labels = tf.nest.map_structure(lambda t: tf.cast(t, loss.dtype), labels)
    values = loss.call(labels, output)
    mask = keras_mask(values)
    if in_mask is not None:
        mask = in_mask if mask is None else in_mask & mask
    whole = not values.shape.rank  # one number for the batch, which Keras weighs too
    reduction = loss.reduction if whole else None
    values = _keras_loss.reduce_weighted_values(values, sample_weight, mask, reduction, loss.dtype)
    if whole:
        return values, None
    if row_weight is not None:
        shape = [-1] + [1] * (values.shape.rank - 1)
        values *= tf.reshape(tf.cast(row_weight, values.dtype), shape)
    return values, mask


def same_rank(first, second):
    """Keras's rule for a loss's weights: squeezes or expands the last dimension."""
    return _keras_loss.squeeze_or_expand_to_same_rank(first, second)


def compiled_metrics(model: keras.Model):
    """The CompileMetrics of a compiled model, or None."""
    return model._compile_metrics


def update_padded_metrics(model: keras.Model, y, y_pred, sample_weight, row_weight) -> None:
    """Updates a compiled model's metrics with the weight 0 for padding.

    Reason: Keras gives no weights at all to `metrics`, only to `weighted_metrics`. Guard: the
    uneven cases of tests/equivalence.
    """
    metrics = model._compile_metrics
    if metrics is None:
        return
    y, y_pred = metrics._flatten_y(y), metrics._flatten_y(y_pred)
    weights = [None] * len(y)
    if sample_weight is not None:
        given = metrics._flatten_y(sample_weight)
        weights = given[:1] * len(y) if len(given) < len(y) else given
    weights = [_times_rows(w, row_weight, o) for w, o in zip(weights, y_pred, strict=True)]
    for metric, label, output in zip(metrics._flat_metrics, y, y_pred, strict=False):
        if metric:
            metric.update_state(label, output, _times_rows(None, row_weight, output))
    for metric, label, output, weight in zip(
        metrics._flat_weighted_metrics, y, y_pred, weights, strict=False
    ):
        if metric:
            metric.update_state(label, output, weight)


def _times_rows(weight, row_weight, output):
    """`row_weight` times `weight`, of a rank that goes together with the output's mask."""
    if weight is None:
        mask = keras_mask(output)
        return tf.reshape(row_weight, [-1] + [1] * (0 if mask is None else mask.shape.rank - 1))
    weight = tf.cast(weight, row_weight.dtype)
    return weight * tf.reshape(row_weight, [-1] + [1] * (weight.shape.rank - 1))


def metric_function(metric: keras.metrics.Metric) -> tuple[Any, dict]:
    """The function whose mean a metric is, or None, and its arguments.

    Reason: a config has the function's name alone. Guard: tests/programs/test_rebuilding.py and
    tests/programs/test_keras_padding.py.
    """
    return getattr(metric, "_fn", None), getattr(metric, "_fn_kwargs", {})


def keras_mask(tensor) -> tf.Tensor | None:
    """The mask that Keras's layers attached to a tensor.

    Reason: it is part of a loss's denominator. Guard: tests/programs/test_keras_program.py.
    """
    return getattr(tensor, "_keras_mask", None)


def is_plain_functional(model: keras.Model) -> bool:
    """Whether a model is `keras.Model(inputs, outputs)`, which Keras can clone layer by layer.

    A subclass of it would come back without its own methods.

    Reason: that call makes a class that has no public name. Guard:
    tests/programs/test_rebuilding.py.
    """
    return type(model) is Functional


@contextlib.contextmanager
def as_not_compiled(model: keras.Model) -> Iterator[None]:
    """Makes a model, and models nested in it, look uncompiled inside the block.

    Reason: clone_model compiles the clone from names, which plain functions and classes that are
    not registered do not come back from. Guard: tests/programs/test_rebuilding.py.
    """
    compiled = [m for m in flatten_layers(model) if getattr(m, "compiled", False)]
    for inner in compiled:
        inner.compiled = False
    try:
        yield
    finally:
        for inner in compiled:
            inner.compiled = True


def compile_arguments(model: keras.Model) -> dict:
    """The arguments that a model's `compile` was given.

    Reason: the public get_compile_config gives names, as above. Guard:
    tests/programs/test_rebuilding.py.
    """
    return dict(model._compile_config.config)


def learning_rate(optimizer: keras.optimizers.Optimizer):
    """An optimizer's schedule, or a variable.

    Reason: `optimizer.learning_rate` is a schedule's present value. Guard:
    tests/programs/test_rebuilding.py.
    """
    return optimizer._learning_rate


def without_weight_decay(optimizer: keras.optimizers.Optimizer) -> tuple[bool, str | None]:
    """Whether variables were excluded from weight decay, and the pattern of names that were.

    Reason: no config tells what exclude_from_weight_decay was given. Guard:
    tests/programs/test_rebuilding.py.
    """
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    variables = getattr(optimizer, "_exclude_from_weight_decay", None)
    return bool(variables), pattern and pattern.pattern


def overrides(model: keras.Model, method: str) -> bool:
    """Whether a model's class has its own version of one of the Trainer's methods."""
    plain = {getattr(Trainer, method, None), getattr(keras.Model, method, None)}
    return getattr(type(model), method, None) not in plain


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model, nested ones too; `model.layers` lists the outer ones only."""
    return list(model._flatten_layers())


def output_spec(model: keras.Model, features):
    """The KerasTensors that a model returns for KerasTensors, traced in a scratch graph.

    Reason: labels are compared with outputs before anything is trained. Guard:
    tests/programs/test_keras_program.py.
    """
    return keras.src.backend.compute_output_spec(model, features, training=False)


def serialize_iterator(iterator) -> None:
    """Serialises a tf.data iterator, or raises with the name of the operation that cannot be.

    Reason: whether a Dataset's position can be kept must be known before it is needed. Guard:
    tests/data/test_dataset_feed.py.
    """
    tf.raw_ops.SerializeIterator(
        resource_handle=iterator._iterator_resource, external_state_policy=2
    )


@contextlib.contextmanager
def reproducible_dropout() -> Iterator[None]:
    """Makes Keras's Dropout draw with the Philox generator inside the block.

    Reason: its own choice depends on the compiler, and XLA's default for CPUs is ten times
    slower. XLA also makes other floats of the same bits, so the bits themselves are compared:
    masks are equal in XLA and graph mode. Guard: test_reproducible_dropout.
    """
    random = keras.src.backend.random
    saved = random.dropout

    def dropout(inputs, rate, noise_shape=None, seed=None):
        if rate in (0.0, 1.0):
            return saved(inputs, rate)
        shape = noise_shape or [None] * inputs.shape.rank
        there = [tf.shape(inputs)[i] if n is None else n for i, n in enumerate(inputs.shape)]
        bits = tf.random.stateless_uniform(
            [there[i] if n is None else n for i, n in enumerate(shape)],
            seed=tf.cast(keras.src.backend.tensorflow.random.draw_seed(seed), tf.int32),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        kept = bits >= tf.constant(int(rate * 2**32), tf.uint32)
        return tf.where(kept, inputs / (1 - rate), tf.zeros_like(inputs))

    random.dropout = dropout
    try:
        yield
    finally:
        random.dropout = saved


def variables_as_constants(function):
    """A concrete function with its calls inlined and constants in the place of its variables.

    Reason: TensorFlow's one way from a graph that reads variables to one of tensors, which
    gradients and other variables can be put into. Guard: test_variables_as_constants.
    """
    return convert_variables_to_constants_v2(function)
