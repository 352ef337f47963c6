"""Loads the matching weights of a file into a model with another architecture."""

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.weights import Saved, fill, newest_checkpoint, read_saved
from tfbig.programs.keras.preprocessing import refresh_constants
from tfbig.programs.keras.renumbering import Renumbering, automatic_names
from tfbig.training.checkpoints.metadata import counts_all_numbers

_WAYS = ("name", "shape", "exact")


@dataclass(frozen=True)
class LoadReport:
    """The result of `load_weights`; `print(report)` shows it as a table.

    Attributes:
        loaded: (weight of the model, weight of the file, shape).
        skipped: (weight of the file, reason).
        new: weights of the model that keep their values.
    """

    loaded: tuple[tuple[str, str, tuple[int, ...]], ...]
    skipped: tuple[tuple[str, str], ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        rows = [("loaded", name, f"{list(shape)} from {old}") for name, old, shape in self.loaded]
        rows += [("skipped", name, reason) for name, reason in self.skipped]
        rows += [("new", name, "keeps the value it had") for name in self.new]
        width = max((len(name) for _, name, _ in rows), default=0)
        lines = [f"{kind:8}{name:{width}}  {what}" for kind, name, what in rows]
        counts = f"{len(self.loaded)} loaded, {len(self.skipped)} skipped, {len(self.new)} new"
        return "\n".join([*lines, counts])


def load_weights(model: keras.Model, path: str | os.PathLike, by: str = "name") -> LoadReport:
    """Loads the weights of a file that fit a model; does not change the model on an error.

    Example:

        report = load_weights(model, "pretrained.weights.h5", by="name")
        print(report)  # loaded, skipped (the head: shape [64, 10] against [64, 5]), new

    Args:
        model: a built model.
        path: a `.weights.h5`, `.h5` or `.keras` file, the prefix of a tf.train.Checkpoint, or a
            tfbig model_dir.
        by: "name": weights with the same name and shape; automatic numbers in names are counted
            from 0 if more names match then. "shape": also, for the remaining weights, the next
            unused weight in order with the same shape and last name (kernel, bias). "exact": all
            weights, as keras.Model.load_weights, or an error.

    Returns:
        A LoadReport.

    Raises:
        UserError: the model is not built, the file is damaged, no weight fits, or with "exact",
            not all weights fit.
    """
    path = os.fspath(path)
    if by not in _WAYS:
        raise UserError(f"by={by!r}: expected one of {', '.join(map(repr, _WAYS))}.")
    if not model.built:
        raise UserError(f"the model {model.name!r} has no weights yet; call it on a batch first.")
    if not os.path.exists(path) and not os.path.isfile(path + ".index"):
        raise UserError(f"{path!r}: there is no such file, folder or checkpoint.")
    if by == "exact":
        fill(model, path)
        return LoadReport(tuple((v.path, path, tuple(v.shape)) for v in model.weights), (), ())
    saved = read_saved(path)
    targets = _targets(model)
    pairs = max((_by_name(targets, saved, ways) for ways in _renumberings(model, path)), key=len)
    reasons = {
        j: f"shape {list(saved[j].value.shape)} against {list(targets[i][0].shape)} in the model"
        for i, j in pairs.items()
        if saved[j].value.shape != tuple(targets[i][0].shape)
    }
    pairs = {i: j for i, j in pairs.items() if j not in reasons}
    if by == "shape":
        pairs |= _by_shape(targets, saved, pairs)
    if not pairs:
        raise UserError(
            f"nothing in {path} fits the model {model.name!r}: it holds "
            f"{', '.join(_shown(s) for s in saved[:5])}…, the model "
            f"{', '.join(f'{v.path} {list(v.shape)}' for v, *_ in targets[:5])}…."
        )
    for i, j in pairs.items():
        targets[i][0].assign(saved[j].value)
    refresh_constants(model)
    used = set(pairs.values())
    return LoadReport(
        loaded=tuple(
            (targets[i][0].path, saved[j].name, tuple(saved[j].value.shape))
            for i, j in sorted(pairs.items())
        ),
        skipped=tuple(
            (s.name, reasons.get(j, "the model has no such weight"))
            for j, s in enumerate(saved)
            if j not in used
        ),
        new=tuple(v.path for i, (v, *_) in enumerate(targets) if i not in pairs),
    )


def _targets(model: keras.Model) -> list[tuple[keras.Variable, str, str]]:
    """Each weight with its path, and the name of its layer with its key in the layer's store."""
    keys = {}
    for layer in _private_api.flatten_layers(model):
        store: dict = {}
        layer.save_own_variables(store)
        keys |= {id(v): f"{layer.name}/{key}" for key, v in store.items()}
    return [(v, v.path, keys.get(id(v), "")) for v in model.weights]


def _renumberings(model: keras.Model, path: str) -> list[Callable[[], Callable]]:
    """Factories of functions that rename weights before the comparison: identity, Renumbering."""
    folder = newest_checkpoint(path) if os.path.isdir(path) else None
    by_tfbig = folder and os.path.isfile(os.path.join(folder, "metadata.json"))
    if by_tfbig and counts_all_numbers(folder):
        return [functools.partial(Renumbering, None)]
    return [lambda: str, functools.partial(Renumbering, automatic_names(model))]


def _by_name(targets: list, saved: Sequence[Saved], renumbering: Callable) -> dict[int, int]:
    """Maps indices of the model's weights to indices of the file's weights with the same name.

    A path may begin with the model's name in only one of the two.

    Args:
        targets: the model's weights, from `_targets`.
        saved: the file's weights.
        renumbering: returns a function that renames the weights of one of the two.
    """
    renumber = renumbering()
    found: dict[str, list[int]] = {}
    for j, entry in enumerate(saved):
        name = renumber(entry.name)
        for alias in {name, name.partition("/")[2] if name.count("/") > 1 else name}:
            found.setdefault(alias, []).append(j)
    rename_path, rename_key = renumbering(), renumbering()
    pairs, taken = {}, set()
    for i, (_, path, key) in enumerate(targets):
        path, key = rename_path(path), rename_key(key)
        for alias in (path, path.partition("/")[2], key):
            entries = [j for j in found.get(alias, []) if j not in taken]
            if alias and len(entries) == 1:
                pairs[i] = entries[0]
                taken.add(entries[0])
                break
    return pairs


def _by_shape(targets: list, saved: Sequence[Saved], pairs: dict) -> dict[int, int]:
    left = [j for j in range(len(saved)) if j not in pairs.values()]
    found = {}
    for i, (variable, path, key) in enumerate(targets):
        if i in pairs:
            continue
        ends = {path.split("/")[-1], key.split("/")[-1]}
        for j in left:
            same = np.shape(saved[j].value) == tuple(variable.shape)
            if same and saved[j].name.split("/")[-1] in ends:
                found[i] = j
                left.remove(j)
                break
    return found


def _shown(saved: Saved) -> str:
    return f"{saved.name} {list(saved.value.shape)}"
