"""Copies the values of a program to one of the same model elsewhere."""

from typing import Any

from tfbig.programs.keras.keras_program import KerasProgram


def bytes_of_all(variables: dict[str, Any]) -> int:
    """The bytes of a program's `named_variables`, its optimizer's among them."""
    return sum(v.shape.num_elements() * v.dtype.size for v in variables.values())


def copy_values(there: dict[str, Any], here: KerasProgram, step: int) -> None:
    """Gives a program the values of another one.

    Args:
        there: the other program's `named_variables`.
        here: of a model from the same builder, built.
        step: the global step at which the other program was trained last.
    """
    here.enter_phase(step)
    # By order and not by name: names of a subclass's variables have a counter in them.
    for mine, theirs in zip(here.named_variables().values(), there.values(), strict=True):
        mine.assign(theirs.numpy())
    here.refresh_constants()
