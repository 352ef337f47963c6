"""`tf.compat.v1.nn.rnn_cell`, which was removed: each name raises an error with advice."""

import types

from tfbig.compat.gone import gone_rnn
from tfbig.errors import UserError


class _Cells(types.ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError(f"tfbig.compat.v1.nn.rnn_cell.{name}: {gone_rnn(f'rnn_cell.{name}')}.")


rnn_cell = _Cells("tfbig.compat.v1.nn.rnn_cell")

__all__ = ["rnn_cell"]
