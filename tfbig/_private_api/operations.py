"""Random numbers, graphs and iterators."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def serialize_iterator(iterator) -> tf.Tensor:
    """A tf.data iterator's state, or an error with the name of the operation that has none.

    Reason: whether a Dataset's position can be kept must be known before it is needed. Guard:
    tests/data/test_dataset_feed.py.
    """
    return tf.raw_ops.SerializeIterator(
        resource_handle=iterator._iterator_resource, external_state_policy=2
    )


def deserialize_iterator(iterator, state: tf.Tensor) -> None:
    """Gives a tf.data iterator a state, and its Dataset's shuffles the seeds they had then.

    Reason: a checkpoint of an iterator whose prefetching has come to the end of the data lacks
    those seeds. Guard: tests/data/test_dataset_feed.py.
    """
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=state)


def make_global_seed() -> None:
    """Makes the seed generator that random operations without one use, unless it is there.

    Reason: made inside a trace, its variable would have no value. Guard:
    tests/programs/test_keras_state.py.
    """
    global_seed_generator()


@contextlib.contextmanager
def reproducible_dropout() -> Iterator[None]:
    """Makes Keras's Dropout draw with the Philox generator inside the block.

    Reason: its own choice depends on the compiler, and XLA's default for CPUs is ten times
    slower. XLA also makes other floats of the same bits, so the bits themselves are compared:
    masks are equal in XLA and graph mode. Guard: test_reproducible_dropout.
    """
    random = keras.src.backend.random
    saved = random.dropout

    def dropout(inputs, rate, noise_shape=None, seed=None):
        if rate in (0.0, 1.0):
            return saved(inputs, rate)
        shape = noise_shape or [None] * inputs.shape.rank
        there = [tf.shape(inputs)[i] if n is None else n for i, n in enumerate(inputs.shape)]
        bits = tf.random.stateless_uniform(
            [there[i] if n is None else n for i, n in enumerate(shape)],
            seed=tf.cast(keras.src.backend.tensorflow.random.draw_seed(seed), tf.int32),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        kept = bits >= tf.constant(int(rate * 2**32), tf.uint32)
        return tf.where(kept, inputs / (1 - rate), tf.zeros_like(inputs))

    random.dropout = dropout
    try:
        yield
    finally:
        random.dropout = saved


def variables_as_constants(function):
    """A concrete function with its calls inlined and constants in the place of its variables.

    Reason: TensorFlow's one way from a graph that reads variables to one of tensors, which
    gradients and other variables can be put into. Guard: test_variables_as_constants.
    """
    return convert_variables_to_constants_v2(function)
