"""Saves and loads a fitted Cleaning as JSON."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfbig.data.cleaning.balance import Balance
from tfbig.data.cleaning.fix_types import FixTypes
from tfbig.data.cleaning.missing import DropMissing, FillMissing
from tfbig.data.cleaning.outliers import ClipOutliers, DropOutliers
from tfbig.data.cleaning.report import Pass, Report, StepCount
from tfbig.data.cleaning.rows import DropDuplicates, Filter
from tfbig.data.cleaning.step import Step
from tfbig.errors import UserError

_FORMAT = "tfbig cleaning 1"
_STEPS = {
    step.__name__: step
    for step in (
        *(FixTypes, DropMissing, FillMissing, DropDuplicates),
        *(ClipOutliers, DropOutliers, Filter, Balance),
    )
}


def as_json(steps: Sequence[Step], spec: Any, report: Report) -> dict:
    """The JSON value from which `from_json` restores a Cleaning."""
    for step in steps:
        if _STEPS.get(type(step).__name__) is not type(step):
            raise UserError(f"Cleaning.save: {step} is not a step of tfbig, so it cannot be saved.")
    return {
        "format": _FORMAT,
        "features": {n: _spec_json(s) for n, s in spec.items()} if isinstance(spec, dict) else None,
        "array": None if isinstance(spec, dict) else _spec_json(spec),
        "steps": [
            {"step": type(step).__name__, "arguments": step.arguments(), "fitted": step.fitted}
            for step in steps
        ],
        "report": [dataclasses.asdict(done) for done in report.passes],
    }


def from_json(
    data: dict, path: str, predicates: Mapping[str, Callable]
) -> tuple[list[Step], Any, Report]:
    """The steps, the raw features' spec and the report.

    Raises:
        UserError: the value is not one that `as_json` returns.
    """
    try:
        if data["array"] is None:
            spec = {name: tf.TensorSpec(**one) for name, one in data["features"].items()}
        else:
            spec = tf.TensorSpec(**data["array"])
        steps = [_step(step, predicates) for step in data["steps"]]
        report = Report(
            [
                Pass(**{**done, "steps": [StepCount(**count) for count in done["steps"]]})
                for done in data["report"]
            ]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"Cleaning.load({path!r}): the file is damaged: {error!r}.") from error
    names = [step.name for step in steps if isinstance(step, Filter)]
    unknown = [name for name in predicates if name not in names]
    if unknown:
        raise UserError(
            f"Cleaning.load(predicates={{{unknown[0]!r}: …}}): there is no such Filter; the "
            f"Filters are {', '.join(names) or 'none'}."
        )
    return steps, spec, report


def write(path: str, data: dict) -> None:
    """Writes JSON to a temporary file, then renames it."""
    beside = f"{path}.tmp-{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(beside, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(beside, path)
    except OSError as error:
        if os.path.exists(beside):
            os.remove(beside)
        raise UserError(
            f"Cleaning.save({path!r}) failed: {error.strerror}; pass a writable path."
        ) from error


def read(path: str) -> dict:
    """Reads a file that `write` wrote.

    Raises:
        UserError: the file does not exist, or has other content.
    """
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except OSError as error:
        raise UserError(
            f"Cleaning.load({path!r}): {error.strerror}; pass a file that Cleaning.save wrote."
        ) from error
    except ValueError:
        data = None
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise UserError(f"Cleaning.load({path!r}): it is not a file that Cleaning.save wrote.")
    return data


def _spec_json(spec: tf.TensorSpec) -> dict:
    return {"shape": spec.shape.as_list(), "dtype": spec.dtype.name}


def _step(data: dict, predicates: Mapping[str, Callable]) -> Step:
    arguments = dict(data["arguments"])
    kind = _STEPS[data["step"]]
    if kind is Filter:
        arguments["predicate"] = predicates.get(
            arguments["name"], _missing_predicate(arguments["name"])
        )
    step = kind(**arguments)
    step.fitted = data["fitted"]
    return step


def _missing_predicate(name: str) -> Callable:
    def predicate(batch: Any) -> None:
        raise UserError(
            f"Filter({name!r}) was saved without its predicate; use "
            f"Cleaning.load(path, predicates={{{name!r}: the function}})."
        )

    return predicate
