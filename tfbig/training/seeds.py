"""The seed of a run, set before anything is drawn."""

import keras
import tensorflow as tf


def set_seed(given: int | None, seed: int) -> None:
    """Sets the seed of a run.

    Args:
        given: RunConfig.tf_random_seed.
        seed: the same, or what was drawn in its place.
    """
    if given is not None:
        keras.utils.set_random_seed(given)
    else:
        tf.random.set_seed(seed)  # a Dataset's shuffles; all else is in the checkpoint
