"""Random numbers, graphs and iterators."""

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def serialize_iterator(iterator) -> tf.Tensor:
    """The state of a tf.data iterator, or an error that names an operation without state.

    Reason: the loop must know in advance whether the position of a Dataset can be saved.
    Guard: tests/data/test_dataset_feed.py.
    """
    return tf.raw_ops.SerializeIterator(
        resource_handle=iterator._iterator_resource, external_state_policy=2
    )


def deserialize_iterator(iterator, state: tf.Tensor) -> None:
    """Restores the state of a tf.data iterator, and the seeds of the shuffles of its Dataset.

    Reason: a checkpoint of an iterator that has prefetched to the end of the data lacks these
    seeds.
    Guard: tests/data/test_dataset_feed.py.
    """
    tf.raw_ops.DeserializeIterator(resource_handle=iterator._iterator_resource, serialized=state)


def make_global_seed() -> None:
    """Creates Keras's global seed generator unless it exists.

    Reason: if it were created inside a trace, its variable would have no value.
    Guard: tests/programs/test_keras_state.py.
    """
    global_seed_generator()


@contextlib.contextmanager
def reproducible_dropout() -> Iterator[None]:
    """Makes Keras's Dropout use the Philox generator inside the block.

    Masks are equal with and without XLA. XLA converts the same bits to different floats, so the
    bits themselves are compared with the rate.

    Reason: the default generator depends on the compiler, and XLA's for CPUs is ten times slower.
    Guard: tests/private_api/test_operations.py.
    """
    random = keras.src.backend.random
    saved = random.dropout

    def dropout(inputs, rate, noise_shape=None, seed=None):
        if rate in (0.0, 1.0):
            return saved(inputs, rate)
        shape = noise_shape or [None] * inputs.shape.rank
        sizes = [tf.shape(inputs)[i] if n is None else n for i, n in enumerate(inputs.shape)]
        bits = tf.random.stateless_uniform(
            [sizes[i] if n is None else n for i, n in enumerate(shape)],
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
    """A concrete function with inlined calls, and with constants instead of variables.

    Reason: this is TensorFlow's only conversion of a graph with variables to one of tensors, into
    which gradients and other variables can be inserted.
    Guard: tests/private_api/test_operations.py.
    """
    return convert_variables_to_constants_v2(function)
