"""Reads the `params` of model_fn and input_fn, with defaults and a check of the names."""

from collections.abc import Mapping
from typing import Any

from tfbig.errors import UserError


def read_params(
    params: Any, defaults: Mapping[str, Any], *, owner: str, ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns `defaults` overridden by `params`; a name that has no default is an error.

    Example:

        read_params({"width": 64}, {"width": 256, "layers": 4}, owner="my_model.build")
        # {"width": 64, "layers": 4}

    Args:
        params: dict, ml_collections.ConfigDict or None.
        defaults: every known name with its default.
        owner: the function that takes the params, for error messages.
        ignore: names that other functions read.

    Raises:
        UserError: params is not a mapping, or has an unknown name; the message lists the known
            names.
    """
    if params is None:
        return dict(defaults)
    # ConfigDict is not registered as a Mapping, but has items() too.
    if not hasattr(params, "items"):
        raise UserError(
            f"params of {owner}: expected a dict or a ConfigDict, received {params!r}; "
            f"its fields are: {', '.join(defaults)}."
        )
    given = {name: value for name, value in params.items() if name not in ignore}
    unknown = sorted(str(name) for name in given if name not in defaults)
    if unknown:
        raise UserError(
            f"unknown params of {owner}: {', '.join(map(repr, unknown))}; "
            f"the known ones are: {', '.join(defaults)}."
        )
    return {**defaults, **given}


def read_data_params(params: Any, defaults: Mapping[str, Any], *, owner: str) -> dict[str, Any]:
    """Like `read_params` for `params["data"]`, the part of the params that an input_fn reads."""
    if params is not None and not hasattr(params, "items"):
        raise UserError(f"params of {owner}: expected a dict or a ConfigDict, received {params!r}.")
    data = None if params is None else params.get("data")
    return read_params(data, defaults, owner=f"{owner} (params.data)")
