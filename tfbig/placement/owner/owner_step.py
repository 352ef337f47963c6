"""One update by owners: sum into slices, update by Keras's rule, gather; traced in a replica."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.placement.owner.layout import Piece, packed
from tfbig.placement.owner.slots import PieceSlot
from tfbig.placement.placement import Placement


class OwnerStep:
    """The trace of an update, which is thrown away with it.

    Args:
        placement: where.
        optimizer: built without slots.
        variables: all that it was built for.
        slots: what it would have; they give the rule its names.
        pieces, stored: how the variables are cut, and each piece's slots.
        compiled: compile the update of each slice with XLA.
    """

    def __init__(
        self,
        placement: Placement,
        optimizer: Any,
        variables: list,
        slots: list[list],
        pieces: list[Piece],
        stored: list[list[PieceSlot]],
        *,
        compiled: bool,
    ):
        self._placement = placement
        self._optimizer, self._inner = optimizer, _private_api.unwrapped(optimizer)
        self._variables, self._slots, self._stored = variables, slots, stored
        self._compiled = compiled
        self._rules: dict = {}  # by what makes pieces' rules the same
        self._replica = int(tf.get_static_value(placement.replica()))
        self._replicas = placement.num_replicas
        self._pieces = pieces
        self._updated: Any = None  # None: always, or a bool scalar
        self._scalars: list | None = None  # their new values, once a piece has been updated
        self._due: Any = None  # whether averages overwrite the weights now; None: never

    def apply(self, gradients: list, variables: list) -> None:
        """Updates variables by gradients that are what this replica adds to the sum of all."""
        _private_api.check_gradients(self._optimizer, gradients, variables)
        place = {id(variable): i for i, variable in enumerate(self._variables)}
        whole: list = [None] * len(self._variables)
        for gradient, variable in zip(gradients, variables, strict=True):
            whole[place[id(variable)]] = gradient
        missing = {i for i, gradient in enumerate(whole) if gradient is None}
        touched = [i for i, p in enumerate(self._pieces) if not missing.issuperset(p.members)]
        averaged = bool(self._inner.use_ema)
        overwrites = averaged and bool(self._inner.ema_overwrite_frequency)
        # Those with a gradient first: they tell the scalars that the others may need.
        order = list(touched)
        if averaged:
            order += [i for i in range(len(self._pieces)) if i not in set(touched)]
        decide = self._optimizer is not self._inner or _private_api.clips(self._inner)
        slices: list = [None] * len(self._pieces)
        divisor = self._inner.loss_scale_factor
        # Rows are changed in their place, which would take a copy of the whole variable while the
        # backward pass still reads it.
        done = [gradient for gradient in gradients if gradient is not None]
        if decide:  # by the whole gradient, so no piece can be updated before all are there
            for i in touched:
                with tf.control_dependencies(done):
                    slices[i] = self._sum(self._pieces[i], whole)
                done = [slices[i]]
            slices, divisor = self._prepared(slices, missing)
        for pack in self._packs(order):
            with tf.control_dependencies(done):  # one pack at a time: its temporaries are freed
                if not decide:
                    for i in pack:
                        slices[i] = self._sum(self._pieces[i], whole)
                done = self._update(pack, slices, missing, divisor, overwrites)
        with tf.control_dependencies(done):
            self._finish()

    def _packs(self, order: list[int]) -> list[list[int]]:
        pieces = [self._pieces[i] for i in order]
        dtypes = [piece.kind[0] for piece in pieces]
        sizes = [tf.as_dtype(dtype).size for dtype in dtypes]
        return [[order[i] for i in pack] for pack in packed(pieces, dtypes, sizes)]

    def _sum(self, piece: Piece, gradients: list) -> tf.Tensor | None:
        """This replica's slice of the gradients' sum; None if there is no gradient."""
        if all(gradients[member] is None for member in piece.members):
            return None
        dtype, parts = piece.kind[0], []
        for member, offset, size in zip(piece.members, piece.offsets, piece.sizes, strict=True):
            if gradients[member] is None:
                parts.append(tf.zeros([size], dtype))
            else:
                parts.append(tf.reshape(gradients[member], [-1])[offset : offset + size])
        lacking = piece.per * self._replicas - sum(piece.sizes)
        if lacking:
            parts.append(tf.zeros([lacking], dtype))
        rows = parts[0] if len(parts) == 1 else tf.concat(parts, 0)
        return self._placement.scatter_sum(tf.reshape(rows, [self._replicas, piece.per]))

    def _prepared(self, slices: list, missing: set[int]) -> tuple[list, Any]:
        """Decides whether to update, and clips.

        Returns:
            Slices of gradients, and what they are still to be divided by, or None.
        """
        present = [i for i, gradient in enumerate(slices) if gradient is not None]
        divisor = self._inner.loss_scale_factor
        if self._optimizer is not self._inner:
            finite = self._optimizer.check_finite([slices[i] for i in present])
            (bad,) = self._placement.reduce_sum([tf.cast(~finite, tf.float32)])
            self._updated = tf.equal(bad, 0.0)
            divisor = tf.convert_to_tensor(self._optimizer.dynamic_scale)
        if not _private_api.clips(self._inner):
            return slices, divisor
        slices = list(slices)
        for i in present:
            if divisor is not None:
                slices[i] = _divided(slices[i], divisor)
        if self._inner.clipvalue:
            clipped = _private_api.clipped(self._inner, [slices[i] for i in present])
        else:
            factors = self._factors(slices, present, missing)
            clipped = [slices[i] * self._spread(self._pieces[i], factors) for i in present]
        for i, gradient in zip(present, clipped, strict=True):
            slices[i] = gradient
        return slices, None

    def _factors(self, slices: list, present: list[int], missing: set[int]) -> dict:
        """What clipping by norms multiplies each variable's gradient by.

        It depends on the gradients' norms alone, so Keras is asked what it would make of gradients
        that are single numbers, those norms.
        """
        members = [m for i in present for m in self._pieces[i].members if m not in missing]
        squares = dict.fromkeys(members, tf.zeros([]))
        for i in present:
            at = 0
            for member, start, stop in self._pieces[i].cut(self._replica):
                part = tf.cast(slices[i][at : at + stop - start], tf.float32)
                at += stop - start
                if member not in missing:
                    squares[member] += tf.reduce_sum(tf.square(part))
        (total,) = self._placement.reduce_sum([tf.stack(list(squares.values()))])
        norms = tf.unstack(tf.sqrt(total))
        clipped = _private_api.clipped(self._inner, norms)
        factors = [tf.math.divide_no_nan(c, n) for c, n in zip(clipped, norms, strict=True)]
        return dict(zip(squares, factors, strict=True))

    def _spread(self, piece: Piece, factors: dict) -> tf.Tensor:
        """The factor of each element of this replica's slice of a piece, or of all of them."""
        if len(piece.members) == 1:
            return tf.cast(factors[piece.members[0]], piece.kind[0])
        parts, left = [], piece.per
        for member, start, stop in piece.cut(self._replica):
            left -= stop - start
            parts.append(tf.fill([stop - start], factors.get(member, tf.zeros([]))))
        return tf.cast(tf.concat([*parts, tf.zeros([left])], 0), piece.kind[0])

    def _update(self, pack: list[int], gradients, missing, divisor, overwrites) -> list:
        """Updates the slices of a pack of pieces; returns what the next pack is to wait for."""
        mine, writes = [], []
        for i in pack:
            weights = self._slice(self._pieces[i], self._variables)
            new, new_slots = self._update_slice(i, weights, gradients[i], missing, divisor)
            for stored, value in zip(self._stored[i], new_slots, strict=True):
                writes.append(_private_api.assign_in_replica(stored.variable, value))
            if overwrites:
                place = self._rule_of(self._pieces[i])[0].place_of_average
                new = tf.where(self._is_due(), new_slots[place], new)
            mine.append(new)
        if not overwrites and all(gradients[i] is None for i in pack):
            return writes  # averages of weights that stay as they are
        together = mine[0] if len(mine) == 1 else tf.concat(mine, 0)
        together = tf.ensure_shape(together, [sum(self._pieces[i].per for i in pack)])
        gathered = self._placement.gather_rows(together)
        gathered = tf.reshape(gathered, [self._replicas, -1])
        start = 0
        for i in pack:
            piece = self._pieces[i]
            flat = tf.reshape(gathered[:, start : start + piece.per], [-1])
            start += piece.per
            for member, offset, first, size in zip(
                piece.members, piece.offsets, piece.starts, piece.sizes, strict=True
            ):
                changed = member not in missing
                if not (changed or overwrites):
                    continue
                variable = self._variables[member]
                value, whole = flat[first : first + size], variable.shape.num_elements()
                if size == whole:
                    value = tf.reshape(value, variable.shape)
                    value = self._constrained(variable, value, changed)
                    writes.append(_private_api.assign_in_replica(variable, value))
                else:
                    width = whole // variable.shape[0]
                    value = tf.reshape(value, [size // width, *variable.shape[1:]])
                    row = offset // width
                    writes.append(_private_api.assign_rows_in_replica(variable, row, value))
        return writes

    def _update_slice(self, i: int, weights, gradient, missing, divisor) -> tuple[Any, list]:
        piece, stored = self._pieces[i], self._stored[i]
        rule, update = self._rule_of(piece)
        slots = [tf.convert_to_tensor(slot.variable) for slot in stored]
        scalars = [tf.convert_to_tensor(variable) for variable in rule.scalars]
        mask = None
        if gradient is not None:
            if divisor is not None:
                gradient = _divided(gradient, divisor)
            if not missing.isdisjoint(piece.members):
                mask = self._mask(piece, missing)
        new, new_slots, new_scalars = update(weights, gradient, slots, scalars, self._updated, mask)
        if gradient is not None and self._scalars is None:
            self._scalars = new_scalars
            self._rule = rule
        return new, new_slots

    def _rule_of(self, piece: Piece) -> tuple[_private_api.SliceRule, Callable]:
        """The rule of all pieces of the same kind and size, so that it is compiled once."""
        key = (piece.kind, piece.per)
        if key not in self._rules:
            rule = _private_api.SliceRule(
                self._inner,
                self._slots,
                member=piece.members[0],
                size=piece.per,
                dtype=piece.kind[0],
                decays=piece.kind[1],
            )
            function = lambda *arguments: _updated_slice(rule, *arguments)  # noqa: E731
            if self._compiled:
                function = tf.function(function, jit_compile=True, autograph=False)
            self._rules[key] = (rule, function)
        return self._rules[key]

    def _finish(self) -> None:
        """Assigns what is no slot: counters, and the loss scale."""
        for variable, value in zip(self._rule.scalars, self._scalars, strict=True):
            if value is not None:
                _private_api.assign_in_replica(variable, value)
        if self._optimizer is not self._inner:
            variables = _private_api.scale_variables(self._optimizer)
            values = [tf.convert_to_tensor(v) for v in variables]
            new = _private_api.next_scale(self._optimizer, self._updated, values)
            for variable, value in zip(variables, new, strict=True):
                _private_api.assign_in_replica(variable, value)

    def _slice(self, piece: Piece, tensors: list) -> tf.Tensor:
        """This replica's slice of the piece of tensors; None is zeros."""
        dtype, parts, size = piece.kind[0], [], 0
        for member, start, stop in piece.cut(self._replica):
            size += stop - start
            if tensors[member] is None:
                parts.append(tf.zeros([stop - start], dtype))
            else:
                flat = tf.reshape(tf.convert_to_tensor(tensors[member]), [-1])
                parts.append(flat if stop - start == flat.shape[0] else flat[start:stop])
        if size < piece.per:
            parts.append(tf.zeros([piece.per - size], dtype))
        return parts[0] if len(parts) == 1 else tf.concat(parts, 0)

    def _mask(self, piece: Piece, missing: set[int]) -> tf.Tensor:
        """Where this replica's slice has gradients."""
        parts = [
            tf.fill([stop - start], member not in missing)
            for member, start, stop in piece.cut(self._replica)
        ]
        left = piece.per - sum(stop - start for _, start, stop in piece.cut(self._replica))
        return tf.concat([*parts, tf.fill([left], False)], 0)

    def _is_due(self) -> tf.Tensor:
        if self._due is None:
            place = next(k for k, v in enumerate(self._rule.scalars) if v is self._inner.iterations)
            updates = self._scalars[place]
            every = self._inner.ema_overwrite_frequency
            self._due = (updates > 0) & (updates % every == 0)
        return self._due

    def _constrained(self, variable: Any, value: tf.Tensor, changed: bool) -> tf.Tensor:
        """A whole variable's constraint, where Keras applies it."""
        constraint = getattr(variable, "constraint", None)
        if constraint is None:
            return value
        if changed and self._updated is None:
            return constraint(value)
        applies = self._updated if changed else tf.constant(False)
        if self._due is not None:
            applies |= self._due
        return tf.where(applies, constraint(value), value)


def _updated_slice(rule, weights, gradient, slots, scalars, updated, mask):
    """A slice after an update: its weights, slots and the optimizer's scalars; pure.

    Args:
        rule: a SliceRule.
        gradient: None: the slice has none, and only its average is updated.
        updated: a bool scalar; where it is false all stays as it was. None: true.
        mask: bool, where the slice has a gradient; None: everywhere.
    """

    def update():
        new, new_slots, new_scalars = weights, list(slots), list(scalars)
        if gradient is not None:
            new, new_slots, new_scalars = rule.update(weights, gradient, slots, scalars)
        if mask is not None:
            new = tf.where(mask, new, weights)
            new_slots = [tf.where(mask, n, s) for n, s in zip(new_slots, slots, strict=True)]
        average = rule.place_of_average
        if average is not None:
            averaged = rule.average(new, new_slots, scalars)
            new_slots[average] = averaged[average]
        return new, new_slots, new_scalars

    if updated is None:
        return update()
    return tf.cond(updated, update, lambda: (weights, list(slots), list(scalars)))


def _divided(gradient: tf.Tensor, divisor: Any) -> tf.Tensor:
    return keras.ops.divide(gradient, divisor)
