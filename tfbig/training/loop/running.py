"""What runs the loop's stacks, under each placement."""

from tfbig.placement.parameter_server.parameter_server import ParameterServer
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig
from tfbig.training.loop.loop_function import LoopFunction
from tfbig.training.loop.scheduled import ScheduledLoop
from tfbig.training.loop.synchronous import SynchronousLoop


def loop_function_for(placement: Placement, config: RunConfig, *, training: bool) -> type:
    """The class: `LoopFunction`, or one that hands out work where there are parameter servers."""
    if not isinstance(placement, ParameterServer):
        return LoopFunction
    return SynchronousLoop if training and config.max_staleness == 0 else ScheduledLoop
