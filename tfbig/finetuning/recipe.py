"""Recipe: how a loaded model is adapted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfbig.errors import NotBuiltError, UserError

REGRESSION = "regression"
BACKBONE = "backbone"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `tfbig.fine_tune` adapts a model: its head, what is trained, when and how fast.

    Layers are those with weights, from the input to the output; nested models count by their
    layers. Patterns are matched with their names, as file names are ("block_3*").

    Example:

        recipe = tfbig.Recipe(head=5, freeze="backbone", unfreeze={500: "block_3*"})

    Args:
        head: a new head for so many classes, or "regression" for one number; None: the model's
            own.
        freeze: "backbone" (all but the last layer, or the new head), how many of the first
            layers, or patterns. A frozen BatchNormalization keeps its statistics too.
        unfreeze: by the global step from which on they are trained, patterns of frozen layers, or
            "*" for all. The optimizer's state of those that were trained before is kept.
        learning_rate: a number, or a schedule as in a config file.
        rate_decay: what the rate is multiplied by for each layer further from the output (Howard
            and Ruder, "Universal language model fine-tuning", 2018); 1: all alike.
        optimizer: a name, or a name and arguments as in a config file.
        loss, metrics: as for `compile`; None: for a new head those of its kind, else the model's.

    Raises:
        UserError: a field has a value it cannot have.
        NotBuiltError: LoRA is asked for.
    """

    head: int | str | None = None
    freeze: str | int | Sequence[str] | None = None
    unfreeze: Mapping[int, str | Sequence[str]] = dataclasses.field(default_factory=dict)
    learning_rate: Any = 1e-4
    rate_decay: float = 1.0
    optimizer: Any = "adamw"
    loss: Any = None
    metrics: Any = None
    lora_rank: int | None = None

    def __post_init__(self):
        if self.lora_rank is not None:
            raise NotBuiltError(
                f"Recipe.lora_rank={self.lora_rank!r} is not built yet; leave it None, and write "
                'freeze="backbone" to train little.'
            )
        head = self.head
        if head is not None and head != REGRESSION and not (_is_int(head) and head >= 2):
            raise UserError(
                f'Recipe.head={head!r}: expected the number of classes, "regression", or None.'
            )
        if _is_int(self.freeze) and self.freeze < 0:
            raise UserError(f"Recipe.freeze={self.freeze}: expected 0 layers or more.")
        rate = self.rate_decay
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise UserError(f"Recipe.rate_decay={rate!r}: expected a number above 0, at most 1.")
        for step in self.unfreeze:
            if not _is_int(step) or step < 1:
                raise UserError(
                    f"Recipe.unfreeze: {step!r} is no global step; write, for example, "
                    'unfreeze={500: "block_3*"}.'
                )
        if self.unfreeze and self.freeze is None:
            raise UserError('Recipe.unfreeze needs frozen layers; add freeze="backbone", say.')


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
