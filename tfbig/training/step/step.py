"""The step, written once: compute the sums over a global batch's parts, then update.

A global batch is cut into parts, one for each replica and micro-batch. Everything that a part
yields is a sum: gradients, loss totals, denominators, metrics, moving statistics weighted by
examples. So it does not matter how the batch is cut, or where its parts are computed.

`Step.compute` and `Step.finish` are the two halves; a call runs both.
"""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from tfbig.data.feeds.feed import Share
from tfbig.layers.batch_position import batch_position_scope
from tfbig.placement.placement import Placement
from tfbig.placement.staleness import StalenessStats, Versions
from tfbig.placement.sums import Sums, flat_sums
from tfbig.programs.metric_aggregation import NOT_ADDITIVE, WHOLE_BATCHES
from tfbig.programs.program import Program, Values
from tfbig.training.step import gradients, whole_batches
from tfbig.training.step.micro_batches import MicroBatches
from tfbig.training.step.parts import Cut, exact_part, padded_part
from tfbig.training.step.state_kinds import StateKinds


class Step:
    """Computes and updates one global batch of a stack.

    Args:
        program: what to compute.
        placement: where.
        training: whether variables are trained; False: only loss and metrics are computed.
        aggregation: RunConfig.gradient_aggregation.
        micro_batches: RunConfig.accumulation_steps.
        rows: how many examples a full batch, or this worker's largest share of one, has.
        exact: parts have their true size, and are not compiled; False: all parts are equally
            large, and padding weighs 0.
        compile_part: compile the pure computation of one replica's parts.
        find_nan: return NaN as the loss if the gradient has a NaN. A loss can stay finite forever
            when the weights are NaN: TensorFlow's relu(NaN) is 0 on CPUs. XLA's is NaN.
        adds_metrics: the step yields what the batch adds to the metrics, and not their new values.
            With more than one part this is always so.
    """

    def __init__(
        self,
        program: Program,
        placement: Placement,
        *,
        training: bool,
        aggregation: str,
        micro_batches: int,
        rows: int,
        exact: bool,
        compile_part: bool = False,
        find_nan: bool = False,
        adds_metrics: bool = False,
    ):
        self._program, self._placement = program, placement
        self._training, self._aggregation = training, aggregation
        self._micro_batches = micro_batches if training else 1
        self._parts = self._micro_batches * placement.num_replicas
        self._cut = Cut(self._micro_batches * placement.local_replicas, rows)
        self._first_part = self._micro_batches * placement.first_replica
        self._nominal = rows * placement.peers.count
        self._exact = exact
        self._adds_metrics = adds_metrics or self._parts > 1
        # With loss scaling a NaN is nothing unusual, and the step is skipped.
        self._find_nan = find_nan and not program.scales_loss
        self._skips = training and program.scales_loss
        self._shape: gradients.Shape | None = None
        self._missing: list[set[int]] = []
        self._kinds = StateKinds(program)
        self._holds = self._parts > 1 and program.needs_whole_batches
        if self._adds_metrics:
            whole_batches.check_parts(program, placement, self._parts, gathers=not adds_metrics)
        weights = program.updates.weights
        # Weights in slices are gathered between blocks, so the blocks are compiled, not the part.
        self._compiled = compile_part and program.pure
        compiled = self._compiled and weights is None
        if weights is not None:
            weights.compiled = self._compiled
        communicates = weights is not None or program.synchronizes
        unrolled = communicates and not placement.loops_with_collectives
        # (values, element, share, number of the replica, loss scale, global step) → Sums
        self.replica_sums: Callable = (
            self._part_sums
            if self._micro_batches == 1
            else self._added_micro_batches(unrolled).sums
        )
        self._sums_of_replica: Callable = (
            tf.function(self.replica_sums, jit_compile=True, autograph=False)
            if compiled
            else self.replica_sums
        )

    def _added_micro_batches(self, unrolled: bool) -> MicroBatches:
        return MicroBatches(
            self._micro_batches, self._part_sums, self.unflatten, self._kinds, unrolled=unrolled
        )

    def __call__(self, stack: Any, share: Share, i: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        """Runs the step on batch `i` of a stack, inside a replica.

        Args:
            stack: structure of tensors of shape [K, rows, …].
            share: the sizes of batch i.
            i: int32 scalar.
            number: int64 scalar, the global step, counted from 0.

        Returns:
            The loss of the global batch, a float32 scalar.
        """
        values, sums = self.compute(stack, share, i, number, self._placement.replica())
        if self._placement.num_replicas > 1:
            sums = self._reduce(sums)
        loss, metrics = self.finish(sums)
        before = values.metrics
        if self._adds_metrics:
            metrics = [old + part for old, part in zip(before, metrics, strict=True)]
        if self._holds:
            kinds = self._program.metric_kinds
            whole = self._program.update_whole_batch_metrics(before, sums.held)
            metrics = [
                new if kind in (WHOLE_BATCHES, NOT_ADDITIVE) else added
                for kind, added, new in zip(kinds, metrics, whole, strict=True)
            ]
        metrics = self._unless_skipped(loss, metrics, before)
        self._assign(self._program.metric_variables, metrics)
        return loss

    def returning_metrics(
        self, stack: Any, share: Share, i: tf.Tensor, number: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Like a call, but returns what the batch adds to the metrics, and leaves their variables.

        It is for steps with `adds_metrics`, of which several run at the same time, on the same
        variables.
        """
        _, sums = self.compute(stack, share, i, number, self._placement.replica())
        return self.finish(sums)

    def asynchronous(
        self, stack: Any, share: Share, i: tf.Tensor, number: tf.Tensor, versions: Versions
    ) -> tuple[tf.Tensor, list[tf.Tensor], StalenessStats]:
        """Like `returning_metrics`, while other workers update the same variables.

        Args:
            stack, share, i, number: as for a call.
            versions: counts the updates in between. A gradient that is too old is dropped.

        Returns:
            The loss, what the batch adds to the metrics, and the staleness, int64 scalars.
        """
        before = versions.now()
        with tf.control_dependencies([before] if versions.most is not None else []):
            _, sums = self.compute(stack, share, i, number, self._placement.replica())
        with tf.control_dependencies(flat_sums(sums)):
            staleness, fresh = versions.arrive(before)
        if versions.most is None:
            loss, metrics = self.finish(sums)
        else:
            loss, *metrics = tf.cond(
                fresh,
                lambda: self._flat(self.finish(sums)),
                lambda: self._flat((self.loss_of(sums), self._metrics_of(sums))),
            )
        dropped = tf.cast(~fresh, tf.int64)
        return loss, metrics, StalenessStats(staleness, staleness, dropped)

    @staticmethod
    def _flat(finished: tuple[tf.Tensor, list[tf.Tensor]]) -> list[tf.Tensor]:
        return [tf.identity(t) for t in (finished[0], *finished[1])]

    def loss_of(self, sums: Sums) -> tf.Tensor:
        """The loss of a global batch, from the sums over all parts."""
        return gradients.global_loss(sums.totals, sums.denominators, self._shape)

    def compute(self, stack: Any, share: Share, i, number, replica) -> tuple[Values, Sums]:
        """Reads the variables, and sums over one replica's parts of batch `i`.

        Args:
            stack, share, i, number: as for a call.
            replica: int32 scalar.
        """
        element = tf.nest.map_structure(lambda t: t[i], stack)
        scale = tf.ones([])
        if self._training:
            scale = tf.cast(self._program.optimizer.scale_loss(scale), tf.float32)
        values = self._program.read()
        replica = tf.convert_to_tensor(replica)
        return values, self._sums_of_replica(values, element, share, replica, scale, number)

    def finish(self, sums: Sums) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Updates with the sums over all parts; returns the loss and the metrics."""
        loss = self.loss_of(sums)
        if self._training:
            loss = self._update(sums, loss)
        if sums.carried:  # in evaluation too, as Keras does
            variables = self._kinds.sequential_state(self._program.state)
            self._assign(variables, self._unless_skipped(loss, sums.carried, variables))
        metrics = self._metrics_of(sums)
        if self._adds_metrics:
            metrics = self._unless_skipped(loss, metrics, map(tf.zeros_like, metrics))
        return loss, metrics

    def _metrics_of(self, sums: Sums) -> list[tf.Tensor]:
        if self._parts == 1:
            return sums.metrics
        return self._program.merge_part_metrics(sums.metrics, sums.examples[0])

    def _unless_skipped(self, loss: tf.Tensor, values: list, otherwise: Iterable) -> list:
        """The values that a step yields, or others if it is skipped because its loss overflowed."""
        if not self._skips:
            return values
        kept = tf.math.is_finite(loss)
        return [tf.where(kept, a, b) for a, b in zip(values, otherwise, strict=True)]

    def _part_sums(self, values: Values, element, share: Share, part, scale, number) -> Sums:
        """The sums of one part: the pure half of the step."""
        program, many = self._program, self._parts > 1
        build = exact_part if self._exact else padded_part
        batch, live = build(
            element, share, part - self._first_part, self._cut,
            weigh=program.exact_with_padding, keep_empty=program.couples_replicas,
        )  # fmt: skip
        batch = batch._replace(is_whole=not many)
        start = self._started(values, part)
        # Slices of weights are values, also where the forward pass reads other variables.
        by_value = program.pure or program.updates.weights is not None
        with tf.GradientTape(persistent=True, watch_accessed_variables=not by_value) as tape:
            if by_value:
                tape.watch(start.trainable)
            rows = tf.shape(tf.nest.flatten(batch.features)[0])[0]
            with batch_position_scope(number, batch.first, rows):
                forward = program.forward(start, batch, self._training)
            if many:
                whole_batches.warn_of_doubts(program, forward.terms, self._parts, self._aggregation)
            groups = gradients.group_terms(
                forward.terms, batch.count, self._nominal, self._aggregation
            )
            totals = [live * g.total for g in groups]
            targets = gradients.targets(groups, totals, scale, whole=not many)
        self._shape = gradients.shape_of(groups)
        sums = []
        if self._training:
            sources = start.trainable if by_value else program.trainable
            sums = gradients.gradient_sums(tape, targets, sources)
            self._missing = [{i for i, g in enumerate(s) if g is None} for s in sums]
        del tape
        self._kinds.note_unchanged(forward.state, start.state)
        for new, old in zip(
            forward.state + forward.metrics, start.state + start.metrics, strict=True
        ):
            if new is not old:  # an unchanged one may be the variable of a table
                new.set_shape(old.shape)
        moving = self._kinds.moving(forward.state)
        other = self._kinds.others(forward.state)
        metrics = forward.metrics
        if many:
            weight = tf.math.divide_no_nan(batch.count, tf.cast(share.size, tf.float32))
            # tf.where and not a product: the statistics of an empty part may be NaN.
            moving = [
                tf.where(batch.count > 0, v * tf.cast(weight, v.dtype), tf.zeros_like(v))
                for v in moving
            ]
            other = self._kinds.without_streams(other, part)
            metrics = whole_batches.metrics_of_part(program, metrics, batch.count, weight)
        denominators = [live * g.denominator for g in groups]
        carried = self._kinds.sequential_state(forward.state)
        held = forward.metric_inputs if self._holds else []
        if self._exact:  # the row that an empty part borrows is left out
            held = [t[: tf.cast(batch.count, tf.int32)] for t in held]
        examples = [batch.count]
        return Sums(sums, totals, denominators, moving, metrics, examples, other, carried, held)

    def _started(self, values: Values, part) -> Values:
        """The values a part starts from: metrics at 0, and random streams of its own."""
        if self._adds_metrics:
            values = values._replace(metrics=[tf.zeros_like(v) for v in values.metrics])
        if self._parts == 1:
            return values
        return values._replace(state=self._kinds.with_streams(values.state, part))

    def _reduce(self, sums: Sums) -> Sums:
        """Sums over the replicas; gradients only if the update does not sum them itself.

        State that is not float is equal on all replicas, and is not summed.
        """
        kept, own = sums._replace(other=[]), None
        if self._training and self._program.updates.reduces:
            if self._find_nan:  # the totals carry what one replica has found to all
                poison = tf.where(gradients.have_nan(sums.all_gradients), float("nan"), 0.0)
                kept = kept._replace(totals=[total + poison for total in sums.totals])
            kept, own = kept._replace(gradients=[]), sums.gradients
        # TensorFlow's collective operations need the same shape in all steps. IndexedSlices have
        # another number of rows in each.
        whole = [tf.convert_to_tensor(t) for t in flat_sums(kept)]
        reduced = self._placement.reduce_sum(whole)
        held = sums.held
        if held:
            most = self._micro_batches * self._cut.rows_per_part
            held = whole_batches.gathered_parts(held, most, self._placement.gather_rows)
        return self.unflatten(reduced, others=sums.other, own=own)._replace(held=held)

    def _update(self, sums: Sums, loss: tf.Tensor) -> tf.Tensor:
        """Changes the weights and the state; returns the loss to be reported."""
        total = gradients.aggregate(
            sums.gradients, sums.denominators, self._shape, whole=self._parts == 1
        )
        if self._find_nan and not self._program.updates.reduces:
            # The check reads the sums, not `total`. Only the first replica's loss is reported. If
            # the check read what the optimizer multiplies next, TensorFlow would optimize that
            # replica's update differently, and its weights would differ in the last bit.
            loss = tf.where(gradients.have_nan(sums.all_gradients), float("nan"), loss)
        self._program.updates.compiled = self._compiled
        self._program.apply(total)
        moving = self._kinds.moving(self._program.state)
        self._assign(moving, self._unless_skipped(loss, sums.moving, moving))
        self._assign(self._kinds.others(self._program.state), sums.other)
        return loss

    def _assign(self, variables, values) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def unflatten(self, flat: list, others: list | None = None, own: list | None = None) -> Sums:
        """The inverse of `flat_sums`, with the structure that the trace of a part has shown.

        Args:
            flat: what `flat_sums` returned, or sums of it.
            others, own: Sums.other and Sums.gradients, if they are not in `flat`.
        """
        left = iter(flat)
        trainable = len(self._program.trainable) if self._training else 0
        groups = len(self._shape.nominal)
        sums = own or [
            [None if i in missing else next(left) for i in range(trainable)]
            for missing in self._missing
        ]
        take = lambda n: [next(left) for _ in range(n)]  # noqa: E731
        totals, denominators = take(groups), take(groups)
        moving = take(len(self._kinds.moving(self._program.state)))
        metrics, examples = take(len(self._program.metric_variables)), take(1)
        other = others
        if other is None:
            other = take(len(self._kinds.others(self._program.state)))
        return Sums(sums, totals, denominators, moving, metrics, examples, other)
