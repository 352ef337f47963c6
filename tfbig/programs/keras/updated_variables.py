"""Checks which variables a forward pass updates."""

from collections.abc import Set

from tfbig.errors import UserError
from tfbig.programs.tracing import RecordingScope


def check_updates(
    scope: RecordingScope, variables: list, listed: Set[int], *, in_slices: bool
) -> None:
    """Refuses updates of variables that would be lost, or cannot be made.

    Args:
        scope: in which the model was called.
        variables: those of the program.
        listed: the ids of the variables that the model lists.
        in_slices: whether weights are in slices.

    Raises:
        UserError: there is one. The message names the variable.
    """
    known = {id(v) for v in variables}
    lost = [v for i, v in scope.updated.items() if i not in known and i not in listed]
    if lost:
        raise UserError(
            f"the model updates the variable {lost[0].path!r} in a call, and neither the model "
            "nor one of its layers lists it; create it with self.add_weight in build(), or "
            "assign it to an attribute of the layer in __init__."
        )
    whole = [v for v in scope.updated.values() if in_slices and scope.divided(v)]
    if whole:
        raise UserError(
            f"the model assigns its weight {whole[0].path!r} in a call, and "
            'model_distribution="owner_full" keeps weights in slices; create it with '
            "add_weight(trainable=False)."
        )
