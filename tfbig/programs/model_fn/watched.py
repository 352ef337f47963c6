"""A model_fn whose returned specs can be looked at where the program does not show them."""

import functools
import threading
from collections.abc import Callable
from typing import Any


class Watched:
    """Calls a model_fn and keeps what it returns.

    A model_fn is called anew in each trace and replica, and its tensors are of that trace alone;
    its hooks and its scaffold are those of the first one.

    Args:
        model_fn: estimator-style; its signature stays the same.

    Attributes:
        first: by mode, the first spec that was returned.
    """

    def __init__(self, model_fn: Callable):
        functools.update_wrapper(self, model_fn)
        self._model_fn = model_fn
        self._local = threading.local()  # replicas are traced in threads of their own
        self.first: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        spec = self._model_fn(*arguments, **keywords)
        self._local.spec = spec
        self.first.setdefault(getattr(spec, "mode", ""), spec)
        return spec

    @property
    def spec(self) -> Any:
        """What this thread's last call has returned."""
        return self._local.spec
