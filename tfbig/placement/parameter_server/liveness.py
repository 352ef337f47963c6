"""Whether the tasks of a cluster can be reached, and waiting until they can."""

import logging
import time
from collections.abc import Mapping, Sequence

from tfbig.clusters.cluster import Cluster
from tfbig.clusters.find import cluster_timeout
from tfbig.errors import PeerLost
from tfbig.placement.control.addresses import connect, parse_address
from tfbig.placement.control.channel import default_patience

log = logging.getLogger("tfbig")

_WARN_EVERY = 30.0  # seconds
_TRY_EVERY = 0.2
_CONNECT_SECONDS = 5.0


def is_reachable(address: str, seconds: float = _CONNECT_SECONDS) -> bool:
    """Whether a process listens at "host:port".

    The operating system accepts connections for a process that is stopped, too.
    """
    try:
        connect(parse_address(address), seconds).close()
    except OSError:
        return False
    return True


def wait_for(tasks: Mapping[str, str], seconds: float, warn_every: float = _WARN_EVERY) -> None:
    """Waits until all of these tasks can be reached, and logs which ones are missing.

    Args:
        tasks: name ("ps 0") to "host:port".
        seconds: how long to wait.
        warn_every: seconds between two log lines.

    Raises:
        PeerLost: not all can be reached in time; the message names them.
    """
    began = warned = time.monotonic()
    missing = dict(tasks)
    while True:
        missing = {name: where for name, where in missing.items() if not is_reachable(where)}
        if not missing:
            return
        now = time.monotonic()
        if now - began >= seconds:
            raise PeerLost(
                f"{named(missing)} did not come within {seconds:g} s; look if it was started, and "
                "what it has said."
            )
        if now - warned >= warn_every:
            warned = now
            log.warning("waiting for %s (%.0f s)", named(missing), now - began)
        time.sleep(_TRY_EVERY)


def lost_among(tasks: Mapping[str, str]) -> dict[str, str]:
    """Those of the tasks that cannot be reached now."""
    return {name: where for name, where in tasks.items() if not is_reachable(where)}


def named(tasks: Mapping[str, str]) -> str:
    """Tasks in words: "ps 0 at host:port and worker 1 at host:port"."""
    return " and ".join(f"{name} at {where}" for name, where in tasks.items())


def addresses(jobs: Mapping[str, Sequence[str]], *names: str) -> dict[str, str]:
    """The addresses of all tasks of some jobs, by the tasks' names."""
    return {f"{job} {i}": where for job in names for i, where in enumerate(jobs.get(job, ()))}


class ChiefWatch:
    """Raises an error when the chief is lost.

    Args:
        cluster: with a chief.
    """

    def __init__(self, cluster: Cluster):
        self._address, self._name = cluster.workers[0], cluster.describe(0)
        self._was_reached, self._last_time = False, time.monotonic()
        self._timeout, self._patience = cluster_timeout(), default_patience()

    @property
    def is_unreachable(self) -> bool:
        """Whether the chief cannot be reached at this moment."""
        return not is_reachable(self._address)

    @property
    def has_left(self) -> bool:
        """Whether the chief cannot be reached now, and could be before, or not for a while."""
        waited = time.monotonic() - self._last_time > self._patience
        return (self._was_reached or waited) and self.is_unreachable

    def check(self) -> None:
        """Checks that the chief is there; to be called every few seconds.

        Raises:
            PeerLost: the chief did not start in time, or could not be reached for too long.
        """
        now = time.monotonic()
        if is_reachable(self._address):
            self._was_reached, self._last_time = True, now
        elif self._was_reached and now - self._last_time > self._patience:
            raise PeerLost(
                f"{self._name} cannot be reached any more; start the job again, it goes on from "
                "its last checkpoint."
            )
        elif now - self._last_time > self._timeout:
            raise PeerLost(
                f"{self._name} did not come within {self._timeout:g} s; look if it was started, "
                "and what it has said."
            )
