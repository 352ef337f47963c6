"""TF1's batch normalization."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.compat.v1.layers.building import as_inputs, choose, known_size, layer_scope, weight
from tfbig.errors import UserError

_v1 = tf.compat.v1
_ZEROS, _ONES = _v1.zeros_initializer(), _v1.ones_initializer()
_REFUSED = {
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    "virtual_batch_size": None,
    "adjustment": None,
}


def batch_normalization(
    inputs: Any,
    axis: int = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    center: bool = True,
    scale: bool = True,
    beta_initializer: Any = _ZEROS,
    gamma_initializer: Any = _ONES,
    moving_mean_initializer: Any = _ZEROS,
    moving_variance_initializer: Any = _ONES,
    beta_regularizer: Callable | None = None,
    gamma_regularizer: Callable | None = None,
    beta_constraint: Callable | None = None,
    gamma_constraint: Callable | None = None,
    training: Any = False,
    trainable: bool = True,
    name: str | None = None,
    reuse: Any = None,
    renorm: bool = False,
    renorm_clipping: Any = None,
    renorm_momentum: float = 0.99,
    fused: bool | None = None,
    virtual_batch_size: int | None = None,
    adjustment: Callable | None = None,
) -> tf.Tensor:
    """Batch normalization; the updates of its moving averages are added to UPDATE_OPS.

    The weights are <name>/gamma, beta, moving_mean and moving_variance. For inputs of rank 4 it
    uses TensorFlow's fused operation, whose moving variance is unbiased (n / (n - 1)), else the
    plain formula, as in TF1 (Ioffe and Szegedy, "Batch Normalization", 2015).

    Example: `net = tfbig.compat.v1.layers.batch_normalization(net, training=training)`.

    Args:
        inputs: floats of rank 2 or more.
        axis: axis of the channels.
        momentum: momentum of the moving averages.
        training: bool or scalar bool tensor; True: uses the statistics of the batch and updates
            the moving averages; False: uses the moving averages.
        name, reuse: of the variable scope; the default name is batch_normalization, …
        fused: None or True: the fused operation if possible; False: the formula.
        epsilon, center, …: as in TF1.

    Raises:
        UserError: renorm, virtual_batch_size or adjustment is used.
    """
    given = dict(
        renorm=renorm, renorm_clipping=renorm_clipping, renorm_momentum=renorm_momentum,
        virtual_batch_size=virtual_batch_size, adjustment=adjustment,
    )  # fmt: skip
    for argument, value in given.items():
        if value != _REFUSED[argument]:
            raise UserError(
                f"layers.batch_normalization({argument}={value!r}) is not supported; omit it."
            )
    inputs = as_inputs("batch_normalization", inputs)
    rank = inputs.shape.rank
    axis = _axis(axis, rank)
    with layer_scope("batch_normalization", name, reuse):
        channels = known_size("batch_normalization", inputs, axis)
        # Half precision would round the statistics too much.
        dtype = tf.float32 if inputs.dtype in (tf.float16, tf.bfloat16) else inputs.dtype
        gamma, beta = tf.ones([channels], dtype), tf.zeros([channels], dtype)
        if scale:
            gamma = weight(
                "gamma", [channels], dtype, gamma_initializer, gamma_regularizer,
                gamma_constraint, trainable,
            )  # fmt: skip
        if center:
            beta = weight(
                "beta", [channels], dtype, beta_initializer, beta_regularizer, beta_constraint,
                trainable,
            )  # fmt: skip
        moving = [
            weight(
                part, [channels], dtype, initializer, trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for part, initializer in (
                ("moving_mean", moving_mean_initializer),
                ("moving_variance", moving_variance_initializer),
            )
        ]  # fmt: skip
        fused = rank == 4 and axis in (1, 3) and fused is not False
        compute = _fused if fused else _formula
        outputs, statistics = compute(inputs, axis, gamma, beta, moving, epsilon, training)
        _update(moving, statistics, momentum, training, tf.size(inputs) > 0)
        return outputs


def _axis(axis: Any, rank: int) -> int:
    if isinstance(axis, list | tuple) and len(axis) == 1:
        axis = axis[0]
    if not isinstance(axis, int) or not -rank <= axis < rank or rank < 2:
        raise UserError(
            f"layers.batch_normalization: axis={axis!r} for inputs of rank {rank}; expected one "
            "dimension of inputs of rank 2 or more."
        )
    return axis % rank


def _fused(
    inputs: tf.Tensor,
    axis: Any,
    gamma: Any,
    beta: Any,
    moving: Any,
    epsilon: float,
    training: bool | None,
) -> Any:
    """The outputs, and the mean and variance to average."""

    def run(is_training: bool) -> Any:
        given = {} if is_training else {"mean": moving[0], "variance": moving[1]}
        return _v1.nn.fused_batch_norm(
            inputs, gamma, beta, epsilon=epsilon, is_training=is_training,
            data_format="NCHW" if axis == 1 else "NHWC", **given,
        )  # fmt: skip

    outputs, *statistics = choose(training, lambda: run(True), lambda: run(False))
    return outputs, statistics


def _formula(
    inputs: tf.Tensor,
    axis: Any,
    gamma: Any,
    beta: Any,
    moving: Any,
    epsilon: float,
    training: bool | None,
) -> Any:
    """The outputs, and the mean and variance to average."""
    rank = inputs.shape.rank
    axes = [i for i in range(rank) if i != axis]
    shape = [-1 if i == axis else 1 for i in range(rank)]
    statistics = choose(
        training,
        lambda: [tf.cast(m, gamma.dtype) for m in tf.nn.moments(inputs, axes)],
        lambda: [tf.identity(m) for m in moving],
    )
    mean, variance, offset, factor = (
        tf.cast(tf.reshape(v, shape), inputs.dtype) for v in (*statistics, beta, gamma)
    )
    return tf.nn.batch_normalization(inputs, mean, variance, offset, factor, epsilon), statistics


def _update(
    moving: Any, statistics: Any, momentum: Any, training: bool | None, not_empty: Any
) -> None:
    """Puts the updates of the moving averages into UPDATE_OPS; a batch of nothing changes none."""
    share = choose(training, lambda: 1.0 - momentum, lambda: 0.0)
    if not tf.is_tensor(share) and share == 0.0 and momentum != 1.0:
        return
    for variable, value in zip(moving, statistics, strict=True):
        with tf.name_scope("AssignMovingAvg"):
            change = (variable - tf.cast(value, variable.dtype)) * tf.cast(share, variable.dtype)
            change = tf.where(not_empty, change, tf.zeros_like(change))
            operation = variable.assign_sub(change, read_value=False)
        _v1.add_to_collection(_v1.GraphKeys.UPDATE_OPS, operation)
