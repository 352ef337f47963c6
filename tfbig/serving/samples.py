"""Generates batches for a model from the dtypes and shapes of its inputs."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api

_ROWS = 3
_SIZES = (8, 64, 256)  # to try for unknown dimensions: sequences, then images


def find_sample(
    specs: Any, call: Callable[[Any], Any], strings: Sequence[Sequence[Any]] = (), ints: Any = ()
) -> tuple[Any, Any] | str:
    """Finds a batch that a function accepts.

    Args:
        specs: a structure of tf.TensorSpecs; dimensions may be None.
        call: the function; it receives a structure of tensors.
        strings: lists of values for string inputs, the most promising first.
        ints: values for integer inputs, such as those of a vocabulary.

    Returns:
        The batch, as arrays in the structure of `specs`, and the outputs of the function. If it
        accepts no batch, the reason as a string.
    """
    flat = tf.nest.flatten(specs)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in flat):
        return "its inputs are not all dense tensors of a known rank"
    reason = ""
    for batch in _batches(flat, strings, ints):
        arrays = tf.nest.pack_sequence_as(specs, batch)
        try:
            return arrays, call(as_tensors(arrays, specs))
        except Exception as error:  # an operation may raise anything for a value it rejects
            reason = reason or error_text(error)
    return reason


def error_text(error: Exception) -> str:
    """Returns the message of an error on one line, without terminal colours."""
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:200]


def as_tensors(arrays: Any, specs: Any) -> Any:
    """Converts arrays to tensors with the dtypes of a structure of tf.TensorSpecs."""
    return tf.nest.map_structure(
        lambda array, spec: tf.constant(
            array.tolist() if spec.dtype == tf.string else array, spec.dtype, array.shape
        ),
        arrays,
        specs,
    )


def known_values(model: keras.Model) -> tuple[list[list[str]], list[int]]:
    """Returns strings and integers of the model's lookup layers, for `find_sample`."""
    words: list[str] = []
    ints: list[int] = []
    for layer in _private_api.flatten_layers(model):
        if isinstance(layer, (keras.layers.StringLookup, keras.layers.IntegerLookup)):
            if layer.invert:
                continue
            known = layer.get_vocabulary(include_special_tokens=False)[:20]
            if layer.vocabulary_dtype == "string":
                words += known
            else:
                ints += [int(one) for one in known]
    return ([[*words, "?"], words] if words else []), ints


def values_of_graph(graph: tf.Graph) -> list[list[bytes]]:
    """Returns strings that the parsing operations of a graph accept: Examples, CSV rows, images."""
    values: list[list[bytes]] = []
    operations = list(graph.get_operations())
    for operation in operations:
        if operation.type == "ParseExampleV2":
            values.append([_example(operation, seed) for seed in range(_ROWS)])
        elif operation.type == "DecodeCSV":
            count = len(operation.inputs) - 1
            values.append([operation.get_attr("field_delim").join([b"1"] * count)])
        elif operation.type in ("DecodeJpeg", "DecodePng", "DecodeImage"):
            pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype("uint8")
            values.append([tf.io.encode_png(pixels).numpy()])
    return values


def _example(operation: tf.Operation, seed: int) -> bytes:
    random = np.random.RandomState(seed)
    dense, sparse, ragged = (
        [key.decode() for key in np.ravel(tf.get_static_value(operation.inputs[index]))]
        for index in (3, 2, 4)
    )
    kinds = [
        *zip(dense, operation.get_attr("Tdense"), operation.get_attr("dense_shapes"), strict=True),
        *((key, kind, None) for key, kind in zip(sparse, operation.get_attr("sparse_types"),
                                                 strict=True)),
        *((key, kind, None) for key, kind in zip(ragged, operation.get_attr("ragged_value_types"),
                                                 strict=True)),
    ]  # fmt: skip
    features = {}
    for key, kind, shape in kinds:
        shape = tf.TensorShape(shape)
        count = shape.num_elements() if shape.is_fully_defined() else 1
        if kind == tf.string:
            values = tf.train.BytesList(value=[b"1"] * count)
            features[key] = tf.train.Feature(bytes_list=values)
        elif kind == tf.int64:
            values = tf.train.Int64List(value=random.randint(0, 2, count).tolist())
            features[key] = tf.train.Feature(int64_list=values)
        else:
            values = tf.train.FloatList(value=random.randn(count).tolist())
            features[key] = tf.train.Feature(float_list=values)
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def _batches(specs: list, strings: Sequence[Sequence[Any]], ints: Sequence) -> Iterator[list]:
    choices = [*strings, ["a", "1", ""], ["1"], [""]]
    texts = any(spec.dtype == tf.string for spec in specs)
    sizes = _SIZES if any(None in spec.shape[1:] for spec in specs) else _SIZES[:1]
    for size in sizes:
        for numbers in (ints or (0, 1), (0,)):
            for words in choices if texts else [()]:
                random = np.random.RandomState(0)
                yield [_array(spec, size, words, numbers, random) for spec in specs]


def _array(spec: tf.TensorSpec, size: int, words, numbers, random) -> np.ndarray:
    shape = [size if d is None else d for d in spec.shape]
    if shape and spec.shape[0] is None:
        shape[0] = _ROWS
    if spec.dtype == tf.string:
        order = [words[i % len(words)] for i in range(int(np.prod(shape)))]
        array = np.empty(len(order), object)
        array[:] = order
        return array.reshape(shape)
    if spec.dtype == tf.bool:
        return random.rand(*shape) < 0.5
    if spec.dtype.is_integer:
        return np.resize(numbers, shape).astype(spec.dtype.as_numpy_dtype)
    drawn = random.randn(*shape) if len(numbers) > 1 else np.zeros(shape)
    return np.asarray(drawn).astype(spec.dtype.as_numpy_dtype)
