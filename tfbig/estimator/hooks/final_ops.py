"""FinalOpsHook: the values of tensors at the end."""

from collections.abc import Callable
from typing import Any

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook


class FinalOpsHook(Hook):
    """Computes tensors when all is done, from the weights as they are then and the last batch.

    Example:

        hook = tfbig.estimator.FinalOpsHook("loss")
        estimator.train(input_fn, hooks=[hook], steps=100)
        print(hook.final_ops_values)

    Args:
        final_ops: a tensor or name, or a structure of such.
        final_ops_feed_dict: refused.

    Attributes:
        final_ops_values: the same structure of NumPy arrays; None until then.
    """

    def __init__(self, final_ops: Any, final_ops_feed_dict: None = None):
        super().__init__()
        if final_ops_feed_dict is not None:
            raise UserError(
                "FinalOpsHook(final_ops_feed_dict=…): nothing is fed on TensorFlow 2; leave it out."
            )
        self.final_ops = final_ops
        self.final_ops_values: Any = None
        self._look: Callable | None = None

    def before_run(self, step: int, look: Callable[[Any], Any]) -> None:
        self._look = look

    def finish(self) -> None:
        if self._look is not None:
            self.final_ops_values = self._look(self.final_ops)
        self._look = None
