"""What cross-validation keeps in its model_dir, so that a second call goes on with it."""

import glob
import json
import os
from typing import Any

import numpy as np

from tfbig.errors import UserError
from tfbig.evaluation.json_files import plain, write_json, write_renamed
from tfbig.metrics.metric import Value

_PLAN, _SPLIT = "cross_validation.json", "folds.npy"


def fold_folder(model_dir: str, number: int) -> str:
    """The folder of a fold, counted from 1; its model_dir too."""
    return os.path.join(model_dir, f"fold_{number}")


def kept_seed(model_dir: str | None) -> int | None:
    """The seed that was drawn in the first call, or None."""
    plan = _read(os.path.join(model_dir, _PLAN)) if model_dir else None
    return plan["seed"] if plan else None


def keep_plan(model_dir: str, plan: dict[str, Any], fold: np.ndarray) -> None:
    """Writes down what is going to be done, or makes sure that it is what was begun.

    Args:
        model_dir: of the cross-validation.
        plan: by the name of an argument, its value; plain values.
        fold: int [n]; the number of the fold that tests the example.

    Raises:
        UserError: folds are there that were trained in another way.
    """
    plan = json.loads(json.dumps(plain(plan)))
    path = os.path.join(model_dir, _PLAN)
    if any(_is_begun(folder) for folder in glob.glob(os.path.join(model_dir, "fold_*"))):
        _check_same(model_dir, _read(path), plan, fold)
        return

    def write(beside: str) -> None:
        with open(beside, "wb") as file:
            np.save(file, fold, allow_pickle=False)

    write_renamed(os.path.join(model_dir, _SPLIT), write)
    write_json(path, plan)


def read_figures(path: str) -> dict[str, Value] | None:
    """The figures of a fold that has ended; None if it has not."""
    told = _read(path)
    return None if told is None else {n: _numbers(v) for n, v in told["figures"].items()}


def _is_begun(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "fold.json")) or bool(
        glob.glob(os.path.join(folder, "checkpoints", "ckpt-*"))
    )


def _check_same(model_dir: str, kept: dict | None, plan: dict, fold: np.ndarray) -> None:
    if kept is None:
        raise UserError(
            f"cross_validate: {model_dir!r} has folds, but no {_PLAN} that says how they were "
            "trained; give another model_dir."
        )
    changed = [name for name in plan if kept.get(name) != plan[name]]
    if changed:
        told = "; ".join(f"{n} was {kept.get(n)!r} and is {plan[n]!r}" for n in changed)
        raise UserError(
            f"cross_validate: the folds in {model_dir!r} were begun in another way: {told}. Write "
            "it as it was, or give another model_dir."
        )
    try:
        same = np.array_equal(np.load(os.path.join(model_dir, _SPLIT), allow_pickle=False), fold)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cross_validate: the split of the folds in {model_dir!r} cannot be read ({error}); "
            "give another model_dir."
        ) from error
    if not same:
        raise UserError(
            f"cross_validate: the folds in {model_dir!r} have other examples than now: stratify, "
            "groups or the data have changed. Write them as they were, or give another model_dir."
        )


def _read(path: str) -> dict | None:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(
            f"cross_validate: {path!r} cannot be read ({error}); remove it, or give another "
            "model_dir."
        ) from error


def _numbers(value: Any) -> Value:
    """What JSON has made null is NaN again, and a matrix an array."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return np.array(value, np.float64)
    return float("nan") if value is None else float(value)
