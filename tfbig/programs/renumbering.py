"""Names of variables that are the same in every process."""

import re


class Renumbering:
    """Renames dense_7, dense_9 to dense, dense_1: the same names in every process and call.

    Keras numbers automatic names through a process, so the second model built there has other
    names than the first; a checkpoint must fit both. An optimizer's slot has its variable's whole
    path in its name (adam/mlp_7_dense_9_kernel_momentum), so weights are renamed before slots.
    """

    def __init__(self):
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
        for part in path:
            base = re.sub(r"_\d+$", "", part)
            numbers = self._seen.setdefault(f"{parent}/{base}", {})
            number = numbers.setdefault(part, len(numbers))
            parts.append(f"{base}_{number}" if number else base)
            parent = "/".join(parts)
        return "/".join(parts)
