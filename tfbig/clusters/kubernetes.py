"""Kubernetes: the pods of an indexed Job, which connect through a headless Service.

Kubernetes sets JOB_COMPLETION_INDEX and gives every pod the hostname `<job>-<index>`; the pod's
name in the DNS is `<job>-<index>.<service>`, where `subdomain: <service>` is in the template
(https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication). Kubernetes does not tell
the pods how many they are or what the Service is called; the manifest has to set TFBIG_WORKERS and
TFBIG_SERVICE.
"""

from collections.abc import Mapping

from typing_extensions import override

from tfbig.clusters.cluster import Cluster, ClusterKind, whole_number
from tfbig.errors import UserError

_PORT = 2222


class Kubernetes(ClusterKind):
    """Reads JOB_COMPLETION_INDEX, TFBIG_WORKERS, TFBIG_SERVICE, TFBIG_JOB_NAME, TFBIG_PORT."""

    name = "Kubernetes"

    @override
    def find(self, environ: Mapping[str, str]) -> Cluster | None:
        if "TFBIG_WORKERS" not in environ:
            return None  # the pods of an indexed Job may also be independent trainings
        workers = whole_number(environ, "TFBIG_WORKERS", least=1)
        if "JOB_COMPLETION_INDEX" not in environ:
            raise UserError(
                f"TFBIG_WORKERS={workers}, but JOB_COMPLETION_INDEX is not set, which Kubernetes "
                "sets in an indexed Job; write completionMode: Indexed in the Job's spec."
            )
        index = whole_number(environ, "JOB_COMPLETION_INDEX")
        if index >= workers:
            raise UserError(
                f"JOB_COMPLETION_INDEX={index}, but TFBIG_WORKERS={workers}; set TFBIG_WORKERS to "
                "the Job's completions, which have to equal its parallelism."
            )
        if workers == 1:
            return None
        service = environ.get("TFBIG_SERVICE", "").strip()
        if not service:
            raise UserError(
                f"TFBIG_WORKERS={workers}, but TFBIG_SERVICE is not set; set it to the name of the "
                "headless Service (clusterIP: None) that is the pods' subdomain."
            )
        port = whole_number(environ, "TFBIG_PORT", least=1) if "TFBIG_PORT" in environ else _PORT
        if port > 65535:
            raise UserError(f"TFBIG_PORT={port}: expected a port, 1 to 65535.")
        job = environ.get("TFBIG_JOB_NAME", "").strip() or _job_name(environ, index)
        addresses = tuple(f"{job}-{i}.{service}:{port}" for i in range(workers))
        return Cluster(self.name, {"worker": addresses}, "worker", index)


def _job_name(environ: Mapping[str, str], index: int) -> str:
    host = environ.get("HOSTNAME", "")
    # With setHostnameAsFQDN, the hostname of a pod is its full DNS name.
    name = host.partition(".")[0].removesuffix(f"-{index}")
    if not name or name == host.partition(".")[0]:
        raise UserError(
            f"HOSTNAME={host!r} does not end with -{index}, as the hostname of pod {index} of an "
            "indexed Job does; set TFBIG_JOB_NAME to the Job's name."
        )
    return name
