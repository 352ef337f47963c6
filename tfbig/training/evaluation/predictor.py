"""Predictions of a model for all examples of a feed, in their order."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbig.data.feeds.feed import Feed, Stack
from tfbig.errors import UserError
from tfbig.placement.placement import Placement
from tfbig.programs.feature_matching import match_features
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.programs.keras.rebuilding import CANNOT_BE_REBUILT, rebuilt_uncompiled
from tfbig.programs.model_fn.model_fn_program import ModelFnProgram
from tfbig.programs.program import split_element
from tfbig.training.step.whole_batches import gathered


class Predictor:
    """Runs one pass over a feed; batches are cut over the replicas in their true size.

    Every task of a cluster reads whole batches, predicts its part, and receives all predictions.

    Args:
        model: a keras.Model, built or not, which is made again in the placement's scope unless it
            is there; or a built program (of a model_fn, for prediction).
        placement: where.
        feed: read in its own order.
        endless: whether the caller stops by itself, so that the data may have no end.
        keys: the names of the predictions of a ModelFnProgram to compute; None for all.

    Raises:
        UserError: the model cannot be made again there, or the data would not end.
    """

    def __init__(
        self,
        model: keras.Model | KerasProgram | ModelFnProgram,
        placement: Placement,
        feed: Feed,
        *,
        endless: bool = False,
        keys: Sequence[str] | None = None,
    ):
        if getattr(feed, "infinite", False) and not endless:
            raise UserError(
                "input_fn returned an infinite Dataset, so the predictions would not end; leave "
                "out .repeat(), or write .take(n)."
            )
        self._placement, self._feed = placement, feed
        features, _, _ = split_element(feed.element_spec)
        self._outputs: Callable
        self._tracing: Callable = contextlib.nullcontext
        if isinstance(model, (KerasProgram, ModelFnProgram)):
            program, self._tracing = model, model.tracing
            self._outputs = program.predict
            if keys is not None:
                self._outputs = lambda features: {k: program.predict(features)[k] for k in keys}
        else:
            placed = _placed(model, placement)
            match_features(placed, features)  # raises before any prediction is asked for
            self._outputs = lambda features: placed(
                match_features(placed, features), training=False
            )
        spec = tf.nest.map_structure(
            lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), features
        )
        signature = (spec, tf.TensorSpec([], tf.int32))
        self._predict = tf.function(self._predicted, input_signature=signature, autograph=False)

    def batches(self, hooks: Any = None) -> Iterator[Any]:
        """Yields for each batch (features, labels, weight, outputs): NumPy arrays, [n, …] each.

        Args:
            hooks: called for each batch, as those of `Evaluator`; or None.
        """
        listen = hooks is not None and hooks.begin()
        feed, step = self._feed, 0
        total = feed.steps_per_pass
        while total is None or step < total:
            most = 1 if listen else feed.capacity
            steps = most if total is None else min(most, total - step)
            then = 0 if total is None else min(most, total - step - steps)
            stack = feed.pull(step, steps, then)
            if not stack.steps:
                break
            if listen:
                hooks.before(stack, step)
            yield from self.of_stack(stack)
            step += stack.steps
            if listen:
                hooks.after(step, {})
        if listen:
            hooks.finish()

    def of_stack(self, stack: Stack) -> Iterator[Any]:
        """Yields the same for the batches of a stack that has been pulled."""
        for i in range(stack.steps):
            count = int(stack.counts[i])
            batch = tf.nest.map_structure(lambda a: a[i][:count], stack.values)  # noqa: B023
            parts = self._predict(split_element(batch)[0], tf.constant(count))
            outputs = tf.nest.map_structure(
                lambda *arrays: np.concatenate([np.asarray(a) for a in arrays]), *parts
            )
            numbers = tf.nest.map_structure(np.asarray, batch)
            if self._placement.num_replicas > 1:
                outputs = tf.nest.map_structure(lambda a: self._cut(a, count), outputs)  # noqa: B023
            yield (*split_element(numbers), outputs)

    def _cut(self, output: np.ndarray, count: int) -> np.ndarray:
        """Removes the rows of empty parts, which have predicted another example, at the end."""
        replicas = self._placement.num_replicas
        rows = -(-count // replicas)
        full = -(-count // rows)  # parts with examples
        padded = self._placement.peers.count > 1
        expected = rows * replicas if padded else count + replicas - full
        if output.shape[:1] != (expected,):
            raise UserError(
                f"a prediction has the shape {output.shape} for {count} examples; on several "
                "devices each prediction needs a row for each example. Predict on one device, or "
                "leave it out with predict_keys."
            )
        return output[:count]

    def _predicted(self, features: Any, count: tf.Tensor) -> list:
        def part(features, count):
            replicas, number = self._placement.num_replicas, self._placement.replica()
            rows = -(-count // replicas)
            start = tf.minimum(number * rows, count)
            stop = tf.minimum(start + rows, count)
            empty = stop == start  # then it borrows the first example
            start, stop = tf.where(empty, 0, start), tf.where(empty, 1, stop)
            mine = tf.nest.map_structure(lambda t: t[start:stop], features)
            outputs = self._outputs(mine)
            if self._placement.peers.count == 1:
                return outputs
            outputs = tf.nest.map_structure(lambda t: _with_rows(t, stop - start), outputs)
            return tf.nest.map_structure(lambda t: self._of_all(t, rows), outputs)

        with self._tracing():
            parts = self._placement.run_each(part, (features, count))
        return parts if self._placement.peers.count == 1 else parts[:1]

    def _of_all(self, outputs: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """The outputs of all replicas, one after the other, from those of this one."""
        lacking = [[0, rows - tf.shape(outputs)[0]], *[[0, 0]] * (outputs.shape.rank - 1)]
        return gathered(tf.pad(outputs, lacking), self._placement.gather_rows)


def _with_rows(output: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Checks, when it runs, that an output has a row for each example."""
    message = "each prediction needs a row for each example; predict on one device"
    same = tf.debugging.assert_equal(tf.shape(output)[0], rows, message)
    with tf.control_dependencies([same]):
        return tf.identity(output)


def _placed(model: keras.Model, placement: Placement) -> keras.Model:
    if model.built and all(placement.owns(v.value) for v in model.variables):
        return model
    try:
        with placement.scope():
            return rebuilt_uncompiled(model)
    except CANNOT_BE_REBUILT as error:
        raise UserError(
            f"{type(model).__name__} cannot be made again on the replicas' devices from its "
            f"get_config ({str(error).splitlines()[0]}); predict on one device."
        ) from error
