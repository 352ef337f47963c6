"""Iterators of Datasets that end at once, also those of Keras's `fit`."""

import tensorflow as tf


def end_at_once() -> None:
    """Turns tuning off for all Datasets of this process.

    tfbig turns it off for its own iterators; `_without_tuning_thread` of tfbig.data.feeds says why.
    """
    iterate = tf.data.Dataset.__iter__

    def without_tuning(dataset: tf.data.Dataset):
        options = tf.data.Options()
        options.autotune.enabled = False
        return iterate(dataset.with_options(options))

    tf.data.Dataset.__iter__ = without_tuning
