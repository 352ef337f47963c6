"""One update by owners, traced in each replica: sum gradients into slices, update, gather."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.placement.owner.layout import Bucket, group_for_gather
from tfbig.placement.owner.slices import Store
from tfbig.placement.owner.weight_access import WeightAccess, gathered_slices, rows_of
from tfbig.placement.placement import Placement


class OwnerStep:
    """The update of all slices, for one trace of a replica.

    Args:
        placement: the placement of the replicas.
        optimizer: a Keras optimizer that was built without slots.
        variables: all variables that it was built for.
        slots: the slots that Keras would create, by variable; the update rule needs their names.
        buckets: how the variables are cut into slices.
        stored: the slots of each bucket.
        weights: reads and stores the slices of the weights.
        sums: whether gradients are the summands of this replica. False: they are its slices of
            the sums, one for each variable.
        compiled: whether to compile the update of each slice with XLA.
    """

    def __init__(
        self,
        placement: Placement,
        optimizer: Any,
        variables: list,
        slots: list[list],
        buckets: list[Bucket],
        stored: list[list[Store]],
        *,
        weights: WeightAccess,
        sums: bool,
        compiled: bool,
    ):
        self._placement, self._weights, self._sums = placement, weights, sums
        self._optimizer, self._inner = optimizer, _private_api.unwrap_optimizer(optimizer)
        self._variables, self._slots, self._stored = variables, slots, stored
        self._compiled = compiled
        self._rules: dict = {}  # by kind and slice size
        self._replica = int(tf.get_static_value(placement.replica()))
        self._replicas = placement.num_replicas
        self._buckets = buckets
        self._updated: Any = None  # a bool scalar: whether to update; None: always
        self._scalars: list | None = None  # the new values, once a bucket has been updated
        # A bool scalar: whether averages overwrite the weights in this update; None: never.
        self._overwrites_now: Any = None

    def apply(self, gradients: list, variables: list) -> None:
        """Updates variables.

        Args:
            gradients: the gradient of each variable, as `sums` says, or None.
            variables: the variables that are trained now.
        """
        _private_api.check_gradients(self._optimizer, gradients, variables)
        index = {id(variable): i for i, variable in enumerate(self._variables)}
        complete: list = [None] * len(self._variables)
        for gradient, variable in zip(gradients, variables, strict=True):
            complete[index[id(variable)]] = gradient
        missing = {i for i, gradient in enumerate(complete) if gradient is None}
        trained = [i for i, b in enumerate(self._buckets) if not missing.issuperset(b.members)]
        averaged = bool(self._inner.use_ema)
        overwrites = averaged and bool(self._inner.ema_overwrite_frequency)
        # Buckets with a gradient first: their update yields the scalars that the others may need.
        order = list(trained)
        if averaged:
            order += [i for i in range(len(self._buckets)) if i not in set(trained)]
        # Clipping and the check for finite gradients need the sums of all buckets.
        needs_all_sums = self._optimizer is not self._inner or _private_api.clips_gradients(
            self._inner
        )
        slices: list = [None] * len(self._buckets)
        divisor = self._inner.loss_scale_factor
        # Wait for the backward pass: rows are updated in place, and while the backward pass reads
        # a variable, that would copy all of it.
        previous = [gradient for gradient in gradients if gradient is not None]
        if needs_all_sums:
            for i in trained:
                with tf.control_dependencies(previous):
                    slices[i] = self._sum(self._buckets[i], complete)
                previous = [slices[i]]
            slices, divisor = self._check_and_clip(slices, missing)
        for group in self._groups(order):
            # One group after the other, so that the temporaries of each are freed.
            with tf.control_dependencies(previous):
                if not needs_all_sums:
                    for i in group:
                        slices[i] = self._sum(self._buckets[i], complete)
                previous = self._update_group(group, slices, missing, divisor, overwrites)
        with tf.control_dependencies(previous):
            self._assign_scalars()

    def _groups(self, order: list[int]) -> list[list[int]]:
        buckets = [self._buckets[i] for i in order]
        dtypes = [bucket.kind[0] for bucket in buckets]
        sizes = [tf.as_dtype(dtype).size for dtype in dtypes]
        elements = [sum(bucket.sizes) for bucket in buckets]
        return [[order[i] for i in group] for group in group_for_gather(elements, dtypes, sizes)]

    def _sum(self, bucket: Bucket, gradients: list) -> tf.Tensor | None:
        """This replica's slice of the sum of gradients; None if the bucket has no gradient."""
        if all(gradients[member] is None for member in bucket.members):
            return None
        dtype, rows = bucket.kind[0], []
        replicas = self._replicas if self._sums else 1
        for i, member in enumerate(bucket.members):
            width, gradient = bucket.widths[i], gradients[member]
            if gradient is None:
                rows.append(tf.zeros([replicas, width], dtype))
                continue
            if self._sums:
                start, stop = bucket.offsets[i], bucket.offsets[i] + bucket.sizes[i]
                gradient = tf.reshape(gradient, [-1])[start:stop]
            rows.append(rows_of(gradient, replicas))
        together = rows[0] if len(rows) == 1 else tf.concat(rows, 1)
        return self._placement.scatter_sum(together) if self._sums else together[0]

    def _check_and_clip(self, slices: list, missing: set[int]) -> tuple[list, Any]:
        """Decides whether to update at all, and clips the gradients.

        Returns:
            Slices of gradients, and the divisor that still has to be applied to them, or None.
        """
        present = [i for i, gradient in enumerate(slices) if gradient is not None]
        divisor = self._inner.loss_scale_factor
        if self._optimizer is not self._inner:
            finite = self._optimizer.check_finite([slices[i] for i in present])
            (bad,) = self._placement.reduce_sum([tf.cast(~finite, tf.float32)])
            self._updated = tf.equal(bad, 0.0)
            divisor = tf.convert_to_tensor(self._optimizer.dynamic_scale)
        if not _private_api.clips_gradients(self._inner):
            return slices, divisor
        slices = list(slices)
        for i in present:
            if divisor is not None:
                slices[i] = _divided(slices[i], divisor)
        if self._inner.clipvalue:
            clipped = _private_api.clip_gradients(self._inner, [slices[i] for i in present])
        else:
            factors = self._clip_factors(slices, present, missing)
            clipped = [slices[i] * self._spread(self._buckets[i], factors) for i in present]
        for i, gradient in zip(present, clipped, strict=True):
            slices[i] = gradient
        return slices, None

    def _clip_factors(self, slices: list, present: list[int], missing: set[int]) -> dict:
        """The factor by which clipping by norm multiplies the gradient of each variable.

        It depends only on the norms of the gradients, so Keras clips the norms, as if each were a
        gradient with a single element.
        """
        members = [m for i in present for m in self._buckets[i].members if m not in missing]
        squares = dict.fromkeys(members, tf.zeros([]))
        for i in present:
            parts = zip(self._buckets[i].members, self._buckets[i].positions, strict=True)
            for (member, position), width in zip(parts, self._buckets[i].widths, strict=True):
                part = tf.cast(slices[i][position : position + width], tf.float32)
                if member not in missing:  # padding is 0
                    squares[member] += tf.reduce_sum(tf.square(part))
        (total,) = self._placement.reduce_sum([tf.stack(list(squares.values()))])
        norms = tf.unstack(tf.sqrt(total))
        clipped = _private_api.clip_gradients(self._inner, norms)
        factors = [tf.math.divide_no_nan(c, n) for c, n in zip(clipped, norms, strict=True)]
        return dict(zip(squares, factors, strict=True))

    def _spread(self, bucket: Bucket, factors: dict) -> tf.Tensor:
        """The factor of each element of this replica's slice, or one factor for all elements."""
        if len(bucket.members) == 1:
            return tf.cast(factors[bucket.members[0]], bucket.kind[0])
        parts = [
            tf.fill([width], factors.get(member, tf.zeros([])))
            for member, width in zip(bucket.members, bucket.widths, strict=True)
        ]
        return tf.cast(tf.concat(parts, 0), bucket.kind[0])

    def _update_group(self, group: list[int], gradients, missing, divisor, overwrites) -> list:
        """Updates the buckets of a group; returns the operations that the next group waits for."""
        new_slices, writes = [], []
        for i in group:
            new, new_slots = self._update_slice(i, gradients[i], missing, divisor)
            for stored, value in zip(self._stored[i], new_slots, strict=True):
                writes.append(_private_api.assign_in_replica(stored.variable, value))
            if overwrites:
                average = self._rule_of(self._buckets[i])[0].average_index
                new = tf.where(self._averages_overwrite(), new_slots[average], new)
            new_slices.append(new)
        if not overwrites and all(gradients[i] is None for i in group):
            return writes  # only the averages have changed, not the weights
        writes += self._weights.store(
            [self._buckets[i] for i in group],
            new_slices,
            lambda member: overwrites or member not in missing,
            lambda member, value: self._constrained(
                self._variables[member], value, member not in missing
            ),
        )
        return writes

    def _update_slice(self, i: int, gradient, missing, divisor) -> tuple[Any, list]:
        bucket, stored = self._buckets[i], self._stored[i]
        rule, update = self._rule_of(bucket)
        slots = [tf.convert_to_tensor(slot.variable) for slot in stored]
        scalars = [tf.convert_to_tensor(variable) for variable in rule.scalars]
        mask = None
        if gradient is not None:
            if divisor is not None:
                gradient = _divided(gradient, divisor)
            if not missing.isdisjoint(bucket.members):
                mask = self._mask(bucket, missing)
        if _of_variable(bucket):  # each replica computes all of it, and keeps its slice
            shape = self._variables[bucket.members[0]].shape
            weights = self._weights.whole(bucket)
            slots = [gathered_slices(self._placement, slot, shape) for slot in slots]
            slots += [tf.convert_to_tensor(factor) for factor in rule.factors]
            if gradient is not None:
                gradient = gathered_slices(self._placement, gradient, shape)
        else:
            weights = self._weights.slice_of(bucket)
        new, new_slots, new_scalars = update(weights, gradient, slots, scalars, self._updated, mask)
        if gradient is not None and self._scalars is None:
            self._scalars = new_scalars
            self._rule = rule
        if _of_variable(bucket):
            for factor, value in zip(rule.factors, new_slots[len(stored) :], strict=True):
                _private_api.assign_in_replica(factor, value)
            whole = (new, *new_slots[: len(stored)])
            new, *new_slots = [rows_of(v, self._replicas)[self._replica] for v in whole]
        return new, new_slots

    def _rule_of(self, bucket: Bucket) -> tuple[_private_api.SliceRule, Callable]:
        """The update rule, shared by buckets of the same kind and size, so it is compiled once."""
        key = (bucket.kind, bucket.slice_size)
        if key not in self._rules:
            variable = self._variables[bucket.members[0]]
            path = getattr(variable, "path", variable.name) if _of_variable(bucket) else None
            rule = _private_api.SliceRule(
                self._inner,
                self._slots,
                member=bucket.members[0],
                shape=[bucket.slice_size] if path is None else variable.shape,
                dtype=bucket.kind[0],
                decays=bucket.kind[1],
                path=path,
            )
            function = lambda *arguments: _updated_slice(rule, *arguments)  # noqa: E731
            if self._compiled:
                function = tf.function(function, jit_compile=True, autograph=False)
            self._rules[key] = (rule, function)
        return self._rules[key]

    def _assign_scalars(self) -> None:
        """Assigns the optimizer's variables that are not slots: counters and the loss scale."""
        for variable, value in zip(self._rule.scalars, self._scalars, strict=True):
            if value is not None:
                _private_api.assign_in_replica(variable, value)
        if self._optimizer is not self._inner:
            variables = _private_api.scale_variables(self._optimizer)
            values = [tf.convert_to_tensor(v) for v in variables]
            new = _private_api.next_scale(self._optimizer, self._updated, values)
            for variable, value in zip(variables, new, strict=True):
                _private_api.assign_in_replica(variable, value)

    def _mask(self, bucket: Bucket, missing: set[int]) -> tf.Tensor:
        """A bool tensor: whether each element of this replica's slice has a gradient."""
        parts = [
            tf.fill([width], member not in missing)
            for member, width in zip(bucket.members, bucket.widths, strict=True)
        ]
        return tf.concat(parts, 0)

    def _averages_overwrite(self) -> tf.Tensor:
        """Whether the averages overwrite the weights in this update (ema_overwrite_frequency)."""
        if self._overwrites_now is None:
            index = next(k for k, v in enumerate(self._rule.scalars) if v is self._inner.iterations)
            updates = self._scalars[index]
            every = self._inner.ema_overwrite_frequency
            self._overwrites_now = (updates > 0) & (updates % every == 0)
        return self._overwrites_now

    def _constrained(self, variable: Any, value: tf.Tensor, changed: bool) -> tf.Tensor:
        """Applies the constraint of a complete variable in the same updates as Keras does."""
        constraint = getattr(variable, "constraint", None)
        if constraint is None:
            return value
        if changed and self._updated is None:
            return constraint(value)
        applies = self._updated if changed else tf.constant(False)
        if self._overwrites_now is not None:
            applies |= self._overwrites_now
        return tf.where(applies, constraint(value), value)


def _of_variable(bucket: Bucket) -> bool:
    """Whether the update needs the complete variable of a bucket, which is its only member."""
    return bucket.kind[-1] is not None


def _updated_slice(rule, weights, gradient, slots, scalars, updated, mask):
    """Returns a slice's new weights, new slots and the optimizer's new scalars; a pure function.

    Args:
        rule: a SliceRule.
        weights: the slice of the weights, [slice_size], or a complete variable.
        gradient: the slice of the gradient; None: only the slice's average is updated.
        slots: the slices of the slots.
        scalars: the optimizer's variables that are not slots.
        updated: a bool scalar; if it is False, everything stays unchanged. None: True.
        mask: whether each element has a gradient; None: all have one.
    """

    def update():
        new, new_slots, new_scalars = weights, list(slots), list(scalars)
        if gradient is not None:
            new, new_slots, new_scalars = rule.update(weights, gradient, slots, scalars)
        if mask is not None:
            new = tf.where(mask, new, weights)
            new_slots = [tf.where(mask, n, s) for n, s in zip(new_slots, slots, strict=True)]
        average = rule.average_index
        if average is not None:
            averaged = rule.average(new, new_slots, scalars)
            new_slots[average] = averaged[average]
        return new, new_slots, new_scalars

    if updated is None:
        return update()
    return tf.cond(updated, update, lambda: (weights, list(slots), list(scalars)))


def _divided(gradient: tf.Tensor, divisor: Any) -> tf.Tensor:
    return keras.ops.divide(gradient, divisor)
