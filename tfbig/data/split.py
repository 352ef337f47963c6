"""The parts of the data that are trained on, validated and tested."""

import dataclasses

import numpy as np

from tfbig.errors import UserError

PARTS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The numbers of the examples of each part: int64 arrays, increasing.

    Example: `Split(train=[0, 1, 2], test=[3])`, whose validation part is empty.
    """

    train: np.ndarray
    validation: np.ndarray = ()
    test: np.ndarray = ()

    def __post_init__(self):
        for name in PARTS:
            part = np.asarray(getattr(self, name))
            if part.ndim != 1 or (part.size and part.dtype.kind not in "iu"):
                raise UserError(
                    f"Split: {name} is {part.dtype.name} of shape {list(part.shape)}; expected "
                    "the examples' numbers, integers of shape [n]."
                )
            object.__setattr__(self, name, np.sort(part.astype(np.int64)))

    def __repr__(self) -> str:
        return f"Split({', '.join(f'{name}: {len(getattr(self, name))}' for name in PARTS)})"
