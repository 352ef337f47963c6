"""The tables of ShardedEmbeddings in a checkpoint, which may be in another number of shards.

A checkpoint has each shard, and each shard's slot variables, as variables of their own. So a
parameter server can write its own shards, and no task has to hold a whole table. The metadata list
the shards of each table. A table that is restored in another number of shards is cut again, shard
by shard.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfbig.layers.sharded_tables import reshard, shard_of


def tables_of(variables: dict[str, Any]) -> dict[str, list[str]]:
    """The names of the shards of each table, in their order, by the name of the first one."""
    groups: dict[int, list[tuple[int, str]]] = {}
    for name, variable in variables.items():
        shard = shard_of(variable)
        if shard is not None:
            groups.setdefault(id(shard.table), []).append((shard.index, name))
    ordered = [[name for _, name in sorted(group)] for group in groups.values()]
    return {names[0]: names for names in ordered}


def as_wholes(kinds: dict[str, list], tables: dict[str, list[str]]) -> dict[str, list]:
    """Shapes and dtypes of variables, with each table as one, under its first shard's name.

    Args:
        kinds: name to [shape, dtype], as a checkpoint's metadata have them.
        tables: as `tables_of` returns them.
    """
    wholes = dict(kinds)
    for first, names in tables.items():
        (_, *row), dtype = kinds[first]
        for name in names:
            del wholes[name]
        wholes[first] = [[sum(kinds[name][0][0] for name in names), *row], dtype]
    return wholes


def names_to_cut(variables: dict[str, Any], tables: dict[str, list[str]]) -> set[str]:
    """The names of the shards of tables that a checkpoint has in another number of shards.

    Args: those of `values_for`.
    """
    cut = _to_cut(variables, tables)
    return {name for names in cut.values() for name in names}


def _to_cut(variables: dict[str, Any], tables: dict[str, list[str]]) -> dict[str, list[str]]:
    return {
        first: names
        for first, names in tables_of(variables).items()
        if len(tables.get(first, names)) != len(names)
    }


def values_for(
    variables: dict[str, Any], tables: dict[str, list[str]], read: Callable[[str], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """The values that a checkpoint has for variables, one after the other.

    Args:
        variables: name to variable.
        tables: those of the checkpoint, as `tables_of` returned them.
        read: from the name of one of the checkpoint's variables to its value.

    Yields:
        A variable's name and value, in no particular order.
    """
    cut = _to_cut(variables, tables)
    left = {name for names in cut.values() for name in names}
    for name in variables:
        if name not in left:
            yield name, read(name)
    for first, names in cut.items():
        saved = tables[first]
        rows = shard_of(variables[first]).rows
        shards = reshard(lambda i: read(saved[i]), len(saved), rows, len(names))  # noqa: B023
        yield from zip(names, shards, strict=True)


def misfits(
    variables: dict[str, Any],
    tables: dict[str, list[str]],
    shape_of: Callable[[str], list[int] | None],
) -> dict[str, tuple[list[int], list[int] | None]]:
    """The variables that a checkpoint has no value for, with their shapes here and there.

    Args:
        variables, tables: as for `values_for`.
        shape_of: the shape of one of the checkpoint's variables, None: it has none of that name.
    """
    kinds = {name: [list(v.shape), None] for name, v in variables.items()}
    mine = {first: names for first, names in tables_of(variables).items() if first in tables}
    found = {}
    for name, (here, _) in as_wholes(kinds, mine).items():
        shapes = [shape_of(part) for part in (tables[name] if name in mine else [name])]
        there = None
        if None not in shapes:
            there = list(shapes[0])
            if name in mine:
                there[0] = sum(shape[0] for shape in shapes)
        if there != here:
            found[name] = (here, there)
    return found


def saved_tables(prefix: str) -> dict[str, list[str]]:
    """The tables of a checkpoint, from the metadata beside its tensors; {} if it has none.

    Args:
        prefix: of the tensors, `<folder>/state`.
    """
    path = os.path.join(os.path.dirname(prefix), "metadata.json")
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        return json.load(file).get("tables", {})
