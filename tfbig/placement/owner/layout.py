"""How variables are grouped into buckets, each of which is cut into one slice for each replica.

Small variables share a bucket; a large variable is cut by rows into buckets of its own. An update
processes one bucket after the other, so the size of a bucket determines its temporary memory.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

# Small variables share a bucket, so that the number of operations and collectives in a step does
# not grow with their number. A large variable gains nothing from that and would only be copied.
_LARGE_BYTES = 1 << 22
_BUCKET_BYTES = 1 << 23
_GATHER_BYTES = 1 << 23


class Bucket(NamedTuple):
    """Variables, or rows of one variable, flattened, concatenated and cut into equal slices.

    Attributes:
        members: the indices of the variables in the list that `make_buckets` received.
        offsets: the index of the first element of each variable that is in the bucket; 0 unless
            the bucket holds later rows of a variable.
        sizes: how many elements of each variable are in the bucket.
        slice_size: the number of elements in a slice; the last slices are padded.
        kind: the property that the members have in common.
    """

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    slice_size: int
    kind: Any

    @property
    def starts(self) -> tuple[int, ...]:
        """The positions in the bucket at which its members begin."""
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    def ranges(self, replica: int) -> Iterator[tuple[int, int, int]]:
        """Yields (member, start, stop): the elements of each member in a replica's slice."""
        begin, end = replica * self.slice_size, (replica + 1) * self.slice_size
        for member, offset, start, size in zip(
            self.members, self.offsets, self.starts, self.sizes, strict=True
        ):
            first, last = max(begin, start), min(end, start + size)
            if first < last:
                yield member, offset + first - start, offset + last - start


def make_buckets(
    sizes: Sequence[int],
    rows: Sequence[int],
    kinds: Sequence[Hashable],
    itemsizes: Sequence[int],
    replicas: int,
) -> list[Bucket]:
    """Groups variables of several sizes and kinds into buckets.

    Args:
        sizes: the number of elements of each variable.
        rows: the most parts that each variable may be cut into.
        kinds: the kind of each variable; a bucket holds variables of one kind.
        itemsizes: the bytes of an element of each variable.
        replicas: the number of slices of a bucket.
    """
    groups: list[list[tuple[int, int, int]]] = []  # of (variable, offset, size)
    open_groups: dict[Hashable, list[tuple[int, int, int]]] = {}
    for i, (size, kind, itemsize) in enumerate(zip(sizes, kinds, itemsizes, strict=True)):
        if size * itemsize >= _LARGE_BYTES:
            step = size // rows[i] * -(-rows[i] // -(-size * itemsize // _BUCKET_BYTES))
            groups += [[(i, at, min(step, size - at))] for at in range(0, size, step)]
            continue
        group = open_groups.get(kind)
        if group is None or (sum(part[2] for part in group) + size) * itemsize > _BUCKET_BYTES:
            group = open_groups[kind] = []
            groups.append(group)
        group.append((i, 0, size))
    return [
        Bucket(
            tuple(member for member, _, _ in group),
            tuple(offset for _, offset, _ in group),
            tuple(size for _, _, size in group),
            -(-sum(size for _, _, size in group) // replicas),
            kinds[group[0][0]],
        )
        for group in groups
    ]


def group_for_gather(
    buckets: Sequence[Bucket], dtypes: Sequence[str], itemsizes: Sequence[int]
) -> list[list[int]]:
    """Groups successive buckets of one dtype whose slices are gathered in one collective.

    Args:
        buckets: from `make_buckets`.
        dtypes: the dtype of each bucket.
        itemsizes: the bytes of an element of each bucket.

    Returns:
        Lists of indices into `buckets`.
    """
    groups: list[list[int]] = []
    bytes_of_last = 0
    for i, (bucket, dtype, itemsize) in enumerate(zip(buckets, dtypes, itemsizes, strict=True)):
        size = sum(bucket.sizes) * itemsize
        fits = groups and dtypes[groups[-1][-1]] == dtype and bytes_of_last + size <= _GATHER_BYTES
        if fits:
            groups[-1].append(i)
        else:
            groups.append([i])
        bytes_of_last = size + (bytes_of_last if fits else 0)
    return groups
