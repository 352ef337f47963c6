"""What is settled before the first step of a run, and does not change while it trains."""

import dataclasses
from typing import Any

from tfbig.placement.placement import Placement
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.callbacks.callback import RunInfo
from tfbig.training.callbacks.runner import CallbackRunner
from tfbig.training.checkpoints.resuming import Start
from tfbig.training.feeds import RunData
from tfbig.training.loop.agreement import CallbackNeeds
from tfbig.training.loop.schedule import Schedule, end_of, end_of_data
from tfbig.training.loop.tensor_fetcher import TensorFetcher
from tfbig.training.request import TrainRequest, nearest

_EVALUATE_STEPS = 1000  # where the length of the data is not known


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What a run trains, on what, where, and until when.

    Attributes:
        program, placement, data: built and, if there was a checkpoint, restored.
        config: with what hooks have changed.
        start: where the run goes on.
        schedule: at which steps the loop stops for what; its `end` is the last step, None: the
            data's end.
        passes: how many passes over the data end the run; None: `schedule.end` does.
        info: what callbacks may know of the run.
        fetcher: gives callbacks tensors of a model_fn.
        jit: whether the step is compiled.
        metadata: what every checkpoint of the run has in its metadata, besides the loop's state.
        done: whether an earlier process has ended the run.
    """

    program: Program
    placement: Placement
    data: RunData
    config: RunConfig
    start: Start
    schedule: Schedule
    passes: int | None
    info: RunInfo
    fetcher: TensorFetcher
    jit: bool
    metadata: dict[str, Any]
    done: bool


def make_schedule(
    request: TrainRequest,
    program: Program,
    data: RunData,
    needs: CallbackNeeds,
    start: Start,
) -> tuple[Schedule, int | None]:
    """When the loop of a run stops for what.

    Args:
        request: has the limits and the config.
        program: has phases.
        data: of the run.
        needs: what the chief's callbacks need.
        start: where the run goes on.

    Returns:
        The Schedule, and how many passes over the data end the run, or None.
    """
    config, feed = request.effective_config, data.feed
    length, saves = feed.steps_per_pass, request.model_dir is not None
    max_steps = last_step(request, data, start)
    end, passes = end_of(max_steps, request.epochs, length, feed.repeats)
    evaluate = config.eval_every_steps or length or _EVALUATE_STEPS
    schedule = Schedule(
        end=end,
        log=config.log_step_count_steps,
        summary=config.save_summary_steps if saves else None,
        checkpoint=config.save_checkpoints_steps if saves else None,
        evaluate=evaluate if data.eval_feed is not None else None,
        epoch=(length or evaluate) if needs.epochs else None,
        phases=program.phases,
        start=start.step,
        others=tuple(needs.stops),
        frequencies=tuple(needs.frequencies),
        marks=tuple(needs.steps),
    )
    return schedule, passes


def last_step(request: TrainRequest, data: RunData, start: Start) -> int | None:
    """The global step at which a run ends at the latest; None: the data's end or `epochs` do."""
    length = data.feed.steps_per_pass
    if request.options.num_steps is not None:
        return nearest(request.last_step, start.began + request.options.num_steps)
    if request.last_step is None and request.options.repeats and length:
        return start.began + length  # one pass
    return request.last_step


def run_info(request: TrainRequest, placement: Placement, data: RunData, start: Start) -> RunInfo:
    """What callbacks may know of a run."""
    max_steps = last_step(request, data, start)
    config = request.effective_config
    return RunInfo(
        model_dir=request.model_dir,
        max_steps=max_steps,
        steps_per_epoch=data.feed.steps_per_pass,
        epochs=1 if max_steps is None and request.epochs is None else request.epochs,
        log_steps=config.log_step_count_steps,
        summary_steps=config.save_summary_steps,
        start_step=start.step,
        batch_size=data.feed.batch_size,
        num_replicas=placement.num_replicas,
        data_end=end_of_data(request.epochs, data.feed, start.data_began),
    )


def needs_of(runner: CallbackRunner, program: Program, jit: bool) -> CallbackNeeds:
    """What the chief's callbacks need of the loop, for all tasks.

    Args:
        runner: of the chief's callbacks.
        program: has metrics that run through an epoch, or not.
        jit: whether the step is compiled; the chief measures that.
    """
    epochs = runner.need_epochs or program.has_running_metrics
    return CallbackNeeds(epochs, runner.may_stop, runner.guard is not None, jit, *runner.call_ends)
