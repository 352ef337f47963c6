"""`tf.estimator.tpu`, which does not exist in tfbig: each name raises an error with advice."""

from tfbig.compat.gone import gone_estimator
from tfbig.errors import UserError


def __getattr__(name: str):
    instead = gone_estimator(f"tpu.{name}")
    if instead is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise UserError(f"tf.estimator.tpu.{name} does not exist in tfbig; {instead}.")
