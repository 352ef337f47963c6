"""Recipe: how a loaded model is adapted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from tfbig.errors import UserError

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
            layers, or patterns; all others are trained, also those that were frozen when the
            model was saved. A frozen BatchNormalization keeps its statistics too.
        unfreeze: by the global step from which on they are trained, patterns of frozen layers, or
            "*" for all. The optimizer's state of those that were trained before is kept.
        learning_rate: a number, or a schedule as in a config file.
        rate_decay: what the rate is multiplied by for each layer further from the output (Howard
            and Ruder, "Universal language model fine-tuning", 2018); 1: all alike.
        optimizer: a name, or a name and arguments as in a config file.
        loss, metrics: as for `compile`; None: for a new head those of its kind, else the model's.
        lora_rank: the rank of adapters (Hu et al., "LoRA", 2021), which are trained in place of
            the model's own weights: all of these are frozen, but for a new head (and, with
            freeze="backbone", the last layer). They are merged when the model is exported or
            saved; `tfbig.finetuning.save_adapters` writes them by themselves.
        lora_alpha: their product is multiplied by lora_alpha / lora_rank; None: by 1.
        lora_layers: patterns of the layers that get them, matched with names and with paths
            ("*attention/qkv"); None: all Dense and EinsumDense layers that are frozen.

    Raises:
        UserError: a field has a value it cannot have.
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
    lora_alpha: float | None = None
    lora_layers: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        head = self.head
        if head is not None and head != REGRESSION and not (_is_int(head) and head >= 2):
            raise UserError(
                f'Recipe.head={head!r}: expected the number of classes, "regression", or None.'
            )
        freeze = self.freeze
        if _is_int(freeze) and freeze < 0:
            raise UserError(f"Recipe.freeze={freeze}: expected 0 layers or more.")
        if not (freeze is None or _is_int(freeze) or _are_patterns(freeze)):
            raise UserError(
                f'Recipe.freeze={freeze!r}: expected "backbone", a number of layers, or patterns '
                "of their names."
            )
        rate = self.rate_decay
        if not _is_number(rate) or not 0 < rate <= 1:
            raise UserError(f"Recipe.rate_decay={rate!r}: expected a number above 0, at most 1.")
        if not isinstance(self.unfreeze, Mapping):
            raise UserError(
                f"Recipe.unfreeze={self.unfreeze!r}: expected a dict of patterns by global step; "
                'write, for example, unfreeze={500: "block_3*"}.'
            )
        for step in self.unfreeze:
            if not _is_int(step) or step < 1:
                raise UserError(
                    f"Recipe.unfreeze: {step!r} is no global step; write, for example, "
                    'unfreeze={500: "block_3*"}.'
                )
        if self.unfreeze and self.freeze is None:
            raise UserError('Recipe.unfreeze needs frozen layers; add freeze="backbone", say.')
        self._check_lora()

    def _check_lora(self) -> None:
        rank, alpha = self.lora_rank, self.lora_alpha
        if rank is None:
            for name in ("lora_alpha", "lora_layers"):
                if getattr(self, name) is not None:
                    raise UserError(f"Recipe.{name} needs lora_rank; add lora_rank=8, say.")
            return
        if not _is_int(rank) or rank < 1:
            raise UserError(f"Recipe.lora_rank={rank!r}: expected a whole number of 1 or more.")
        if alpha is not None and (not _is_number(alpha) or not alpha > 0):
            raise UserError(f"Recipe.lora_alpha={alpha!r}: expected a number above 0, or None.")
        if self.freeze not in (None, BACKBONE) or self.unfreeze:
            field = "unfreeze" if self.unfreeze else "freeze"
            raise UserError(
                f"Recipe.{field}={getattr(self, field)!r} does not go with lora_rank, which "
                'freezes all the model\'s own weights; leave it out, or write freeze="backbone".'
            )


def _are_patterns(value: Any) -> bool:
    listed = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return isinstance(value, str) or listed


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
