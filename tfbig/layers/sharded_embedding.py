"""An embedding with a sharded table, of which a step reads and updates only the rows it uses."""

import functools
from collections.abc import Callable
from typing import Any, TypeGuard

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.layers.sharded_tables import (
    Shard,
    mark_shard,
    marked_value,
    number_of_servers,
    reshard,
    rows_of_shard,
)

_WHOLE = 2**26  # largest table, in numbers, that is initialized as a whole: 256 MB of float32
_COMBINERS = ("mean", "sum", "sqrtn")
# Initializers whose distribution does not depend on the requested shape.
_OF_ANY_SHAPE = (
    *(keras.initializers.RandomUniform, keras.initializers.RandomNormal),
    *(keras.initializers.TruncatedNormal, keras.initializers.Constant),
    *(keras.initializers.Zeros, keras.initializers.Ones),
)


@keras.saving.register_keras_serializable(package="tfbig")
class ShardedEmbedding(keras.layers.Layer):
    """keras.layers.Embedding for tables that are too large for one machine, or for dense updates.

    The rows are sharded over `shards` variables (row i is row i // shards of
    `table_{i % shards}`). A parameter-server strategy assigns them to its servers in turn, with
    the slot variables of each on the same server. A step looks up each unique id of the batch
    once, and its gradient has only these rows. So tfbig's training never creates a tensor with the
    size of the table, neither of values nor of gradients, if the optimizer can update single rows
    (keras.optimizers.SGD without momentum and Adagrad, without weight_decay and use_ema). With
    other optimizers, on one device, it trains like an Embedding, at the same cost.

    On one device its results equal those of keras.layers.Embedding, including initial values, for
    any number of shards. The exception is a table of more than 67 million numbers in several
    shards, where each shard is initialized separately, with its own seed. It is saved, loaded and
    exported as one table: a model that was saved with four shards can be loaded with one. To set
    the table, assign it: `layer.embeddings = array`.

    There are no embeddings_regularizer and embeddings_constraint, because they would read the
    whole table in every step. XLA does not compile the layer. In Keras's `fit`, gradients are
    sparse too, but Adagrad updates the whole table there.

    Example:

        clicked = keras.Input([20], dtype="string")  # up to 20 items, then ""
        table = tfbig.layers.ShardedEmbedding(
            1_000_000, 32, combiner="mean", hash_ids=True, mask_value=""
        )
        x = table(clicked)  # [batch, 32]

    Args:
        input_dim: number of rows; ids are 0 … input_dim - 1.
        output_dim: length of a row.
        shards: number of variables, or "auto": the number of parameter servers of the strategy in
            whose scope the layer is built, and 1 for other strategies.
        embeddings_initializer: initializer of the table, as in keras.layers.Embedding.
        combiner: None returns one row per id. "mean", "sum" and "sqrtn" combine the rows of the
            last dimension of ids to one: by their weighted mean, by their weighted sum, or by that
            sum divided by the root of the sum of the squared weights. Without ids, the result is
            zeros.
        mask_value: an id that means "no id". With a combiner it is ignored; without a combiner, it
            defines the layer's mask, like mask_zero of an Embedding for the id 0.
        hash_ids: ids are any strings or integers, and a hash maps each id to a row. The mapping is
            the same everywhere. Different ids may share a row: of n ids in use, each shares its
            row with about n / input_dim others, so choose input_dim as several times n.
        **keywords: arguments of keras.layers.Layer.

    Call arguments:
        inputs: ids, integers (or strings, with hash_ids): a tensor of any shape, with a combiner of
            shape [batch, …, k]; or a tf.RaggedTensor, with a combiner of shape [batch, None].
        weights: weights of the ids, with the same shape; only with a combiner.

    Returns:
        Tensor of shape [*ids.shape, output_dim], or with a combiner [*ids.shape[:-1], output_dim].

    Raises:
        ValueError: an argument is out of range, ids are strings and hash_ids is False, or the
            initializer cannot draw a large table in shards.
        tf.errors.InvalidArgumentError: an id is negative, or input_dim or more (on a GPU TensorFlow
            returns zeros instead). The message shows the row in its shard.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        shards: int | str = "auto",
        *,
        embeddings_initializer: Any = "uniform",
        combiner: str | None = None,
        mask_value: int | str | None = None,
        hash_ids: bool = False,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        for name, value in (("input_dim", input_dim), ("output_dim", output_dim)):
            if not _is_count(value):
                raise ValueError(
                    f"ShardedEmbedding({name}={value!r}): expected an integer above 0."
                )
        if shards != "auto" and not (_is_count(shards) and shards <= input_dim):
            raise ValueError(
                f'ShardedEmbedding(shards={shards!r}): expected "auto", or an integer from 1 to '
                f"input_dim={input_dim}."
            )
        if combiner not in (None, *_COMBINERS):
            raise ValueError(
                f"ShardedEmbedding(combiner={combiner!r}): expected None or one of "
                f"{', '.join(map(repr, _COMBINERS))}."
            )
        if isinstance(mask_value, str) and not hash_ids:
            raise ValueError(
                f"ShardedEmbedding(mask_value={mask_value!r}): ids are integers; pass an integer, "
                "or hash_ids=True for ids that are strings."
            )
        self.input_dim, self.output_dim, self.shards = input_dim, output_dim, shards
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.combiner, self.mask_value, self.hash_ids = combiner, mask_value, hash_ids
        self.tables: list[keras.Variable] = []
        self.autocast = False  # ids keep their dtype
        self.supports_masking = True
        self.supports_jit = False  # XLA would process the whole table

    @override
    def build(self, input_shape: Any = None) -> None:
        del input_shape
        count = self._number_of_shards()
        table = object()
        for index in range(count):
            variable = self.add_weight(
                name=f"table_{index}",
                shape=(rows_of_shard(self.input_dim, index, count), self.output_dim),
                initializer=self._initializer(index, count),
                autocast=False,  # autocast would copy the whole table
            )
            mark_shard(variable, Shard(table, index, count, self.input_dim))
            self.tables.append(variable)
        self.built = True

    @override
    def call(self, inputs: tf.Tensor, weights: tf.Tensor | None = None) -> tf.Tensor:
        if weights is not None and self.combiner is None:
            raise ValueError(
                "ShardedEmbedding was called with weights but has no combiner; pass "
                'combiner="sum", or multiply the rows that it returns.'
            )
        if isinstance(inputs, tf.SparseTensor):
            raise ValueError(
                "ShardedEmbedding takes dense or ragged ids, but received a tf.SparseTensor; call "
                "it with tf.RaggedTensor.from_sparse(ids)."
            )
        ids = tf.ragged.map_flat_values(self._rows, inputs)
        if self.combiner is None:
            rows = tf.ragged.map_flat_values(self._look_up, ids)
        elif isinstance(inputs, tf.RaggedTensor):
            rows = self._combine_ragged(ids, self._counted(inputs.flat_values), weights)
        else:
            rows = self._combine_dense(ids, self._counted(inputs), weights)
        return tf.cast(rows, self.compute_dtype)

    @override
    def compute_mask(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> Any:
        del mask
        ragged = isinstance(inputs, tf.RaggedTensor) or getattr(inputs, "ragged", False)
        if self.combiner is not None or self.mask_value is None or ragged:
            return None
        return keras.ops.not_equal(inputs, self.mask_value)

    @override
    def compute_output_shape(self, input_shape: Any) -> Any:
        kept = input_shape if self.combiner is None else input_shape[:-1]
        return (*kept, self.output_dim)

    @override
    def compute_output_spec(self, inputs: tf.Tensor, weights: tf.Tensor | None = None) -> Any:
        del weights
        self._check_ids(inputs)
        ragged = self.combiner is None and getattr(inputs, "ragged", False)
        shape = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=self.compute_dtype, ragged=ragged)

    @property
    def embeddings(self) -> np.ndarray:
        """A copy of the current table, of shape [input_dim, output_dim]; can be set."""
        shards = [table.numpy() for table in self.tables]
        return next(reshard(shards.__getitem__, len(shards), self.input_dim, 1))

    @embeddings.setter
    def embeddings(self, value: Any) -> None:
        whole = np.asarray(value)
        if whole.shape != (self.input_dim, self.output_dim):
            raise ValueError(
                f"ShardedEmbedding {self.name!r}: embeddings are of shape "
                f"({self.input_dim}, {self.output_dim}), received {whole.shape}."
            )
        self._assign(lambda _: whole, 1)

    @override
    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "output_dim": self.output_dim,
            "shards": self.shards,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "combiner": self.combiner,
            "mask_value": self.mask_value,
            "hash_ids": self.hash_ids,
        }

    @override
    def save_own_variables(self, store: Any) -> None:
        for index, table in enumerate(self.tables):
            store[str(index)] = table.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Loads a table that was saved with any number of shards."""
        held = len(store.keys())
        rows = sum(store[str(index)].shape[0] for index in range(held))
        widths = {store[str(index)].shape[1] for index in range(held)}
        if rows != self.input_dim or widths != {self.output_dim}:
            raise ValueError(
                f"ShardedEmbedding {self.name!r} has {self.input_dim} rows of {self.output_dim} "
                f"numbers, but the saved table has {rows} rows of "
                f"{', '.join(map(str, sorted(widths))) or 'no'} numbers; build the model with the "
                "input_dim and output_dim with which it was saved."
            )
        self._assign(lambda i: store[str(i)], held)

    def _assign(self, read: Callable[[int], Any], held: int) -> None:
        shards = reshard(read, held, self.input_dim, len(self.tables))
        for table, value in zip(self.tables, shards, strict=True):
            table.assign(value)

    def _number_of_shards(self) -> int:
        if not isinstance(self.shards, str):
            return self.shards
        return min(max(number_of_servers(), 1), self.input_dim)

    def _initializer(self, index: int, count: int) -> Callable:
        """The initializer of one shard: a part of the whole table, or separate for a large one."""
        initializer = self.embeddings_initializer
        if count == 1:
            return initializer
        if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
            raise ValueError(
                f"ShardedEmbedding {self.name!r}: embeddings_initializer has a SeedGenerator, "
                "which would draw another table for each shard; use an integer as its seed."
            )
        if self.input_dim * self.output_dim > _WHOLE:
            return self._initializer_by_itself(index)
        return functools.partial(self._cut_of_whole, index, count)

    def _cut_of_whole(self, index: int, count: int, shape: Any, dtype: Any = None) -> tf.Tensor:
        del shape
        whole = self.embeddings_initializer((self.input_dim, self.output_dim), dtype=dtype)
        return tf.convert_to_tensor(whole)[index::count]

    def _initializer_by_itself(self, index: int) -> Callable:
        initializer = self.embeddings_initializer
        if not isinstance(initializer, _OF_ANY_SHAPE):
            known = ", ".join(kind.__name__ for kind in _OF_ANY_SHAPE)
            raise ValueError(
                f"ShardedEmbedding {self.name!r}: a table of {self.input_dim} x {self.output_dim} "
                "numbers is initialized shard by shard, which embeddings_initializer="
                f"{type(initializer).__name__} does not support; use one of {known}."
            )
        config = initializer.get_config()
        if "seed" in config:
            config["seed"] = (initializer.seed + index * 0x9E3779B1) % 2**31
        return type(initializer).from_config(config)

    def _check_ids(self, ids: Any) -> None:
        if ids.dtype == "string" and not self.hash_ids:
            raise ValueError(
                f"ShardedEmbedding {self.name!r} received strings as ids; pass hash_ids=True, or "
                "convert them to integers first (keras.layers.StringLookup)."
            )
        rank = len(ids.shape)
        if self.combiner is not None and rank < 2:
            raise ValueError(
                f"ShardedEmbedding {self.name!r} combines the last dimension of ids of shape "
                f"[batch, …, k], but received ids of shape {tuple(ids.shape)}; omit combiner "
                "for one id per example."
            )

    def _rows(self, ids: tf.Tensor) -> tf.Tensor:
        """The row numbers of ids."""
        if ids.dtype == tf.string:
            self._check_ids(ids[..., tf.newaxis])
            return tf.strings.to_hash_bucket_fast(ids, self.input_dim)
        if ids.dtype not in (tf.int32, tf.int64):
            ids = tf.cast(ids, tf.int64)
        return hashed(ids, self.input_dim) if self.hash_ids else ids

    def _counted(self, ids: tf.Tensor) -> tf.Tensor | None:
        """A mask of the ids that are not `mask_value`, or None: all."""
        return None if self.mask_value is None else tf.not_equal(ids, self.mask_value)

    def _look_up(self, ids: tf.Tensor) -> tf.Tensor:
        """The rows of ids of any shape; each unique row is fetched once and has one gradient."""
        tables = [_private_api.replica_copy(marked_value(table)) for table in self.tables]
        unique, indices = tf.unique(tf.reshape(ids, [-1]))
        rows = tf.compat.v1.nn.embedding_lookup(tables, unique, partition_strategy="mod")
        rows = tf.gather(rows, tf.reshape(indices, tf.shape(ids)))
        rows.set_shape([*ids.shape, self.output_dim])
        return rows

    def _combine_dense(
        self, ids: tf.Tensor, counted: tf.Tensor, weights: tf.Tensor | None
    ) -> tf.Tensor:
        self._check_ids(ids)
        if counted is not None:
            ids = tf.where(counted, ids, 0)
        rows = self._look_up(ids)
        weights = _weights(weights, counted, ids, rows.dtype)
        total = tf.reduce_sum(rows * weights[..., tf.newaxis], axis=-2)
        return self._divided(total, lambda w: tf.reduce_sum(w, axis=-1), weights)

    def _combine_ragged(
        self, ids: tf.RaggedTensor, counted: tf.Tensor, weights: tf.Tensor | None
    ) -> tf.Tensor:
        if ids.shape.rank != 2:
            raise ValueError(
                f"ShardedEmbedding {self.name!r}: ragged ids with a combiner are of shape "
                f"[batch, None], but these have rank {ids.shape.rank}; use ids.merge_dims, or "
                "combine the result of the layer without a combiner."
            )
        if weights is not None and not isinstance(weights, tf.RaggedTensor):
            raise ValueError(
                "ShardedEmbedding was called with ragged ids and dense weights; pass weights with "
                "the row lengths of the ids: ids.with_values(…)."
            )
        flat = ids.values
        if counted is not None:
            flat = tf.where(counted, flat, 0)
        rows = self._look_up(flat)
        weights = None if weights is None else weights.values
        weights = _weights(weights, counted, flat, rows.dtype)
        owners, count = ids.value_rowids(), ids.nrows()
        sums = lambda t: tf.math.unsorted_segment_sum(t, owners, count)  # noqa: E731
        total = sums(rows * weights[:, tf.newaxis])
        total.set_shape([ids.shape[0], self.output_dim])
        return self._divided(total, sums, weights)

    def _divided(self, total: tf.Tensor, sums: Callable, weights: tf.Tensor) -> tf.Tensor:
        if self.combiner == "sum":
            return total
        norm = sums(weights) if self.combiner == "mean" else tf.sqrt(sums(tf.square(weights)))
        return tf.math.divide_no_nan(total, norm[..., tf.newaxis])


def hashed(ids: tf.Tensor, rows: int) -> tf.Tensor:
    """Hashes integers to row numbers: a step of SplitMix64, then the remainder.

    Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014,
    https://doi.org/10.1145/2660193.2660195. Adjacent ids, and multiples of a number, get rows as
    if drawn at random.

    Args:
        ids: int32 or int64 tensor of any shape.
        rows: number of rows.
    """
    mixed = tf.bitcast(tf.cast(ids, tf.int64), tf.uint64) + _constant(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = tf.bitwise.bitwise_xor(mixed, _shifted(mixed, shift))
        mixed *= _constant(factor)
    mixed = tf.bitwise.bitwise_xor(mixed, _shifted(mixed, 31))
    return tf.cast(mixed % _constant(rows), tf.int64)


def _shifted(ids: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.right_shift(ids, _constant(bits))


def _constant(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint64)


def _weights(
    weights: tf.Tensor | None, counted: tf.Tensor, ids: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """The weight of each id: 0 for `mask_value`."""
    weights = tf.ones(tf.shape(ids), dtype) if weights is None else tf.cast(weights, dtype)
    return weights if counted is None else tf.where(counted, weights, tf.zeros([], dtype))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value > 0)
