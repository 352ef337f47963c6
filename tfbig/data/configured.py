"""An input_fn for data that a config describes: a source, its split, cleaning and augmentation."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfbig import data as rooms
from tfbig.data import cleaning as cleaning_steps, columns, splitting
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.params import read_data_params

_DEFAULTS = {
    "source": None,
    "eval_source": None,
    "batch_size": 64,
    "split": None,
    "cleaning": (),
    "stack": False,
    "augmentation": (),
}
_latest: dict[str, Any] = {}  # evaluation uses the held-out part of the split made for training


def input_fn(mode: str = "train", params: Any = None) -> Source:
    """Returns the data that `params.data` (in a config file: `config.data`) describes.

    Example: in a config file,

        config.input_fn = config.eval_input_fn = "tfbig.data.configured.input_fn"
        config.data = {
            "source": {"name": "CsvSource", "paths": "data/*.csv", "label": "sick"},
            "split": {"method": "stratified", "fractions": (0.8, 0.2), "seed": 0},
            "cleaning": [{"name": "FillMissing", "strategy": "median"}],
            "stack": True,
            "batch_size": 64,
        }

    Args:
        mode: "train", or any other value for the evaluation part.
        params: params.data has

            source: the name of a class of tfbig.data, or a dotted name, and its arguments.
            eval_source: the same for evaluation data, instead of a split; arguments that are not
                given are those of source.
            split: method: "fraction", "stratified", "group", "time" or "hash"; by: the feature
                with the groups, times or keys, which is not passed to the model; and the
                arguments of that function of tfbig.data.splitting. Evaluation reads the
                validation part, or the test part if there is none.
            cleaning: a list of steps of tfbig.data.cleaning, each a name and its arguments;
                fitted on the training part.
            stack: whether to stack the columns to one float32 array of shape [n, columns].
            augmentation: a list of layers for Source.augment.
            batch_size: examples per global batch.

    Returns:
        A batched Source.

    Raises:
        UserError: a name or an argument is unknown, or there are no evaluation data.
    """
    options = read_data_params(params, _DEFAULTS, owner="tfbig.data.configured.input_fn")
    plain = _plain(options)
    if mode == "train" or _latest.get("options") != plain:
        _latest.update(options=plain, parts=_build_parts(plain))
    train, held_out = _latest["parts"]
    if mode == "train":
        return train
    if held_out is None:
        raise UserError(
            "params.data has no evaluation data; add eval_source or split, such as "
            '{"method": "fraction", "fractions": (0.9, 0.1)}.'
        )
    return held_out


def _build_parts(options: dict) -> tuple[Source, Source | None]:
    """The training part, and the evaluation part or None."""
    given = options["source"]
    if not isinstance(given, Mapping) or "name" not in given:
        raise UserError(
            f"params.data.source={given!r}: expected the name of a source and its arguments, such "
            'as {"name": "CsvSource", "paths": "data/*.csv", "label": "price"}.'
        )
    train, held_out = _source(given), None
    if options["eval_source"] is not None and options["split"] is not None:
        raise UserError("params.data has both eval_source and split; use one of them.")
    if options["eval_source"] is not None:
        held_out = _source({**given, **options["eval_source"]})
    elif options["split"] is not None:
        split = _split(train, dict(options["split"]))
        if options["split"].get("by") is not None:
            train = train.map(functools.partial(columns.without_column, options["split"]["by"]))
        held_out = train.select(split.validation if len(split.validation) else split.test)
        train = train.select(split.train)
    if options["cleaning"]:
        steps = [_called("cleaning", cleaning_steps, step) for step in options["cleaning"]]
        cleaning = cleaning_steps.Cleaning(steps)
        train = cleaning.fit(train)
        held_out = held_out and cleaning.apply(held_out)
    made = []
    for source in (train, held_out):
        if source is not None:
            source = source.map(_stacked) if options["stack"] else source
            source = source.augment(options["augmentation"]) if options["augmentation"] else source
            source = source.batch(options["batch_size"])
        made.append(source)
    return made[0], made[1]


def _source(described: Mapping) -> Source:
    name = described["name"]
    if "." in name:
        module, _, attribute = name.rpartition(".")
        try:
            found = {attribute: getattr(importlib.import_module(module), attribute)}
        except (ImportError, AttributeError) as error:
            raise UserError(f"params.data.source.name={name!r}: {error}.") from error
        return _called("source", found, {**described, "name": attribute})
    return _called("source", {n: n for n in rooms.__all__ if n.endswith("Source")}, described)


def _called(field: str, known: Any, described: Mapping) -> Any:
    """Calls the function or class that `described` names, with the other entries as arguments."""
    arguments = dict(described)
    name = arguments.pop("name", None)
    names = list(known) if isinstance(known, Mapping) else known.__all__
    if name not in names:
        raise UserError(
            f"params.data.{field}: there is no {name!r}; expected one of: "
            f"{', '.join(sorted(names))}."
        )
    found = known[name] if isinstance(known, Mapping) else getattr(known, name)
    if isinstance(found, str):
        found = getattr(rooms, found)
    return _checked_call(f"{field}, {name}", found, arguments)


def _split(source: Source, described: dict) -> splitting.Split:
    method, by = described.pop("method", "fraction"), described.pop("by", None)
    wanted = {"group": by, "time": by, "hash": by}
    if method not in ("fraction", "stratified", *wanted):
        raise UserError(
            f"params.data.split.method={method!r}: expected fraction, stratified, group, time or "
            "hash."
        )
    if (method in wanted) != (by is not None):
        raise UserError(
            f"params.data.split: method {method!r} "
            + ("needs by, the name of a column." if by is None else "takes no by; omit it.")
        )
    if method == "fraction":
        return _checked_call("split", splitting.by_fraction, described, len(source))
    if method == "stratified":
        function, (numbers, values) = splitting.stratified, _labels(source)
    else:
        function, (numbers, values) = getattr(splitting, f"by_{method}"), _column(source, by)
    split = _checked_call("split", function, described, values)
    return splitting.Split(numbers[split.train], numbers[split.validation], numbers[split.test])


def _checked_call(field: str, function: Callable, keywords: dict, *arguments: Any) -> Any:
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:  # an unknown or missing argument
        raise UserError(f"params.data.{field}: {error}.") from None
    return function(*arguments, **keywords)


def _labels(source: Source) -> tuple[np.ndarray, np.ndarray]:
    known = getattr(source, "labels", None)
    if known is not None:
        return np.arange(len(source)), known
    numbers, values = columns.read_values(source, {"labels": columns.labels_of})
    return numbers, values["labels"]


def _column(source: Source, name: str) -> tuple[np.ndarray, np.ndarray]:
    column = columns.column_reader(source, name, "params.data.split.by")
    numbers, values = columns.read_values(source, {name: column})
    return numbers, values[name]


def _stacked(batch: Any) -> Any:
    """Stacks the columns to one float32 array [n, columns], in the order of the source."""
    features, *rest = batch if isinstance(batch, tuple) else (batch,)
    if not isinstance(features, Mapping):
        return batch
    arrays = [np.asarray(column) for column in features.values()]
    wrong = [n for n, a in zip(features, arrays, strict=True) if a.dtype.kind not in "fiub"]
    if wrong:
        raise UserError(
            f"params.data.stack: column {wrong[0]!r} is not numeric; remove it from features, or "
            "keep stack=False and use the columns by name."
        )
    stacked = np.column_stack([array.astype(np.float32) for array in arrays])
    return (stacked, *rest) if isinstance(batch, tuple) else stacked


def _plain(value: Any) -> Any:
    """Converts config values to plain JSON types."""
    if hasattr(value, "items"):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return value.item()
    return value
