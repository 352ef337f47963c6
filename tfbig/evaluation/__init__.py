"""How good a model is."""

from tfbig import _quiet

_quiet.import_tensorflow()
