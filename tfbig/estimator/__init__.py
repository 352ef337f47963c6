"""The names that estimator code used."""

from tfbig.api import train_distributed as train

__all__ = ["train"]
