"""Before the first step: all tasks of a cluster connect, and their versions and configs agree."""

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
    warn: Callable[[str], None] = log.warning,
) -> Channel:
    """Connects all tasks of a cluster, compares their facts, and returns the channel.

    The chief listens on its port only until all tasks are connected, so TensorFlow's server can
    use the port afterwards.

    Example: `join(["host0:2222", "host1:2222"], 1, {"tensorflow": tf.__version__})`.

    Args:
        workers: "host:port" of each task, the chief first; the same list on all tasks.
        index: the index of this task in the list.
        facts: values that have to be equal on all tasks, by name; versions, for example.
        wait_seconds: how long to wait for the other tasks.
        patience: seconds of silence after which a task is lost, also later in the run; None for
            TFBIG_PEER_PATIENCE, or 20.
        warn: receives a line about the missing tasks every 30 seconds.

    Raises:
        UserError: an address cannot be used, or the facts differ; all tasks raise it.
        PeerLost: some tasks did not join in time; the message names them.
    """
    workers = list(workers)
    addresses = [parse_address(worker) for worker in workers]
    if len(set(addresses)) != len(addresses):
        raise UserError(f"workers={workers}: two tasks have the same address; give each its own.")
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
        server = RendezvousServer(addresses[0], workers, wait_seconds, patience, warn)
        connections = server.receive()
    else:
        connections = {
            0: connect_to_chief(addresses[0], workers, index, wait_seconds, patience, warn)
        }
    channel = Channel(workers, index, connections, patience=patience)
    try:
        compare(channel, facts)
    except UserError:
        channel.disconnect()  # the other tasks raise the same error
        raise
    except BaseException as error:
        channel.disconnect(f"{type(error).__name__}: {error}")
        raise
    return channel


def compare(peers: Peers, facts: Mapping[str, str]) -> None:
    """Checks that the facts are equal on all tasks; if not, all tasks raise the same error.

    Args:
        peers: the tasks; all of them call this function.
        facts: values by name, such as "config" or "model"; pass hashes of large values.

    Raises:
        UserError: a task differs from the chief; the message names the task and the fact.
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
