"""WarmStartSettings: a new model's first values from an earlier model's checkpoint."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.programs.program import Program
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint

log = logging.getLogger("tfbig")


@dataclasses.dataclass(frozen=True)
class WarmStartSettings:
    """Which variables of a new model take their first values from a checkpoint.

    They are used where model_dir has no checkpoint yet.

    Example:

        tfbig.Estimator(model_fn, "runs/new", warm_start_from=tfbig.WarmStartSettings(
            "runs/old", vars_to_warm_start="hidden.*",
            var_name_to_prev_var_name={"hidden/kernel": "dense/kernel"}))

    Args:
        ckpt_to_initialize_from: a model_dir, for its newest checkpoint, or one checkpoint, as
            `latest_checkpoint()` returns it; of tfbig or of tf.estimator.
        vars_to_warm_start: a regular expression, matched from a name's start: the trained
            variables whose names match. Or a list of such: all variables, the optimizer's too.
            None: none at all.
        var_name_to_vocab_info: another vocabulary; refused.
        var_name_to_prev_var_name: by a variable's name, the one that it has in the checkpoint.

    Raises:
        UserError: something given cannot be used.
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
                "WarmStartSettings(var_name_to_vocab_info=…) is not honoured: rows of an embedding "
                "are not moved to their places in another vocabulary. Keep the vocabulary, or "
                "leave that variable out of vars_to_warm_start and assign it in model_fn."
            )
        wanted = self.vars_to_warm_start
        listed = isinstance(wanted, (list, tuple)) and all(isinstance(w, str) for w in wanted)
        if not (wanted is None or isinstance(wanted, str) or listed):
            raise UserError(
                f"WarmStartSettings(vars_to_warm_start={wanted!r}): expected a regular expression, "
                'a list of them, or None; for example "dense.*".'
            )

    def values_for(self, program: Program) -> dict[str, np.ndarray]:
        """The values that a program's variables start from, by name in `named_variables`.

        Raises:
            UserError: the checkpoint lacks one of them, it has another shape, or nothing matches.
        """
        variables = program.named_variables()
        own = {name: name.split("/", 1)[1] for name in variables}
        unknown = set(self.var_name_to_prev_var_name or {}) - set(own.values())
        if unknown:
            raise UserError(
                f"WarmStartSettings.var_name_to_prev_var_name names {sorted(unknown)[0]!r}, which "
                f"model_fn does not make; it makes {', '.join(sorted(own.values()))}."
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
        log.info("%d variables start from %s", len(values), checkpoint.path)
        return values

    def _chosen(self, program: Program, own: dict[str, str]) -> list[str]:
        wanted = self.vars_to_warm_start
        if wanted is None:
            return []
        if isinstance(wanted, str):
            # A program that is not trained here does not tell its weights from their state.
            trained = {id(variable) for variable in program.trainable}
            candidates = [
                name
                for name, variable in program.named_variables().items()
                if (id(variable) in trained if trained else name.startswith("model/"))
            ]
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
    """The argument `warm_start_from` of an Estimator: settings, a path, or None."""
    if value is None or isinstance(value, WarmStartSettings):
        return value
    if isinstance(value, (str, os.PathLike)):
        return WarmStartSettings(value)
    raise UserError(
        f"warm_start_from={value!r}: expected a path, or tfbig.WarmStartSettings("
        "ckpt_to_initialize_from=…)."
    )
