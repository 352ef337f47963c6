"""How optimizer updates are applied, and which optimizers support row-wise updates of tables."""

import contextlib
import logging
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf
from keras import optimizers

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.sharded_tables import mark_shard, marked_value, shard_of
from tfbig.programs.divided_weights import DividedWeights


class Updates:
    """Builds and applies the optimizer of a program in the way of a placement.

    In this base class every replica has the whole optimizer state and computes the whole update.
    A program receives one of these before it is built, and knows nothing else about replicas.

    Attributes:
        compiled: whether pure parts of an update may be compiled with XLA. Set it before a step
            is traced.
        reduces: whether `apply` itself sums gradients over the replicas.
        slots_are_whole: whether each replica has complete slot variables. False: it has slices.
        distribution: RunConfig.model_distribution.
        concurrent: whether other workers may update the same variables at the same time.
        weights: how replicas divide weights or gradients among them; None: they do not.
    """

    compiled: bool = False
    reduces: bool = False
    slots_are_whole: bool = True
    distribution: str = "replicated"
    concurrent: bool = False
    weights: DividedWeights | None = None

    @property
    def gathers(self) -> bool:
        """Whether the weights are in slices, and have to be gathered."""
        return self.weights is not None and self.weights.gathers

    def creating_weights(self) -> contextlib.AbstractContextManager:
        """Returns a context in which the weights of a model are created."""
        return contextlib.nullcontext()

    def stores(self, value: Any) -> bool:
        """Whether the value of a Keras variable was created in `creating_weights`."""
        return False

    def build(self, optimizer: Any, variables: list) -> None:
        """Creates the variables of an optimizer.

        Args:
            optimizer: a Keras optimizer. One that is built already stays unchanged.
            variables: all variables that are trained at some step of the run.

        Raises:
            UserError: the optimizer cannot update these variables.
        """
        check_tables(optimizer, variables)
        if not optimizer.built:  # LossScaleOptimizer would create its variables twice
            optimizer.build(variables)
        mark_slots(optimizer, variables)

    def bytes_to_come(self, optimizer: Any, variables: list) -> int:
        """The bytes of gradients and optimizer state that each replica will have.

        Args:
            optimizer: not built yet.
            variables: that it will train; they exist already.
        """
        return sum(map(bytes_of, variables)) + slot_bytes(optimizer, variables)

    def report(self, program: Any) -> None:
        """Logs what each replica holds of a built program, if that is not everything."""

    def apply(self, optimizer: Any, gradients: list, variables: list) -> None:
        """Updates variables, inside a replica.

        Args:
            optimizer: built by `build`.
            gradients: one per variable, or None. They are equal on all replicas, or, where
                `reduces` is true, the summands of this replica. The gradient of a
                ShardedEmbedding's table is a tf.IndexedSlices with distinct indices.
            variables: those that are trained at this step.
        """
        optimizer.apply(prepare_gradients(optimizer, gradients, variables), variables)
        _private_api.overwrite_with_averages(optimizer)

    def finalize(self, optimizer: Any, variables: list) -> None:
        """Replaces the variables by their moving averages (use_ema) at the end of a run."""
        optimizer.finalize_variable_values(variables)

    def slots(self) -> dict[str, Any]:
        """The slot variables that this object stores in place of the optimizer, by path."""
        return {}


log = logging.getLogger("tfbig")

# A row whose gradient is 0 stays as it is, and so do its slots.
ROW_WISE = (optimizers.SGD, optimizers.Adagrad)
# Their rules use norms of whole variables, and a shard is not a whole variable.
_BY_VARIABLE = (optimizers.Adafactor, optimizers.Lamb, optimizers.Muon)


def check_sparse_optimizer(optimizer: Any, parts: Iterable) -> None:
    """Refuses an optimizer that would update all rows of a ShardedEmbedding in every step.

    Example: `check_sparse_optimizer(model.optimizer, model.trainable_variables)`.

    Args:
        optimizer: the optimizer of the training loop.
        parts: layers, models or variables that it trains.

    Raises:
        UserError: the message says why, and what to write instead.
    """
    for variable in _trained(parts):
        why = dense_update_reason(optimizer, variable) if shard_of(variable) else None
        if why:
            name = getattr(variable, "path", None) or variable.name
            raise UserError(
                f"{why}, which would go over all rows of the table {name!r} of a ShardedEmbedding "
                "in every step. Use keras.optimizers.Adagrad, or SGD without momentum, or declare "
                "`row_wise = True` in a class of your own whose update_step leaves rows with a "
                "gradient of 0 alone."
            )


def check_tables(optimizer: Any, variables: Iterable) -> None:
    """Logs that an optimizer updates all rows of a ShardedEmbedding in every step, if it does.

    Raises:
        UserError: the optimizer would treat each shard of a table as a separate variable.
    """
    tables = [v for v in variables if shard_of(v)]
    if not tables:
        return
    kind = type(_private_api.unwrap_optimizer(optimizer))
    if kind in _BY_VARIABLE and any(shard_of(v).count > 1 for v in tables):
        raise UserError(
            f"the optimizer {kind.__name__} works by norms of whole variables, and a "
            "ShardedEmbedding has its table in several; write shards=1, or use an optimizer that "
            "treats each element by itself, such as Adagrad or Adam."
        )
    why = dense_update_reason(optimizer, tables[0])
    if why:
        log.info(
            "%s, so all rows of the ShardedEmbeddings are updated in every step; Adagrad, or SGD "
            "without momentum, would update those of the batch alone",
            why,
        )


def dense_update_reason(optimizer: Any, variable: Any) -> str | None:
    """Why an optimizer changes rows of a variable that have no gradient; None if it does not."""
    if not isinstance(optimizer, optimizers.Optimizer):
        return "model_fn returns a train_op of TensorFlow 1"
    inner = _private_api.unwrap_optimizer(optimizer)
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
    """Marks the slot variables of a table's shards as shards of a table of slots.

    Checkpoints can then restore them with another number of shards.
    """
    kinds: dict = {}
    shards = [v for v in variables if shard_of(v)]
    for variable, slots in zip(shards, _private_api.slots_of(optimizer, shards), strict=True):
        shard = shard_of(variable)
        for kind, slot in slots.items():
            if slot.shape == variable.shape:
                table = kinds.setdefault((id(shard.table), kind), object())
                mark_shard(slot, shard._replace(table=table))
                marked_value(slot)


def prepare_gradients(optimizer: Any, gradients: list, variables: list) -> list:
    """Converts tf.IndexedSlices to dense gradients where the optimizer updates all rows."""
    return [
        tf.convert_to_tensor(g)
        if isinstance(g, tf.IndexedSlices) and dense_update_reason(optimizer, v)
        else g
        for g, v in zip(gradients, variables, strict=True)
    ]


def bytes_of(variable: Any) -> int:
    """The bytes of the value of a variable."""
    return variable.shape.num_elements() * tf.as_dtype(variable.dtype).size


def slot_bytes(optimizer: Any, variables: list) -> int:
    """The bytes of the slot variables that an optimizer would create; 0 if that is not known."""
    inner = _private_api.unwrap_optimizer(optimizer)
    if not isinstance(inner, optimizers.Optimizer) or inner.built:
        return 0
    try:
        trial = type(inner).from_config(inner.get_config())
        slots = _private_api.build_without_slots(trial, variables)
    except (TypeError, ValueError, NotImplementedError):  # a class with an incomplete config
        return 0
    return sum(bytes_of(slot) for own in slots for slot in own)


def table_of(variable: Any) -> Any:
    """An object that identifies the table of a shard; None for other variables."""
    shard = shard_of(variable)
    return shard and shard.table


def _trained(parts: Iterable) -> Iterable:
    for part in parts:
        if isinstance(part, keras.layers.Layer):
            yield from part.trainable_variables
        else:
            yield part
