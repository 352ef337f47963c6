"""FinalOpsHook: computes tensors at the end of a run."""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook


class FinalOpsHook(Hook):
    """Computes tensors after the last step, from the final weights and the last batch.

    Example:

        hook = tfbig.estimator.FinalOpsHook("loss")
        estimator.train(input_fn, hooks=[hook], steps=100)
        print(hook.final_ops_values)

    Args:
        final_ops: a tensor or its name, or a structure of these.
        final_ops_feed_dict: must be None.

    Attributes:
        final_ops_values: the same structure of NumPy arrays; None before the end.
    """

    def __init__(self, final_ops: Any, final_ops_feed_dict: None = None):
        super().__init__()
        if final_ops_feed_dict is not None:
            raise UserError(
                "FinalOpsHook(final_ops_feed_dict=…): TensorFlow 2 has no feeds; leave it out."
            )
        self.final_ops = final_ops
        self.final_ops_values: Any = None
        self._fetch: Callable | None = None

    @override
    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        self._fetch = fetch

    @override
    def finish(self) -> None:
        if self._fetch is not None:
            self.final_ops_values = self._fetch(self.final_ops)
        self._fetch = None
