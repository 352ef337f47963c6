"""Where an Estimator works when it does not train."""

from typing import Any

from tfbig.placement.clusters.find import find_cluster
from tfbig.placement.placement import Placement
from tfbig.placement.strategies import make_placement


def placement_of(estimator: Any) -> Placement:
    """The placement for what is not training.

    Parameter servers do nothing but training: each task of their cluster does the rest on its own
    devices, from the checkpoints.

    Raises:
        UserError: as of `make_placement`.
    """
    strategy = "auto" if estimator.strategy == "parameter_server" else estimator.strategy
    return make_placement(strategy, estimator.devices)


def writes(placement: Placement) -> bool:
    """Whether this task writes what all tasks of a cluster find alike."""
    cluster = find_cluster()
    if cluster is not None and cluster.strategy == "parameter_server":
        return cluster.task_type == "chief"
    return placement.peers.is_chief
