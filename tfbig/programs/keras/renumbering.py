"""Names of variables that are the same in every process."""

import collections
import re
from collections.abc import Collection, Iterable

import keras

from tfbig import _private_api
from tfbig.programs.observing import attributes_of

_NUMBER = re.compile(r"_\d+$")
# What Keras numbers besides layers, optimizers and metrics, and a FeatureSpace's layers.
_OTHERS = ("variable", "seed_generator", "float_normalized")


class Renumbering:
    """Renames dense_7, dense_9 to dense, dense_1: the same names in every process and call.

    Keras numbers automatic names through a process, so the second model built there has other
    names than the first; a checkpoint must fit both. An optimizer's slot has its variable's whole
    path in its name (adam/mlp_7_dense_9_kernel_momentum), so weights are renamed before slots.

    Args:
        automatic: as `automatic_names` returns them. A number after another name is the user's,
            and stays. None: all numbers are counted, as in checkpoints of tfbig's format 1.
    """

    def __init__(self, automatic: Collection[str] | None):
        self._automatic = automatic
        self._seen: dict[str, dict[str, int]] = {}
        self._flat: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        *parents, last = path.split("/")
        ends = [i for i, letter in enumerate(last) if letter == "_"]
        owner = next((last[:i] for i in reversed(ends) if last[:i] in self._flat), "")
        last = self._flat.get(owner, "") + last.removeprefix(owner)
        renamed = self._renumbered([*parents, last])
        self._flat[path.replace("/", "_")] = renamed.replace("/", "_")
        return renamed

    def _renumbered(self, path: list[str]) -> str:
        parts, parent = [], ""
        for i, part in enumerate(path):
            base = part if part in (self._automatic or ()) else _NUMBER.sub("", part)
            if self._automatic is None or self._is_automatic(base, part, path[:i]):
                numbers = self._seen.setdefault(f"{parent}/{base}", {})
                number = numbers.setdefault(part, len(numbers))
                part = f"{base}_{number}" if number else base
            parts.append(part)
            parent = "/".join(parts)
        return "/".join(parts)

    def _is_automatic(self, base: str, part: str, parents: list[str]) -> bool:
        if base in self._automatic:
            return True
        outer = (name for name in parents if part.endswith(f"_{name}"))  # f"pre_{self.name}"
        return any(_NUMBER.sub("", name) in self._automatic for name in outer)


def automatic_names(model: keras.Model) -> set[str]:
    """The names that Keras may have given to parts of a model, without their numbers.

    They are those of classes, as "batch_normalization". Bidirectional makes two of one.
    """
    layers = _private_api.flatten_layers(model)
    things = [*layers, *_private_api.all_metrics(model)]
    things += [value for _, value in attributes_of(model)]
    things += [getattr(value, "inner_optimizer", None) for value in things]
    of_keras = (keras.Layer, keras.Metric, keras.Optimizer)
    found = {_private_api.snake_case(type(t).__name__) for t in things if isinstance(t, of_keras)}
    for layer in layers:
        if isinstance(layer, keras.layers.Bidirectional):
            inner = _private_api.snake_case(type(layer.forward_layer).__name__)
            found |= {f"forward_{inner}", f"backward_{inner}"}
    return {*found, *_OTHERS}


def earlier_names(names: Iterable[str]) -> list[str]:
    """The names that checkpoints of format 1 have, from those of `Program.named_variables`.

    All numbers were counted there. The names that Keras numbers are counted already, so that
    counting them again changes nothing.
    """
    renumber, found, counts = Renumbering(None), [], collections.Counter()
    earlier = ""
    for name in names:
        name, _, copy = name.partition("@")
        if not copy:  # a replica's copy comes after the variable itself
            group, _, path = name.partition("/")
            plain = f"{group}/{renumber(path.split('#')[0])}"
            twins = counts[plain]
            counts[plain] += 1
            earlier = f"{plain}#{twins}" if twins else plain
        found.append(f"{earlier}@{copy}" if copy else earlier)
    return found
