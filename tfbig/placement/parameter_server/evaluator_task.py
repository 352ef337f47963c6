"""The evaluator of a cluster with parameter servers: it follows what the chief saves."""

from tfbig.placement.clusters.find import Cluster
from tfbig.placement.control.peers import Peers
from tfbig.placement.parameter_server.chief_watch import ChiefWatch
from tfbig.placement.placement import Placement

VARIABLE = "TFBIG_EVALUATOR"  # set where there is an evaluator, which no TF_CONFIG tells the others


class EvaluatorTask(Placement):
    """This process, as the evaluator; it works on a device of its own.

    Args:
        cluster: with a chief.
        device: its name.

    Attributes:
        watch: raises an error when the chief is gone for good.
    """

    name = "evaluator"

    def __init__(self, cluster: Cluster, device: str):
        super().__init__(device)
        self.peers = _Watching()
        self.watch = ChiefWatch(cluster)

    def describe(self) -> str:
        return f"the evaluator, on {self.device}"


class _Watching(Peers):
    """The evaluator is alone, and decides nothing."""

    is_chief = False
