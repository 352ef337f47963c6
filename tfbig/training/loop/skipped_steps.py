"""Steps that loss scaling skips because their gradients are not finite."""

from tfbig.data.feeds.feed import Stack
from tfbig.placement.loop_function import LoopResult
from tfbig.programs.program import Program
from tfbig.training.loop.diagnosis import Diagnosis

_MOST = 200  # skipped steps in a row; by then the scale has been halved as often


class SkippedSteps:
    """Counts skipped steps, and distinguishes them from a run that has diverged.

    `LossScaleOptimizer` halves its scale and keeps the weights where a gradient is infinite or
    NaN. That is no reason to stop.

    Args:
        program: of the run.
        diagnosis: finds whether a batch has a NaN.
    """

    def __init__(self, program: Program, diagnosis: Diagnosis):
        self._program, self._diagnosis = program, diagnosis
        self._updates: int | None = None
        self._skipped_in_a_row = 0

    def goes_on(self, stack: Stack, ran: LoopResult) -> bool:
        """Whether training continues after a call with a loss that is not finite.

        All tasks of a run call it together.

        Args:
            stack: what was run.
            ran: its result.
        """
        if not self._program.scales_loss:
            return False
        updates = int(self._program.optimizer.iterations.numpy())
        self._skipped_in_a_row = (
            self._skipped_in_a_row + ran.steps if updates == self._updates else 0
        )
        self._updates = updates
        return self._skipped_in_a_row < _MOST and not self._diagnosis.explain_all(
            stack, ran.nonfinite
        )

    def logs(self, step: int) -> dict[str, float]:
        """`steps_skipped` since the run began, if there are any; `step`: the global step."""
        if not self._program.scales_loss:
            return {}
        skipped = step - int(self._program.optimizer.iterations.numpy())
        return {"steps_skipped": float(skipped)} if skipped > 0 else {}
