"""Error handling around work that all tasks of a cluster do together."""

import contextlib
import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from tfbig.errors import CheckpointError, PeerLost
from tfbig.placement.control.peers import Peers
from tfbig.placement.control.preflight import compare
from tfbig.run_config import RunConfig

_LOSS_TIMEOUT = 30.0  # seconds; longer than the silence after which a task is lost


@contextlib.contextmanager
def cluster_error_scope(peers: Peers, config: RunConfig | None = None) -> Iterator[None]:
    """A context for work that all tasks of a cluster do together.

    An error in this task is sent to the other tasks, which would otherwise wait for it. If an
    error here was caused by the loss of another task, the raised error names that task.

    Args:
        peers: the tasks of the cluster; with a single task the context has no effect.
        config: the RunConfig, which is first compared between the tasks.

    Raises:
        PeerLost: another task is lost.
        UserError: the tasks' configs differ.
    """
    try:
        if config is not None:
            fields = dataclasses.asdict(config)
            del fields["model_dir"]  # only the chief writes, and others may have another folder
            compare(peers, {f"RunConfig.{name}": repr(value) for name, value in fields.items()})
        yield
    except PeerLost:
        raise
    except BaseException as error:
        # A checkpoint may have failed because a lost ps could not write its part.
        cause = error.__cause__ if isinstance(error, CheckpointError) else error
        if isinstance(cause, tf.errors.OpError):
            timeout = _LOSS_TIMEOUT if _may_come_from_another_task(cause) else 1.0
            lost = peers.wait_for_loss(timeout)
            if lost is not None:
                raise lost from error
        peers.disconnect(_one_line(error))
        raise


def _may_come_from_another_task(error: tf.errors.OpError) -> bool:
    """Whether a collective operation may have failed because another task did not join it."""
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
