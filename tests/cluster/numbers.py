"""How far apart two results are."""

from typing import Any


def difference(first: Any, second: Any) -> float:
    """The largest difference between two numbers, or lists or dicts of them, of one structure."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        return max((difference(first[name], second[name]) for name in first), default=0.0)
    if isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        return max((difference(a, b) for a, b in zip(first, second, strict=True)), default=0.0)
    return abs(first - second)
