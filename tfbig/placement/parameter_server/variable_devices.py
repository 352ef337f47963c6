"""The parameter server of each variable."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def tensorflow_variable(variable: Any) -> tf.Variable:
    """The tf.Variable of a Keras variable, or the tf.Variable itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value


class VariableDevices:
    """Places each variable on the server with the fewest bytes, or beside another variable.

    Args:
        devices: of the servers.

    Attributes:
        devices: of the servers.
        bytes: what each server holds, in the order of `devices`.
    """

    def __init__(self, devices: list[str]):
        self.devices, self.bytes = devices, [0] * len(devices)
        self._beside: str | None = None
        self._by_name: dict[str, str] = {}
        self._entered = threading.local()  # creator scopes are each thread's own

    @contextlib.contextmanager
    def placing(self) -> Iterator[None]:
        """Places the variables that are made inside the block; blocks may be nested."""
        before = getattr(self._entered, "times", 0)
        self._entered.times = before + 1
        scope = contextlib.nullcontext() if before else tf.variable_creator_scope(self._create)
        try:
            with scope:
                yield
        finally:
            self._entered.times = before

    @contextlib.contextmanager
    def beside(self, variable: tf.Variable) -> Iterator[None]:
        """Places new variables inside the block on the server of a variable."""
        before, self._beside = self._beside, variable.device
        try:
            yield
        finally:
            self._beside = before

    def _create(self, next_creator: Callable, **kwargs) -> tf.Variable:
        name = kwargs.get("name") or ""
        least = self.devices[self.bytes.index(min(self.bytes))]
        # A slot of TensorFlow 1 is named after its weight: w/Adam.
        device = self._beside or self._by_name.get(name.rpartition("/")[0], least)
        with tf.device(device):
            variable = next_creator(**kwargs)
        if device in self.devices:
            size = (variable.shape.num_elements() or 1) * variable.dtype.size
            self.bytes[self.devices.index(device)] += size
        self._by_name[name] = device
        return variable
