"""Which optimizers update the rows of a table that a batch has used, and leave the others alone."""

import logging
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import optimizers

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.rows import mark, marked_value, shard_of

log = logging.getLogger("tfbig")

# A row whose gradient is 0 stays as it is, and so do its slots.
ROW_WISE = (optimizers.SGD, optimizers.Adagrad)
# They work by norms of whole variables, and a shard is not the whole.
_BY_VARIABLE = (optimizers.Adafactor, optimizers.Lamb, optimizers.Muon)


def check_sparse_optimizer(optimizer: Any, parts: Iterable) -> None:
    """Refuses an optimizer that would go over all rows of a ShardedEmbedding in every step.

    Example: `check_sparse_optimizer(model.optimizer, model.trainable_variables)`.

    Args:
        optimizer: what the loop applies gradients by.
        parts: layers, models or variables that it trains.

    Raises:
        UserError: the message says why, and what to write.
    """
    for variable in _trained(parts):
        why = why_not_by_rows(optimizer, variable) if shard_of(variable) else None
        if why:
            name = getattr(variable, "path", None) or variable.name
            raise UserError(
                f"{why}, which would go over all rows of the table {name!r} of a ShardedEmbedding "
                "in every step. Use keras.optimizers.Adagrad, or SGD without momentum, or declare "
                "`row_wise = True` in a class of your own whose update_step leaves rows with a "
                "gradient of 0 alone."
            )


def check_tables(optimizer: Any, variables: Iterable) -> None:
    """Says what an optimizer does to the tables of ShardedEmbeddings, if that is dear or wrong.

    Raises:
        UserError: it would treat the shards of a table as if each were a variable by itself.
    """
    tables = [v for v in variables if shard_of(v)]
    if not tables:
        return
    kind = type(_private_api.unwrapped(optimizer))
    if kind in _BY_VARIABLE and any(shard_of(v).count > 1 for v in tables):
        raise UserError(
            f"the optimizer {kind.__name__} works by norms of whole variables, and a "
            "ShardedEmbedding has its table in several; write shards=1, or use an optimizer that "
            "treats each element by itself, such as Adagrad or Adam."
        )
    why = why_not_by_rows(optimizer, tables[0])
    if why:
        log.info(
            "%s, so all rows of the ShardedEmbeddings are updated in every step; Adagrad, or SGD "
            "without momentum, would update those of the batch alone",
            why,
        )


def why_not_by_rows(optimizer: Any, variable: Any) -> str | None:
    """Why an optimizer changes rows of a variable that have no gradient, or None: it does not."""
    if not isinstance(optimizer, optimizers.Optimizer):
        return "model_fn returns a train_op of TensorFlow 1"
    inner = _private_api.unwrapped(optimizer)
    name = type(inner).__name__
    if type(inner) not in ROW_WISE and getattr(inner, "row_wise", False) is not True:
        return f"the optimizer {name} changes rows that have no gradient"
    if getattr(inner, "momentum", 0) and type(inner) is optimizers.SGD:
        return f"{name} has momentum={inner.momentum}"
    if _private_api.is_decayed(inner, variable):
        return f"{name} has weight_decay={inner.weight_decay}"
    if inner.use_ema:
        return f"{name} has use_ema=True"
    if inner.loss_scale_factor is not None:
        return f"{name} has loss_scale_factor={inner.loss_scale_factor}"
    return None


def mark_slots(optimizer: Any, variables: list) -> None:
    """Says of an optimizer's slots of a table's shards that they are shards of a table, too."""
    kinds: dict = {}
    shards = [v for v in variables if shard_of(v)]
    for variable, slots in zip(shards, _private_api.slots_of(optimizer, shards), strict=True):
        shard = shard_of(variable)
        for kind, slot in slots.items():
            if slot.shape == variable.shape:
                table = kinds.setdefault((id(shard.table), kind), object())
                mark(slot, shard._replace(table=table))
                marked_value(slot)


def for_optimizer(optimizer: Any, gradients: list, variables: list) -> list:
    """Gradients as an optimizer is to be given them: slices stay slices where rows suffice."""
    return [
        tf.convert_to_tensor(g)
        if isinstance(g, tf.IndexedSlices) and why_not_by_rows(optimizer, v)
        else g
        for g, v in zip(gradients, variables, strict=True)
    ]


def table_of(variable: Any) -> Any:
    """What the shards of one table have in common, by identity; None for other variables."""
    shard = shard_of(variable)
    return shard and shard.table


def _trained(parts: Iterable) -> Iterable:
    for part in parts:
        if isinstance(part, keras.layers.Layer):
            yield from part.trainable_variables
        else:
            yield part
