"""The interface of one kind of cluster."""

import abc
from collections.abc import Mapping

from tfbig.errors import UserError
from tfbig.placement.clusters.cluster import Cluster


class ClusterKind(abc.ABC):
    """Reads one kind of cluster from the variables that its scheduler sets.

    A new kind is a module with one subclass, and its place in `KINDS`.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """What a person calls it, "SLURM" say."""

    @abc.abstractmethod
    def find(self, environ: Mapping[str, str]) -> Cluster | None:
        """The cluster that the variables describe; None if they are not there.

        A cluster of one task alone is None too: its training is not distributed.

        Raises:
            UserError: the variables are there and make no cluster.
        """


def whole_number(environ: Mapping[str, str], name: str, least: int = 0) -> int:
    """The value of a variable that has to be a whole number.

    Raises:
        UserError: it is something else, or less than `least`.
    """
    text = environ[name].strip()
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise UserError(f"{name}={environ[name]!r}: expected a whole number, {least} or more.")
    return int(text)
