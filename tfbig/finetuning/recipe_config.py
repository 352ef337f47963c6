"""A recipe as a config file writes it."""

import dataclasses
import difflib
from typing import Any

from tfbig.errors import UserError
from tfbig.finetuning.recipe import Recipe


def recipe_from(config: Any) -> Recipe:
    """Builds a Recipe from a mapping, naming unknown fields.

    Example: `recipe_from({"head": 5, "freeze": "backbone", "unfreeze": {"500": "*"}})`.

    Args:
        config: a dict or a ConfigDict of Recipe's fields. The steps of `unfreeze` may be text, as
            the keys of a ConfigDict are.

    Returns:
        A tfbig.Recipe.

    Raises:
        UserError: a field is unknown, the message lists the known ones; or it has a value that
            it cannot have.
    """
    if not hasattr(config, "items"):  # a ConfigDict has it too, but is no Mapping
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
    """`unfreeze` with whole numbers for keys; Recipe refuses those that are none."""
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
