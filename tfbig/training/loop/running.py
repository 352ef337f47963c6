"""What runs the loop's stacks, under each placement."""

from tfbig.placement.parameter_server.parameter_server import ParameterServer
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig
from tfbig.training.loop.loop_function import Calls
from tfbig.training.loop.scheduled import ScheduledCalls
from tfbig.training.loop.synchronous import SynchronousCalls


def calls_for(placement: Placement, config: RunConfig, *, training: bool) -> type:
    """The class: `Calls`, or one that hands out work where there are parameter servers."""
    if not isinstance(placement, ParameterServer):
        return Calls
    return SynchronousCalls if training and config.max_staleness == 0 else ScheduledCalls
