"""tfbig's own callbacks; they are given to train_distributed next to Keras's.

Importing this module is cheap: each name is loaded on its first use.
"""

from tfbig._lazy import lazy

_MODULES = {
    "LoopCallback": "callback",
    "NaNGuard": "nan_guard",
    "Progress": "progress",
    "RunInfo": "callback",
    "Summaries": "summaries",
    "Throughput": "throughput",
    "locate_first_bad_op": "nan_guard",
}

__all__ = list(_MODULES)

__getattr__, __dir__ = lazy(__name__, _MODULES, root="tfbig.training.callbacks")
