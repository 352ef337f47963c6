"""How an update reads the slices of the weights, and stores the new ones."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.placement.owner.layout import Bucket, width_of
from tfbig.placement.placement import Placement


class WeightAccess:
    """Reads and stores weights, for one trace of a replica.

    Args:
        placement: the placement of the replicas.
        variables: all variables that the optimizer was built for.
    """

    def __init__(self, placement: Placement, variables: list):
        self._placement, self._variables = placement, variables
        self._replica = int(tf.get_static_value(placement.replica()))

    def slice_of(self, bucket: Bucket) -> tf.Tensor:
        """This replica's slice of the weights of a bucket."""
        raise NotImplementedError

    def whole(self, bucket: Bucket) -> tf.Tensor:
        """The complete weight of a bucket with one member."""
        raise NotImplementedError

    def store(
        self,
        buckets: Sequence[Bucket],
        slices: Sequence[tf.Tensor],
        changes: Callable[[int], bool],
        constrained: Callable,
    ) -> list:
        """Stores the new slices of some buckets.

        Args:
            buckets, slices: of one group.
            changes: whether a variable changes, by its index.
            constrained: from the index of a variable and its complete value to the value that its
                constraint allows.

        Returns:
            The operations that store.
        """
        raise NotImplementedError


class WholeAccess(WeightAccess):
    """Each replica has complete weights: it cuts its slice, and gathers the new ones of all."""

    @override
    def slice_of(self, bucket: Bucket) -> tf.Tensor:
        tensors = [(m, self._variables[m]) for m in bucket.members]
        return slice_of_tensors(bucket, self._replica, dict(tensors))

    @override
    def whole(self, bucket: Bucket) -> tf.Tensor:
        return tf.convert_to_tensor(self._variables[bucket.members[0]])

    @override
    def store(self, buckets, slices, changes, constrained) -> list:
        local = slices[0] if len(slices) == 1 else tf.concat(slices, 0)
        local = tf.ensure_shape(local, [sum(bucket.slice_size for bucket in buckets)])
        gathered = self._placement.gather_rows(local)
        gathered = tf.reshape(gathered, [self._placement.num_replicas, -1])
        writes, start = [], 0
        for bucket in buckets:
            for i, member in enumerate(bucket.members):
                first = start + bucket.positions[i]
                if changes(member):
                    rows = gathered[:, first : first + bucket.widths[i]]
                    flat = tf.reshape(rows, [-1])[: bucket.sizes[i]]
                    writes.append(self._write(member, bucket.offsets[i], flat, constrained))
            start += bucket.slice_size
        return writes

    def _write(
        self, member: int, offset: int, flat: tf.Tensor, constrained: Callable
    ) -> tf.Operation:
        variable, size = self._variables[member], flat.shape[0]
        elements = variable.shape.num_elements()
        if size == elements:
            value = constrained(member, tf.reshape(flat, variable.shape))
            return _private_api.assign_in_replica(variable, value)
        width = elements // variable.shape[0]
        rows = tf.reshape(flat, [size // width, *variable.shape[1:]])
        return _private_api.assign_rows_in_replica(variable, offset // width, rows)


class SliceAccess(WeightAccess):
    """Each replica has the slices of the weights that it updates, and nothing else."""

    @override
    def slice_of(self, bucket: Bucket) -> tf.Tensor:
        held = [_private_api.stored_value(self._variables[m]).read_slice() for m in bucket.members]
        return held[0] if len(held) == 1 else tf.concat(held, 0)

    @override
    def whole(self, bucket: Bucket) -> tf.Tensor:
        shape = self._variables[bucket.members[0]].shape
        return gathered_slices(self._placement, self.slice_of(bucket), shape)

    @override
    def store(self, buckets, slices, changes, constrained) -> list:
        writes = []
        for bucket, together in zip(buckets, slices, strict=True):
            parts = tf.split(together, bucket.widths) if len(bucket.members) > 1 else [together]
            for member, part in zip(bucket.members, parts, strict=True):
                if not changes(member):
                    continue
                if getattr(self._variables[member], "constraint", None) is not None:
                    part = self._constrained(member, part, constrained)
                stored = _private_api.stored_value(self._variables[member])
                writes.append(stored.assign_slice(part))
        return writes

    def _constrained(self, member: int, part: tf.Tensor, constrained: Callable) -> tf.Tensor:
        """A constraint needs the complete variable, which is gathered for it and dropped."""
        whole = gathered_slices(self._placement, part, self._variables[member].shape)
        return rows_of(constrained(member, whole), self._placement.num_replicas)[self._replica]


def gathered_slices(placement: Placement, held: tf.Tensor, shape: Any) -> tf.Tensor:
    """The complete tensor, of this shape, of which each replica has a slice."""
    flat = placement.gather_rows(held)
    return tf.reshape(flat[: tf.TensorShape(shape).num_elements()], shape)


def rows_of(tensor: tf.Tensor, replicas: int) -> tf.Tensor:
    """The slices of all replicas of a complete tensor, [replicas, width]; padding is 0."""
    flat = tf.reshape(tensor, [-1])
    width = width_of(flat.shape[0], replicas)
    padding = width * replicas - flat.shape[0]
    return tf.reshape(tf.pad(flat, [[0, padding]]) if padding else flat, [replicas, width])


def slice_of_tensors(bucket: Bucket, replica: int, tensors: dict[int, Any]) -> tf.Tensor:
    """A replica's slice of complete tensors, by member; padding is 0."""
    parts = []
    for part in bucket.parts(replica):
        flat = tf.reshape(tf.convert_to_tensor(tensors[part.member]), [-1])
        parts.append(flat if part.size == flat.shape[0] else flat[part.start : part.stop])
        if part.padding:
            parts.append(tf.zeros([part.padding], bucket.kind[0]))
    return parts[0] if len(parts) == 1 else tf.concat(parts, 0)
