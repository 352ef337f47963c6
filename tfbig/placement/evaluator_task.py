"""The evaluator of a cluster with parameter servers: it follows what the chief saves."""

from typing_extensions import override

from tfbig.clusters.cluster import Cluster
from tfbig.placement.control.peers import Peers
from tfbig.placement.parameter_server.liveness import ChiefWatch
from tfbig.placement.placement import Placement
from tfbig.run_config import RunConfig


class EvaluatorTask:
    """This process, as the evaluator of a cluster.

    Args:
        cluster: with a chief.
        device: the name of the device that it evaluates on.

    Attributes:
        placement: that device.
        watch: raises an error when the chief is lost.
    """

    def __init__(self, cluster: Cluster, device: str):
        self.placement = EvaluatorDevice(device)
        self.peers = self.placement.peers
        self.watch = ChiefWatch(cluster)


class EvaluatorDevice(Placement):
    """The device of an evaluator: it evaluates, and the config is that of the chief."""

    name = "evaluator"
    runs_train_steps = False

    def __init__(self, device: str):
        super().__init__(device)
        self.peers = _EvaluatorPeers()

    @override
    def check_config(self, config: RunConfig) -> None:
        pass  # its fields are for the chief

    @override
    def describe(self) -> str:
        return f"the evaluator, on {self.device}"


class _EvaluatorPeers(Peers):
    """The evaluator decides nothing and waits for nobody."""

    is_chief = False
