"""Whether the chief of a cluster with parameter servers is there, as other tasks see it."""

import time

from tfbig.errors import PeerLost
from tfbig.placement.clusters.find import Cluster, cluster_timeout
from tfbig.placement.control.channel import default_patience
from tfbig.placement.parameter_server.tasks_watch import is_reachable


class ChiefWatch:
    """Raises an error when the chief is gone for good.

    Args:
        cluster: with a chief.
    """

    def __init__(self, cluster: Cluster):
        self._address, self._name = cluster.workers[0], cluster.describe(0)
        self._seen, self._last = False, time.monotonic()
        self._timeout, self._patience = cluster_timeout(), default_patience()

    @property
    def gone(self) -> bool:
        """Whether it cannot be reached at this moment."""
        return not is_reachable(self._address)

    @property
    def has_left(self) -> bool:
        """Whether it cannot be reached now, and was there once, or has not been for a while."""
        waited = time.monotonic() - self._last > self._patience
        return (self._seen or waited) and self.gone

    def look(self) -> None:
        """To be called every few seconds.

        Raises:
            PeerLost: the chief did not come, or cannot be reached for longer than others wait.
        """
        now = time.monotonic()
        if is_reachable(self._address):
            self._seen, self._last = True, now
        elif self._seen and now - self._last > self._patience:
            raise PeerLost(
                f"{self._name} cannot be reached any more; start the job again, it goes on from "
                "its last checkpoint."
            )
        elif now - self._last > self._timeout:
            raise PeerLost(
                f"{self._name} did not come within {self._timeout:g} s; look if it was started, "
                "and what it has said."
            )
