"""A model's own train_step or test_step, and the options that it cannot be combined with."""

import logging
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Share, Stack
from tfbig.errors import UserError
from tfbig.layers.batch_position import batch_position_scope
from tfbig.placement.placement import Placement
from tfbig.programs.keras.custom_train_step import CustomStepProgram, has_custom_step, optimizers_of
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.program import Program
from tfbig.run_config import RunConfig
from tfbig.training.step.parts import Cut, exact_part, padded_part

log = logging.getLogger("tfbig")

_RULES_OF_TRAINING = (
    "it is run as Keras runs it under tf.distribute, so tfbig's promise that the number of "
    "replicas changes nothing ends here. Each replica computes its own loss, statistics and "
    "clipping; the optimizer adds up the replicas' gradients, of which Keras's losses alone are "
    "divided by the number of replicas; metrics are the mean of what the replicas return"
)
_RULES_OF_EVALUATION = (
    "evaluations are run as Keras runs them under tf.distribute, so tfbig's promise that the "
    "number of replicas changes nothing does not hold for them. Their metrics are the mean of "
    "what the replicas return"
)


class OwnStep:
    """Gives each replica its part of a global batch, and calls the model's own step with it.

    Args:
        program: whose model runs its step itself.
        placement: where.
        training: train_step or test_step.
        rows: how many examples a full batch, or this worker's largest share of one, has.
        exact: parts have their true size; otherwise all are equally large.
    """

    def __init__(
        self,
        program: CustomStepProgram,
        placement: Placement,
        *,
        training: bool,
        rows: int,
        exact: bool,
    ):
        self._program, self._placement, self._training = program, placement, training
        self._cut, self._exact = Cut(placement.local_replicas, rows), exact

    def __call__(self, stack: Any, share: Share, i: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Works on batch `i` of a stack, inside a replica; see `Step`.

        Returns:
            A float32 scalar that is finite as long as the losses that the step returned are.
        """
        # As the features of a batch, what input_fn yields keeps its structure.
        element = {"data": tf.nest.map_structure(lambda t: t[i], stack)}
        part = tf.convert_to_tensor(self._placement.replica()) - self._placement.first_replica
        build = exact_part if self._exact else padded_part
        batch, _ = build(element, share, part, self._cut, weigh=False, keep_empty=True)
        data = batch.features["data"]
        with batch_position_scope(number, batch.first, tf.shape(tf.nest.flatten(data)[0])[0]):
            logs = self._program.run_custom_step(data, self._training)
        logs = dict(zip(logs, self._means(list(logs.values())), strict=True))
        self._program.store_logs(logs, self._training)
        return watched_loss(logs)

    def _means(self, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """The means over the replicas, as Keras takes them of what its replicas return."""
        replicas = self._placement.num_replicas
        if replicas == 1 or not values:
            return values
        return [total / replicas for total in self._placement.reduce_sum(values)]


def watched_loss(logs: dict[str, tf.Tensor]) -> tf.Tensor:
    """The loss among what a step returned, else the sum of all that are called a loss."""
    if "loss" in logs:
        return tf.reduce_mean(logs["loss"])
    losses = [tf.reduce_mean(value) for name, value in logs.items() if "loss" in name]
    return tf.add_n(losses) if losses else tf.zeros([])


def check_last_batch(program: Program, placement: Placement, feed: Feed, *, training: bool) -> None:
    """Refuses a last batch that is too small, before training, where its size is known.

    Raises:
        UserError: there is such a batch; the message has its size.
    """
    if (
        program.runs_custom_step(training)
        and feed.tail_size
        and feed.tail_size < placement.num_replicas
    ):
        raise _too_small(feed.tail_size, placement, training)


def check_parts(stack: Stack, placement: Placement, training: bool) -> None:
    """Refuses a batch that leaves a replica without an example; its loss would be NaN.

    Raises:
        UserError: there is such a batch; the message has its size.
    """
    if placement.num_replicas == 1:
        return
    for size, count in zip(stack.sizes[: stack.steps], stack.counts[: stack.steps], strict=True):
        if 0 < size < placement.num_replicas or (size and count < placement.local_replicas):
            raise _too_small(int(size), placement, training)


def _too_small(size: int, placement: Placement, training: bool) -> UserError:
    method, where = ("train_step", "") if training else ("test_step", "eval_")
    return UserError(
        f"a batch of {where}input_fn has {size} example(s) for {placement.num_replicas} replicas, "
        f"and a {method} of the model's own makes a NaN of an empty part; write "
        "drop_remainder=True in .batch(…), or a batch size whose last batch is larger."
    )


def checked_program(
    model: keras.Model,
    placement: Placement,
    config: RunConfig,
    feed: Feed,
) -> KerasProgram:
    """The program that trains a compiled Keras model.

    Raises:
        UserError: it has its own train_step or test_step, and an option is not possible with it.
    """
    kind = CustomStepProgram if has_custom_step(model) else KerasProgram
    program = kind(model, remat=config.remat)
    check_own_step(program, placement, config, feed)
    return program


def check_own_step(
    program: Program,
    placement: Placement,
    config: RunConfig,
    feed: Feed,
) -> None:
    """Refuses options that are not possible with a model's own step.

    It logs which of Keras's rules apply.

    Raises:
        UserError: it says what to write instead.
    """
    if not program.runs_custom_step(training=False):
        return
    trains = program.runs_custom_step(training=True)
    kind = type(program.model).__name__
    has = f"{kind} has its own {'train_step' if trains else 'test_step'}"
    if not placement.runs_train_steps:
        raise UserError(
            f'{has}, which updates variables itself, and strategy="parameter_server" updates them '
            'from its own queue of gradients; write strategy="one_device", "mirrored" or '
            '"multi_worker".'
        )
    if config.model_distribution != "replicated":
        raise UserError(
            f"{has}, which works with whole variables and updates them itself, and "
            f"model_distribution={config.model_distribution!r} cuts them into slices; write "
            'model_distribution="replicated".'
        )
    if trains and config.accumulation_steps > 1:
        raise UserError(
            f"{has}, which is called once for each batch, so "
            f"accumulation_steps={config.accumulation_steps} cannot be kept; leave it 1, and "
            "compile with an optimizer that has gradient_accumulation_steps (one device only)."
        )
    if trains and config.gradient_aggregation != "mean":
        raise UserError(
            f"{has}, which aggregates its gradients itself, so "
            f"gradient_aggregation={config.gradient_aggregation!r} cannot be kept; leave it out, "
            "and have train_step compute the loss that it means."
        )
    check_last_batch(program, placement, feed, training=True)
    if trains and placement.num_replicas > 1:
        _check_optimizers(has, optimizers_of(program.model))
    if placement.num_replicas > 1:
        log.warning("%s: %s", has, _RULES_OF_TRAINING if trains else _RULES_OF_EVALUATION)


def _check_optimizers(has: str, optimizers: list[keras.optimizers.Optimizer]) -> None:
    """Refuses optimizers that fail, hang or ruin the weights when Keras uses them on replicas."""
    for optimizer in optimizers:
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        name = type(optimizer).__name__
        if inner is not optimizer:
            raise UserError(
                f"{has}, and its {name} decides on each replica alone if a step is skipped, so one "
                "infinite gradient spoils the weights of all; train in mixed_bfloat16, or on one "
                "device."
            )
        for field in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            if getattr(inner, field, None):
                raise UserError(
                    f"{has}, and its {name} has {field}={getattr(inner, field)}, which Keras "
                    "cannot do on several replicas; leave it None, or train on one device."
                )


def check_rates(callbacks: Iterable[Any], program: Program) -> None:
    """Refuses callbacks that set the rate of model.optimizer if train_step does not use it.

    Raises:
        UserError: it names the callback.
    """
    if not program.runs_custom_step(training=True) or program.optimizer is not None:
        return
    for callback in callbacks:
        if isinstance(
            callback, (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
        ):
            raise UserError(
                f"{type(callback).__name__} sets the learning rate of model.optimizer, and "
                f"{type(program.model).__name__}.train_step does not use it; write a "
                "keras.callbacks.Callback that sets the rate of the model's own optimizers, or "
                "give these a schedule."
            )
