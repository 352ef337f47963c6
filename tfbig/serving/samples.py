"""Made-up batches for a model's inputs, of which nothing is known but their kinds."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api

_ROWS = 3
_UNKNOWN = (8, 64, 256)  # for dimensions of any size: sequences, then images


def sampled(
    specs: Any, call: Callable[[Any], Any], strings: Sequence[Sequence[Any]] = (), ints: Any = ()
) -> tuple[Any, Any] | str:
    """A batch that a function takes, and what it returns for it.

    Args:
        specs: a structure of tf.TensorSpecs, dimensions None of any size.
        call: the function; of structures of tensors.
        strings: lists of values for strings, the better ones first.
        ints: values for integers, such as a vocabulary's.

    Returns:
        The batch, arrays in the structure of `specs`, and the outputs; or why the function takes
        none of the batches.
    """
    flat = tf.nest.flatten(specs)
    if not all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in flat):
        return "its inputs are not all dense tensors of a known rank"
    reason = ""
    for batch in _batches(flat, strings, ints):
        arrays = tf.nest.pack_sequence_as(specs, batch)
        try:
            return arrays, call(as_tensors(arrays, specs))
        except Exception as error:  # made-up values make a model's operations raise anything
            reason = reason or said(error)
    return reason


def said(error: Exception) -> str:
    """What an error says, on one line, without the terminal's colours."""
    return " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:200]


def as_tensors(arrays: Any, specs: Any) -> Any:
    """Arrays as tensors of the dtypes of a structure of tf.TensorSpecs."""
    return tf.nest.map_structure(
        lambda array, spec: tf.constant(
            array.tolist() if spec.dtype == tf.string else array, spec.dtype, array.shape
        ),
        arrays,
        specs,
    )


def known_values(model: keras.Model) -> tuple[list[list[str]], list[int]]:
    """Words and integers that a model's lookup layers know: for `sampled`."""
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
    """Strings that a graph's parsers take: serialized Examples, rows of CSV, images."""
    found: list[list[bytes]] = []
    operations = list(graph.get_operations())
    for operation in operations:
        if operation.type == "ParseExampleV2":
            found.append([_example(operation, seed) for seed in range(_ROWS)])
        elif operation.type == "DecodeCSV":
            count = len(operation.inputs) - 1
            found.append([operation.get_attr("field_delim").join([b"1"] * count)])
        elif operation.type in ("DecodeJpeg", "DecodePng", "DecodeImage"):
            pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype("uint8")
            found.append([tf.io.encode_png(pixels).numpy()])
    return found


def _example(operation: tf.Operation, seed: int) -> bytes:
    random = np.random.RandomState(seed)
    dense, sparse, ragged = (
        [key.decode() for key in np.ravel(tf.get_static_value(operation.inputs[at]))]
        for at in (3, 2, 4)
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
    sizes = _UNKNOWN if any(None in spec.shape[1:] for spec in specs) else _UNKNOWN[:1]
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
