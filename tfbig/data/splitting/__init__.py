"""Train, validation and test parts as arrays of example numbers; no data are copied.

    split = tfbig.data.splitting.stratified(source.labels, (0.8, 0.1, 0.1), seed=0)
    train, test = source.select(split.train), source.select(split.test)

Each result depends only on the arguments. `by_fraction`, `stratified`, `by_group`, `by_time`,
`by_hash` and plain `folds` are computed here with SplitMix64 and BLAKE2b, so they are the same
under every version of every library. `folds` with labels or groups uses scikit-learn, so its
result may change with scikit-learn's version.
"""

from tfbig.data.splitting.methods import (
    by_fraction,
    by_group,
    by_hash,
    by_time,
    folds,
    stratified,
)
from tfbig.data.splitting.split import LeakReport, Split, check_leaks

__all__ = [
    "LeakReport",
    "Split",
    "by_fraction",
    "by_group",
    "by_hash",
    "by_time",
    "check_leaks",
    "folds",
    "stratified",
]
