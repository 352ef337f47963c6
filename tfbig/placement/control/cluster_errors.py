"""What the tasks of a cluster owe each other when one of them fails."""

import contextlib
import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from tfbig.errors import CheckpointError, PeerLost
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.preflight import compare
from tfbig.run_config import RunConfig

_VERDICT_SECONDS = 30.0  # longer than a task has to be silent to be given up


@contextlib.contextmanager
def cluster_error_scope(peers: Peers, config: RunConfig | None = None) -> Iterator[None]:
    """Held around what all tasks of a cluster do together.

    An error in this task is told to the others, which would wait for it; an error that comes of
    another task's end says which.

    Args:
        peers: the tasks; nothing happens if there is but one.
        config: compared between them first.

    Raises:
        PeerLost: another task is gone.
        UserError: the tasks' configs differ.
    """
    try:
        if config is not None:
            fields = dataclasses.asdict(config)
            compare(peers, {f"RunConfig.{name}": repr(value) for name, value in fields.items()})
        yield
    except PeerLost:
        raise
    except BaseException as error:
        # A checkpoint may be one that a lost ps could not write its part of.
        cause = error.__cause__ if isinstance(error, CheckpointError) else error
        if isinstance(cause, tf.errors.OpError):
            lost = peers.lost(_VERDICT_SECONDS if _may_be_of_another(cause) else 1.0)
            if lost is not None:
                raise lost from error
        peers.leave(_one_line(error))
        raise


def _may_be_of_another(error: tf.errors.OpError) -> bool:
    """Whether an error may come of a collective operation that another task has not joined."""
    kinds = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.InternalError,
        tf.errors.DeadlineExceededError,
    )
    return isinstance(error, kinds) or "ollective" in error.message


def _one_line(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "message", None) or error).split())
    return (text or type(error).__name__)[:400]
