"""tfbig's own callbacks, which train_distributed accepts together with Keras's callbacks.

Importing this module is cheap: each name is loaded on first use.
"""

from typing import TYPE_CHECKING

from tfbig._lazy import lazy

_NAMES: dict[str, str | None] = {
    "LoopCallback": "callback",
    "NaNGuard": "nan_guard",
    "Progress": "progress",
    "RunInfo": "callback",
    "Summaries": "summaries",
    "Throughput": "throughput",
    "locate_first_bad_op": "nan_guard",
}

__all__ = [*_NAMES]

if TYPE_CHECKING:
    from tfbig.training.callbacks.callback import LoopCallback as LoopCallback, RunInfo as RunInfo
    from tfbig.training.callbacks.nan_guard import (
        NaNGuard as NaNGuard,
        locate_first_bad_op as locate_first_bad_op,
    )
    from tfbig.training.callbacks.progress import Progress as Progress
    from tfbig.training.callbacks.summaries import Summaries as Summaries
    from tfbig.training.callbacks.throughput import Throughput as Throughput
else:
    __getattr__, __dir__ = lazy(__name__, _NAMES, root="tfbig.training.callbacks")
