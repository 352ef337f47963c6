"""StopAtStepHook: ends training at a given step."""

import tensorflow as tf

from tfbig.arguments import check_count
from tfbig.errors import UserError


class StopAtStepHook(tf.compat.v1.train.SessionRunHook):
    """Ends training after a number of steps, or at a global step.

    Example: `estimator.train(input_fn, hooks=[tfbig.estimator.StopAtStepHook(last_step=1000)])`

    Args:
        num_steps: the number of steps of this run.
        last_step: the global step at which training ends, instead of num_steps.

    Raises:
        UserError: neither or both are given.
    """

    def __init__(self, num_steps: int | None = None, last_step: int | None = None):
        if (num_steps is None) == (last_step is None):
            raise UserError(
                "StopAtStepHook: exactly one of num_steps and last_step must be specified; "
                f"received {num_steps!r} and {last_step!r}."
            )
        check_count("StopAtStepHook.num_steps", num_steps)
        check_count("StopAtStepHook.last_step", last_step)
        self.num_steps, self.last_step = num_steps, last_step
