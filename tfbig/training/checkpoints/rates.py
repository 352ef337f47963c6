"""Learning rates that stay what they are while something is told of."""

import contextlib
from collections.abc import Iterator

from tfbig.programs.program import Program


@contextlib.contextmanager
def kept_rates(program: Program) -> Iterator[None]:
    """Puts the learning rates back at the end of the block, whoever has set them in it."""
    rates = [
        (variable, variable.numpy())
        for name, variable in program.named_variables().items()
        if name.endswith("learning_rate")
    ]
    yield
    for variable, value in rates:
        variable.assign(value)
