"""How an optimizer's updates are carried out: the interface that a program applies them by."""

from typing import Any

from tfbig import _private_api
from tfbig.programs.row_updates import check_tables, for_optimizer, mark_slots


class Updates:
    """Every replica holds the optimizer's whole state and does the whole update.

    The base of all others. A program knows no replicas; it is handed one of these before it is
    built, and builds and applies its optimizer through it.

    Attributes:
        compiled: whether what is pure in an update may be compiled with XLA; set before a step
            is traced.
        reduces: whether `apply` itself sums gradients over the replicas.
        whole: whether an optimizer's slots are as they are, and not in slices.
        concurrent: whether others may update the same variables at the same time.
    """

    compiled: bool = False
    reduces: bool = False
    whole: bool = True
    concurrent: bool = False

    def build(self, optimizer: Any, variables: list) -> None:
        """Makes an optimizer's variables.

        Args:
            optimizer: a Keras optimizer; one that is built already stays as it is.
            variables: all that are ever trained.

        Raises:
            UserError: it cannot update them.
        """
        check_tables(optimizer, variables)
        if not optimizer.built:  # LossScaleOptimizer would make its variables twice
            optimizer.build(variables)
        mark_slots(optimizer, variables)

    def apply(self, optimizer: Any, gradients: list, variables: list) -> None:
        """Updates variables, inside a replica.

        Args:
            optimizer: built by `build`.
            gradients: one a variable, or None; equal on all replicas, or where `reduces` is true
                what each replica adds to their sum; slices of distinct rows for the tables of a
                ShardedEmbedding.
            variables: those trained now.
        """
        optimizer.apply(for_optimizer(optimizer, gradients, variables), variables)
        _private_api.put_averages_in_place(optimizer)

    def finalize(self, optimizer: Any, variables: list) -> None:
        """Puts the averages of use_ema in place at the end of a run."""
        optimizer.finalize_variable_values(variables)

    def slots(self) -> dict[str, Any]:
        """The optimizer's variables that are kept here and not by the optimizer, by path."""
        return {}
