"""Names of variables that are equal in every process."""

import collections
import re
from collections.abc import Collection, Iterable

import keras

from tfbig import _private_api
from tfbig.programs.tracing import layer_attributes

_NUMBER = re.compile(r"_\d+$")
# Other objects that Keras numbers, and the layers of a FeatureSpace.
_OTHERS = ("variable", "seed_generator", "float_normalized")


class Renumbering:
    """Renames dense_7, dense_9 to dense, dense_1: the same names in every process and call.

    Keras numbers automatic names per process, so the second model of a process has other names
    than the first, and a checkpoint must match both. The name of a slot variable contains the
    whole path of its weight (adam/mlp_7_dense_9_kernel_momentum), so weights are renamed first.

    Args:
        automatic: the result of `automatic_names`. Numbers after other names come from the user
            and stay. None: all numbers are renumbered, as in checkpoints of format 1.
    """

    def __init__(self, automatic: Collection[str] | None):
        self._automatic = automatic
        self._numbers: dict[str, dict[str, int]] = {}
        self._flat: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """Returns the new path of a variable. Call it for all variables of a model in order."""
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
                numbers = self._numbers.setdefault(f"{parent}/{base}", {})
                number = numbers.setdefault(part, len(numbers))
                part = f"{base}_{number}" if number else base
            parts.append(part)
            parent = "/".join(parts)
        return "/".join(parts)

    def _is_automatic(self, base: str, part: str, parents: list[str]) -> bool:
        if base in self._automatic:
            return True
        outer = (name for name in parents if part.endswith(f"_{name}"))  # as f"pre_{self.name}"
        return any(_NUMBER.sub("", name) in self._automatic for name in outer)


def automatic_names(model: keras.Model) -> set[str]:
    """The names that Keras may have given to parts of a model, without their numbers.

    They derive from class names, such as "batch_normalization". Bidirectional adds two names.
    """
    layers = _private_api.flatten_layers(model)
    parts = [*layers, *_private_api.all_metrics(model)]
    parts += [value for _, value in layer_attributes(model)]
    parts += [getattr(value, "inner_optimizer", None) for value in parts]
    of_keras = (keras.Layer, keras.Metric, keras.Optimizer)
    found = {_private_api.snake_case(type(p).__name__) for p in parts if isinstance(p, of_keras)}
    for layer in layers:
        if isinstance(layer, keras.layers.Bidirectional):
            inner = _private_api.snake_case(type(layer.forward_layer).__name__)
            found |= {f"forward_{inner}", f"backward_{inner}"}
    return {*found, *_OTHERS}


def format_1_names(names: Iterable[str]) -> list[str]:
    """Converts names of `Program.named_variables` to those in checkpoints of format 1.

    Format 1 renumbered all numbers. Automatic names are renumbered already, so renumbering them
    again changes nothing.
    """
    renumber, found, counts = Renumbering(None), [], collections.Counter()
    earlier = ""
    for name in names:
        name, _, copy = name.partition("@")
        if not copy:  # replica copies follow the variable itself
            group, _, path = name.partition("/")
            plain = f"{group}/{renumber(path.split('#')[0])}"
            twins = counts[plain]
            counts[plain] += 1
            earlier = f"{plain}#{twins}" if twins else plain
        found.append(f"{earlier}@{copy}" if copy else earlier)
    return found
