"""Before the first step: all tasks are there, and they belong together."""

import logging
from collections.abc import Callable, Mapping, Sequence

from tfbig.errors import UserError
from tfbig.placement.control.addresses import check_port_is_free, parse_address
from tfbig.placement.control.channel import Channel, default_patience
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.rendezvous import RendezvousServer, connect_to_chief

log = logging.getLogger("tfbig")


def join(
    workers: Sequence[str],
    index: int,
    facts: Mapping[str, str],
    *,
    wait_seconds: float = 300.0,
    patience: float | None = None,
    say: Callable[[str], None] = log.warning,
) -> Channel:
    """Waits for all tasks of a cluster, checks that they fit, and returns the channel.

    The chief listens on its port only until all are there, so that TensorFlow's server can have
    the port afterwards.

    Example: `join(["host0:2222", "host1:2222"], 1, {"tensorflow": tf.__version__})`.

    Args:
        workers: "host:port" of each task, the chief first, the same list for all.
        index: this task's place in it.
        facts: what has to be the same for all tasks, by name: versions, say.
        wait_seconds: how long to wait for the others.
        patience: seconds of silence after which a task is lost, later on too; None for
            TFBIG_PEER_PATIENCE, or 20.
        say: gets a line about who is missing, every 30 seconds.

    Raises:
        UserError: an address cannot be used, or the tasks do not fit; all tasks raise it.
        PeerLost: not all tasks have come in time; the message names those missing.
    """
    workers = list(workers)
    addresses = [parse_address(worker) for worker in workers]
    if len(set(addresses)) != len(addresses):
        raise UserError(f"workers={workers}: two tasks have one address; give each its own.")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(workers):
        raise UserError(
            f"index={index!r}: expected 0 to {len(workers) - 1}, as there are {len(workers)} tasks."
        )
    patience = default_patience() if patience is None else patience
    for name, value in (("wait_seconds", wait_seconds), ("patience", patience)):
        if not value > 0:
            raise UserError(f"{name}={value!r}: expected a number of seconds above 0.")
    check_port_is_free(addresses[index])
    if len(workers) == 1:
        connections = {}
    elif index == 0:
        connections = RendezvousServer(addresses[0], workers, wait_seconds, patience, say).receive()
    else:
        connections = {
            0: connect_to_chief(addresses[0], workers, index, wait_seconds, patience, say)
        }
    channel = Channel(workers, index, connections, patience=patience)
    try:
        compare(channel, facts)
    except UserError:
        channel.leave()  # the others raise the same
        raise
    except BaseException as error:
        channel.leave(f"{type(error).__name__}: {error}")
        raise
    return channel


def compare(peers: Peers, facts: Mapping[str, str]) -> None:
    """Checks that all tasks have the same facts, and raises the same error on all if not.

    Args:
        peers: the tasks; all call this.
        facts: by name, such as "config" or "model"; hashes of what is large.

    Raises:
        UserError: a task differs from the chief; the message names it and the fact.
    """
    chief, *others = peers.all_gather(dict(facts))
    differences = []
    for index, found in enumerate(others, start=1):
        fields = [name for name in {**chief, **found} if chief.get(name) != found.get(name)]
        if fields:
            differences.append(
                f"{peers.describe(index)} differs from the chief in "
                + ", ".join(
                    f"{name}: {found.get(name, 'nothing')}, the chief has "
                    f"{chief.get(name, 'nothing')}"
                    for name in fields
                )
            )
    if differences:
        raise UserError(
            "; ".join(differences) + ". Run the same program, with the same versions, config and "
            "data, on all tasks."
        )
