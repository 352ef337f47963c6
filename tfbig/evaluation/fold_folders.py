"""The files of a cross-validation in its model_dir, from which a second call resumes."""

import glob
import json
import os
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.evaluation.output import to_json, write_atomically, write_json
from tfbig.metrics.metric import Value

_PLAN, _SPLIT = "cross_validation.json", "folds.npy"


def fold_folder(model_dir: str, number: int) -> str:
    """Returns the folder of a fold, which is also its model_dir; folds are counted from 1."""
    return os.path.join(model_dir, f"fold_{number}")


def saved_seed(model_dir: str | None) -> int | None:
    """Returns the seed that the first call drew; None if there is no earlier call."""
    plan = _read(os.path.join(model_dir, _PLAN)) if model_dir else None
    return plan["seed"] if plan else None


def save_plan(model_dir: str, plan: dict[str, Any], fold: np.ndarray) -> None:
    """Saves the plan and the split, or checks that they equal those of the folds in model_dir.

    Args:
        model_dir: the folder of the cross-validation.
        plan: the arguments by name, in JSON types.
        fold: int [n], the number of the fold that tests each example.

    Raises:
        UserError: model_dir has folds that were trained with another plan or split.
    """
    plan = json.loads(json.dumps(to_json(plan)))
    path = os.path.join(model_dir, _PLAN)
    if any(_has_started(folder) for folder in glob.glob(os.path.join(model_dir, "fold_*"))):
        _check_same(model_dir, _read(path), plan, fold)
        return

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            np.save(file, fold, allow_pickle=False)

    write_atomically(os.path.join(model_dir, _SPLIT), write)
    write_json(path, plan)


def read_results(path: str) -> dict[str, Value] | None:
    """Returns the results of a finished fold by name; None if it has not finished."""
    content = _read(path)
    return None if content is None else {n: _numbers(v) for n, v in content["figures"].items()}


def _has_started(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "fold.json")) or bool(
        glob.glob(os.path.join(folder, "checkpoints", "ckpt-*"))
    )


def _check_same(model_dir: str, saved: dict | None, plan: dict, fold: np.ndarray) -> None:
    if saved is None:
        raise UserError(
            f"cross_validate: {model_dir!r} has folds, but the file {_PLAN} with their settings "
            "is missing; pass another model_dir."
        )
    changed = [name for name in plan if saved.get(name) != plan[name]]
    if changed:
        changes = "; ".join(f"{n} was {saved.get(n)!r} and is {plan[n]!r}" for n in changed)
        raise UserError(
            f"cross_validate: the folds in {model_dir!r} were trained with other arguments: "
            f"{changes}. Use the same arguments, or pass another model_dir."
        )
    try:
        same = np.array_equal(np.load(os.path.join(model_dir, _SPLIT), allow_pickle=False), fold)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cross_validate: the split of the folds in {model_dir!r} cannot be read ({error}); "
            "pass another model_dir."
        ) from error
    if not same:
        raise UserError(
            f"cross_validate: the folds in {model_dir!r} have other examples: stratify, groups or "
            "the data have changed. Use the same ones, or pass another model_dir."
        )


def _read(path: str) -> dict | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"cross_validate: {path!r} cannot be read ({error}); remove it, or pass another "
            "model_dir."
        ) from error


def _numbers(value: Any) -> Value:
    """Reverses `to_json`: null becomes NaN, and lists become arrays."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return np.array(value, np.float64)
    return float("nan") if value is None else float(value)
