"""cross_validate."""

from tfbig.errors import NotBuiltError


def cross_validate(*args, **kwargs):
    """Trains and evaluates over folds; not built yet.

    Raises:
        NotBuiltError: always.
    """
    raise NotBuiltError(
        "tfbig.cross_validate is not built yet; call tfbig.train_distributed for each fold."
    )
