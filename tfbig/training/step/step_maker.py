"""Makes the steps that a placement's loop function runs."""

from tfbig.data.feeds.feed import Stack
from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.step.own_train_step import OwnStep, check_parts
from tfbig.training.step.step import Step


class StepMaker:
    """Makes the steps of one mode of a program.

    A placement knows where a step runs and how large its part of a batch is. What the step
    computes is decided here.

    Args:
        program: what to compute.
        config: gradient_aggregation and accumulation_steps.
        training: True: steps train; False: steps evaluate.

    Attributes:
        runs_custom_step: whether the model runs its own train_step or test_step.
        skips: whether a step with an infinite gradient is skipped, as loss scaling does.
    """

    def __init__(self, program: Program, config: RunConfig, *, training: bool):
        self.program, self.config, self.training = program, config, training
        self.runs_custom_step = program.runs_custom_step(training)
        self.skips = training and program.scales_loss

    def make(
        self,
        placement: Placement,
        *,
        rows: int,
        exact: bool,
        compile_part: bool = False,
        find_nan: bool = False,
        adds_metrics: bool = False,
    ) -> Step | OwnStep:
        """Makes a step.

        Args:
            placement: where it runs.
            rows: how many examples a full batch, or this worker's largest share of one, has.
            exact, compile_part, find_nan, adds_metrics: as for `Step`.
        """
        if self.runs_custom_step:
            return OwnStep(self.program, placement, training=self.training, rows=rows, exact=exact)
        return Step(
            self.program,
            placement,
            training=self.training,
            aggregation=self.config.gradient_aggregation,
            micro_batches=self.config.accumulation_steps,
            rows=rows,
            exact=exact,
            compile_part=compile_part,
            find_nan=find_nan,
            adds_metrics=adds_metrics,
        )

    def check(self, stack: Stack, placement: Placement) -> None:
        """Checks that the model can take the batches of a stack.

        Raises:
            UserError: a batch leaves a replica without an example, and the model has its own
                train_step or test_step.
        """
        if self.runs_custom_step:
            check_parts(stack, placement, self.training)
