"""Recipe: the options for fine-tuning a loaded model."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from tfbig.errors import UserError

REGRESSION = "regression"
BACKBONE = "backbone"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The options of `tfbig.fine_tune`: the head, and which layers are trained, when and how fast.

    "Layers" are the layers with weights, from the input to the output, including those of nested
    models. Patterns match their names like file names ("block_3*").

    Example:

        recipe = tfbig.Recipe(head=5, freeze="backbone", unfreeze={500: "block_3*"})

    Args:
        head: number of classes of a new head, or "regression" for a head with one output; None:
            keeps the head of the model.
        freeze: "backbone" (all but the last layer, or the new head), the number of first layers to
            freeze, or patterns. All other layers are trained, including those that were frozen
            when the model was saved. A frozen BatchNormalization keeps its statistics too.
        unfreeze: maps global steps to patterns of frozen layers ("*" for all) that are trained
            from that step on. The optimizer state of the other layers is kept.
        learning_rate: a number, or a schedule as in a config file.
        rate_decay: factor of the learning rate per layer, counted from the output (Howard and
            Ruder, "Universal language model fine-tuning", 2018); 1: the same rate for all.
        optimizer: a name, or a name and arguments as in a config file.
        loss, metrics: as for `compile`; None: the defaults for a new head, else those of the model.
        lora_rank: rank of adapters (Hu et al., "LoRA", 2021), which are trained instead of the
            model's weights. All weights are frozen except for a new head (with freeze="backbone",
            except for the last layer). Adapters are merged when the model is exported or saved;
            `tfbig.finetuning.save_adapters` saves only the adapters.
        lora_alpha: the product of the adapters is multiplied by lora_alpha / lora_rank; None: by 1.
        lora_layers: patterns of the layers with adapters, matched with names and with paths
            ("*attention/qkv"); None: all Dense and EinsumDense layers that are frozen.

    Raises:
        UserError: a field has an invalid value.
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
                    f"Recipe.unfreeze: {step!r} is not a global step; write, for example, "
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
                f"Recipe.{field}={getattr(self, field)!r} cannot be used with lora_rank, which "
                'freezes all weights of the model; omit it, or use freeze="backbone".'
            )


def recipe_from(config: Any) -> Recipe:
    """Builds a Recipe from a mapping, with a check of the field names.

    Example: `recipe_from({"head": 5, "freeze": "backbone", "unfreeze": {"500": "*"}})`.

    Args:
        config: a dict or a ConfigDict of Recipe's fields. The steps of `unfreeze` may be strings,
            because the keys of a ConfigDict are strings.

    Returns:
        A tfbig.Recipe.

    Raises:
        UserError: a field is unknown (the message lists the known ones) or has an invalid value.
    """
    if not hasattr(config, "items"):  # a ConfigDict has items(), but is not a Mapping
        raise UserError(
            f"recipe={config!r}: expected a ConfigDict of tfbig.Recipe's fields, such as "
            'ConfigDict({"head": 5, "freeze": "backbone"}).'
        )
    fields = {name: _plain(value) for name, value in config.items()}
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in fields:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            raise UserError(
                f"unknown Recipe field {name!r}{meant}; the fields are: {', '.join(known)}."
            )
    if "unfreeze" in fields:
        fields["unfreeze"] = _steps(fields["unfreeze"])
    return Recipe(**fields)


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _steps(unfreeze: Any) -> dict[Any, Any]:
    """Converts the keys of `unfreeze` to integers; Recipe rejects others."""
    if unfreeze is None:
        return {}
    if not isinstance(unfreeze, dict):
        raise UserError(
            f"Recipe.unfreeze={unfreeze!r}: expected patterns of layers by global step, such as "
            '{"500": "block_3*"}.'
        )
    return {
        int(step) if isinstance(step, str) and step.isdecimal() else step: patterns
        for step, patterns in unfreeze.items()
    }


def _are_patterns(value: Any) -> bool:
    listed = isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    return isinstance(value, str) or listed


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
