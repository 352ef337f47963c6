"""The loss of an EstimatorSpec as a term of a batch's loss."""

from typing import Any

import tensorflow as tf

from tfbig.errors import UserError
from tfbig.programs import program
from tfbig.programs.program import Term


def loss_term(loss: tf.Tensor, features: Any) -> Term:
    """A scalar, taken as the mean over the batch, or a value for each of its examples.

    Args:
        loss: of shape [], [1] or [n, …].
        features: structure of tensors of shape [n, …].

    Raises:
        UserError: it can be seen to have another number of rows; tf.errors.InvalidArgumentError,
            when the step is run, if that shows only then.
    """
    loss = tf.cast(loss, tf.float32)
    if loss.shape.num_elements() == 1:
        doubt = "the loss of model_fn's spec is one number for a batch"
        return Term(program.SCALAR, tf.reshape(loss, []), doubt=doubt)
    examples = tf.nest.flatten(features)[0]
    message = (
        f"Loss must be scalar, or have a value for each example of the batch, given: {loss}. "
        "Pass its mean."
    )
    rows, expected = loss.shape[0], examples.shape[0]
    if rows is not None and expected is not None:
        if rows != expected:
            raise UserError(message)
    else:  # TensorFlow would let any number pass, and the mean would be another one
        same = tf.debugging.assert_equal(tf.shape(loss)[0], tf.shape(examples)[0], message)
        with tf.control_dependencies([same]):
            loss = tf.identity(loss)
    per_row = tf.cast(tf.reduce_prod(tf.shape(loss)[1:]), tf.float32)
    return Term(program.EXAMPLES, tf.reduce_sum(loss), per_row=per_row)
