"""How the state of a program, its variables that are not trained, is summed over parts."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfbig.programs.program import Program

_STREAM = 1_000_003  # between the random seeds of two parts


class StateKinds:
    """Sorts a program's state by how the parts of a global batch change it.

    Moving statistics, which are floats, are averaged over the parts, weighted by examples. Other
    state (random seeds) changes in the same way in all parts. State "in sequence" can be changed
    by one part only. Variables that a step leaves unchanged, such as frozen weights, are left out.

    Args:
        program: whose state.
    """

    def __init__(self, program: Program):
        state = program.state
        self._is_float = [tf.as_dtype(v.dtype).is_floating for v in state]
        self._is_seed = ["seed_generator_state" in _name(v) for v in state]
        self._in_sequence = [id(v) in program.sequential_state for v in state]
        self._unchanged = [False] * len(state)

    def note_unchanged(self, new: list, old: list) -> None:
        """Notes which values a part has left as they are; called when a part has been traced.

        Args:
            new, old: the state's values after the part and before it.
        """
        self._unchanged = [a is b for a, b in zip(new, old, strict=True)]

    def moving(self, values: list) -> list:
        """Those of the state's values that are averaged over the parts."""
        return self._chosen(values, lambda is_float, single: is_float and not single)

    def others(self, values: list) -> list:
        """Those that change in the same way in all parts."""
        return self._chosen(values, lambda is_float, single: not (is_float or single))

    def sequential_state(self, values: list) -> list:
        """Those that only one part can change."""
        return self._chosen(values, lambda is_float, single: single)

    def with_streams(self, values: list, part: Any) -> list:
        """The state from which a part starts: its random numbers differ from other parts'.

        Args:
            values: of the state.
            part: int32 scalar, its number in the global batch.
        """
        return _shifted(values, self._is_seed, part, 1)

    def without_streams(self, others: list, part: Any) -> list:
        """The inverse of `with_streams`, for the values that `others` has chosen."""
        return _shifted(others, self.others(self._is_seed), part, -1)

    def _chosen(self, values: list, chooses: Any) -> list:
        kinds = zip(values, self._is_float, self._in_sequence, self._unchanged, strict=True)
        return [v for v, is_float, single, same in kinds if chooses(is_float, single) and not same]


def _shifted(values: list, are_seeds: Iterable[bool], part: Any, sign: int) -> list:
    """Values of which the seeds are moved by the part's number times a constant."""
    return [
        _moved(value, part, sign) if is_seed else value
        for value, is_seed in zip(values, are_seeds, strict=True)
    ]


def _moved(seed: Any, part: Any, sign: int) -> tf.Tensor:
    shift = tf.cast(part, seed.dtype) * tf.constant(_STREAM, seed.dtype)
    return seed + shift if sign > 0 else seed - shift


def _name(variable: Any) -> str:
    return getattr(variable, "path", None) or variable.name
