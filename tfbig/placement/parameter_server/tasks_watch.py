"""Whether tasks of a cluster can be reached, and waiting until they can."""

import logging
import time
from collections.abc import Mapping, Sequence

from tfbig.errors import PeerLost
from tfbig.placement.control.addresses import connect, parse_address

log = logging.getLogger("tfbig")

_SAY_EVERY = 30.0
_TRY_EVERY = 0.2
_TRY_SECONDS = 5.0


def is_reachable(address: str, seconds: float = _TRY_SECONDS) -> bool:
    """Whether somebody listens at "host:port"; the system says so for a process that is stopped."""
    try:
        connect(parse_address(address), seconds).close()
    except OSError:
        return False
    return True


def wait_for(tasks: Mapping[str, str], seconds: float, say_every: float = _SAY_EVERY) -> None:
    """Waits until all of these tasks can be reached, and says which ones are missing.

    Args:
        tasks: name ("ps 0") to "host:port".
        seconds: how long.
        say_every: seconds between two lines.

    Raises:
        PeerLost: not all have come in time; the message names those missing.
    """
    began = said = time.monotonic()
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
        if now - said >= say_every:
            said = now
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
