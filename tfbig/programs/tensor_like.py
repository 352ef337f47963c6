"""Objects that TensorFlow and Keras convert to a tensor where they are used."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_UNARY = ("getitem", "neg", "abs", "lt", "le", "gt", "ge")
_BINARY = ("add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "matmul")


class TensorLike:
    """Has the operators of a tensor; each use converts it to one (`__tf_tensor__`)."""

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        raise NotImplementedError


def _delegated(name: str) -> Callable:
    def method(self: TensorLike, *operands: Any) -> Any:
        return getattr(tf.convert_to_tensor(self), name)(*operands)

    return method


for _name in (*_UNARY, *(f"{side}{verb}" for side in ("", "r") for verb in _BINARY)):
    setattr(TensorLike, f"__{_name}__", _delegated(f"__{_name}__"))
