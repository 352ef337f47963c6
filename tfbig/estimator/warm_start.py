"""WarmStartSettings: initial values of a new model from the checkpoint of an earlier one."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint

log = logging.getLogger("tfbig")


@dataclasses.dataclass(frozen=True)
class WarmStartSettings:
    """Which variables of a new model take their initial values from a checkpoint.

    The settings are used only if model_dir has no checkpoint yet.

    Example:

        tfbig.Estimator(model_fn, "runs/new", warm_start_from=tfbig.WarmStartSettings(
            "runs/old", vars_to_warm_start="hidden.*",
            var_name_to_prev_var_name={"hidden/kernel": "dense/kernel"}))

    Args:
        ckpt_to_initialize_from: a model_dir, for its newest checkpoint, or the path of one
            checkpoint, as `latest_checkpoint()` returns it; written by tfbig or tf.estimator.
        vars_to_warm_start: a regular expression that is matched at the start of a name; it
            selects among the trainable variables. A list of expressions selects among all
            variables, including those of the optimizer. None selects nothing.
        var_name_to_vocab_info: not supported; refused if it is not empty.
        var_name_to_prev_var_name: a dict from the name of a variable to its name in the
            checkpoint, where they differ.

    Raises:
        UserError: an argument has an invalid value.
    """

    ckpt_to_initialize_from: str | os.PathLike
    vars_to_warm_start: str | Sequence[str] | None = ".*"
    var_name_to_vocab_info: Mapping[str, Any] | None = None
    var_name_to_prev_var_name: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        path = self.ckpt_to_initialize_from
        if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
            raise UserError(
                f"WarmStartSettings(ckpt_to_initialize_from={path!r}): expected the path of a "
                "model_dir or a checkpoint."
            )
        if self.var_name_to_vocab_info:
            raise UserError(
                "WarmStartSettings(var_name_to_vocab_info=…) is not supported: rows of an "
                "embedding are not moved to their index in another vocabulary. Keep the "
                "vocabulary, or leave that variable out of vars_to_warm_start and assign it in "
                "model_fn."
            )
        wanted = self.vars_to_warm_start
        listed = isinstance(wanted, (list, tuple)) and all(isinstance(w, str) for w in wanted)
        if not (wanted is None or isinstance(wanted, str) or listed):
            raise UserError(
                f"WarmStartSettings(vars_to_warm_start={wanted!r}): expected a regular expression, "
                'a list of them, or None; for example "dense.*".'
            )

    def _replace(self, **fields: Any) -> "WarmStartSettings":
        """Returns a copy with new values of some fields, as tf.estimator's namedtuple did."""
        return dataclasses.replace(self, **fields)

    def values_for(self, program: ModelFnProgram) -> dict[str, np.ndarray]:
        """Returns the initial values of a program's variables, by name in `named_variables`.

        Raises:
            UserError: the checkpoint lacks a variable or has another shape for it, or a pattern
                matches nothing.
        """
        variables = program.named_variables()
        own = {name: name.split("/", 1)[1] for name in variables}
        unknown = set(self.var_name_to_prev_var_name or {}) - set(own.values())
        if unknown:
            raise UserError(
                f"WarmStartSettings.var_name_to_prev_var_name names {sorted(unknown)[0]!r}, which "
                f"model_fn does not create; it creates {', '.join(sorted(own.values()))}."
            )
        chosen = self._chosen(program, own)
        checkpoint = NamedCheckpoint(self.ckpt_to_initialize_from)
        values = {}
        for name in chosen:
            previous = (self.var_name_to_prev_var_name or {}).get(own[name], own[name])
            value = checkpoint.value(previous)
            if list(value.shape) != list(variables[name].shape):
                raise UserError(
                    f"warm start: {own[name]} has shape {list(variables[name].shape)}, and "
                    f"{previous} in {checkpoint.path} has {list(value.shape)}; leave it out of "
                    "vars_to_warm_start."
                )
            values[name] = value
        log.info("%d variables are initialized from %s", len(values), checkpoint.path)
        return values

    def _chosen(self, program: ModelFnProgram, own: dict[str, str]) -> list[str]:
        wanted = self.vars_to_warm_start
        if wanted is None:
            return []
        if isinstance(wanted, str):
            weights = program.weight_names
            candidates = [name for name in own if own[name] in weights]
            patterns = [wanted]
        else:
            candidates, patterns = list(own), list(wanted)
        for pattern in patterns:
            if not any(re.match(pattern, own[name]) for name in candidates):
                raise UserError(
                    f"WarmStartSettings(vars_to_warm_start=…): no variable matches {pattern!r}; "
                    f"there are {', '.join(sorted(own[name] for name in candidates))}."
                )
        return [n for n in candidates if any(re.match(p, own[n]) for p in patterns)]


def checked_warm_start(value: Any) -> WarmStartSettings | None:
    """Returns the settings for an Estimator's `warm_start_from`: settings, a path, or None."""
    if value is None or isinstance(value, WarmStartSettings):
        return value
    if isinstance(value, (str, os.PathLike)):
        return WarmStartSettings(value)
    raise UserError(
        f"warm_start_from={value!r}: expected a path, or tfbig.WarmStartSettings("
        "ckpt_to_initialize_from=…)."
    )
