"""One update by owners: slice, update by Keras's rule, gather. All of it is traced in a replica."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.placement.owner_layout import Piece, packed
from tfbig.placement.owner_slots import PieceSlot
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
        """Updates variables by gradients that are whole and equal on all replicas."""
        _private_api.check_gradients(self._optimizer, gradients, variables)
        gradients, divisor = self._prepared(gradients)
        place = {id(variable): i for i, variable in enumerate(self._variables)}
        whole: list = [None] * len(self._variables)
        for gradient, variable in zip(gradients, variables, strict=True):
            whole[place[id(variable)]] = gradient
        touched = [any(whole[i] is not None for i in p.members) for p in self._pieces]
        # All of them at once and first: no whole gradient then waits for its turn. And copied: a
        # slice shares its tensor's memory, which a slot that is computed in its place would keep.
        slices = [
            tf.raw_ops.DeepCopy(x=self._slice(piece, whole)) if has else None
            for piece, has in zip(self._pieces, touched, strict=True)
        ]
        missing = {i for i, gradient in enumerate(whole) if gradient is None}
        averaged = bool(self._inner.use_ema)
        overwrites = averaged and bool(self._inner.ema_overwrite_frequency)
        # Those with a gradient first: they tell the scalars that the others may need.
        order = [i for i, t in enumerate(touched) if t]
        if averaged:
            order += [i for i, t in enumerate(touched) if not t]
        done = [gradient for gradient in slices if gradient is not None]
        for pack in self._packs(order):
            with tf.control_dependencies(done):  # one pack at a time: its temporaries are freed
                done = self._update(pack, slices, missing, divisor, overwrites)
        with tf.control_dependencies(done):
            self._finish()

    def _packs(self, order: list[int]) -> list[list[int]]:
        pieces = [self._pieces[i] for i in order]
        dtypes = [piece.kind[0] for piece in pieces]
        sizes = [tf.as_dtype(dtype).size for dtype in dtypes]
        return [[order[i] for i in pack] for pack in packed(pieces, dtypes, sizes)]

    def _prepared(self, gradients: list) -> tuple[list, Any]:
        """Decides whether to update, and clips.

        Returns:
            Gradients, and what their slices are still to be divided by, or None.
        """
        divisor = self._inner.loss_scale_factor
        if self._optimizer is not self._inner:
            self._updated = self._optimizer.check_finite(gradients)
            divisor = tf.convert_to_tensor(self._optimizer.dynamic_scale)
        if not _private_api.clips(self._inner):
            return gradients, divisor
        if divisor is not None:
            gradients = [None if g is None else _divided(g, divisor) for g in gradients]
        present = [g for g in gradients if g is not None]
        clipped = iter(_private_api.clipped(self._inner, present))
        return [None if g is None else next(clipped) for g in gradients], None

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
        context = tf.distribute.get_replica_context()
        gathered = context.all_gather(together, axis=0)
        gathered = tf.reshape(gathered, [self._replicas, -1])
        start = 0
        for i in pack:
            piece = self._pieces[i]
            flat = tf.reshape(gathered[:, start : start + piece.per], [-1])
            start += piece.per
            for member, first, size in zip(piece.members, piece.starts, piece.sizes, strict=True):
                changed = member not in missing
                if not (changed or overwrites):
                    continue
                variable = self._variables[member]
                value = tf.reshape(flat[first : first + size], variable.shape)
                value = self._constrained(variable, value, changed)
                writes.append(_private_api.assign_in_replica(variable, value))
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
