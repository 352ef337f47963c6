"""The kinds of clusters that are found by their variables, one module for each."""

from tfbig.placement.clusters.cluster_kind import ClusterKind
from tfbig.placement.clusters.kubernetes import Kubernetes
from tfbig.placement.clusters.slurm import Slurm
from tfbig.placement.clusters.tf_config import TFConfig

# The first that finds a cluster is taken: what the user wrote out before what is derived.
KINDS: tuple[ClusterKind, ...] = (TFConfig(), Kubernetes(), Slurm())
