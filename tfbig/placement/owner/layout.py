"""How variables are cut into slices, one for each replica, and grouped into buckets.

Each variable is cut by itself: of n elements, replica r of N holds those from r * width on, where
width is n / N, rounded up. Small variables share a bucket, in which their slices are adjacent. A
large variable may be cut by rows into buckets of its own. An update processes one bucket after the
other, so the size of a bucket determines its temporary memory.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

# Small variables share a bucket, so that the number of operations and collectives in a step does
# not grow with their number. A large variable gains nothing from that and would only be copied.
_LARGE_BYTES = 1 << 22
_BUCKET_BYTES = 1 << 23
_GATHER_BYTES = 1 << 23


class Part(NamedTuple):
    """The part of a replica's slice of a bucket that belongs to one variable.

    Attributes:
        member: the index of the variable in the list that `make_buckets` received.
        start, stop: the elements of the variable in the slice.
        padding: how many further elements of the slice have no element of the variable.
    """

    member: int
    start: int
    stop: int
    padding: int

    @property
    def size(self) -> int:
        """The number of elements of the variable in the slice."""
        return self.stop - self.start


class Bucket(NamedTuple):
    """Variables, or rows of one variable, flattened and cut into equal slices.

    Attributes:
        members: the indices of the variables in the list that `make_buckets` received.
        offsets: the index of the first element of each variable that is in the bucket; 0 unless
            the bucket holds later rows of a variable.
        sizes: how many elements of each variable are in the bucket.
        replicas: the number of slices.
        kind: the property that the members have in common.
    """

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    replicas: int
    kind: Any

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of elements of each member in a slice, with its padding."""
        return tuple(width_of(size, self.replicas) for size in self.sizes)

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions in a slice at which its members begin."""
        return tuple(sum(self.widths[:i]) for i in range(len(self.sizes)))

    @property
    def slice_size(self) -> int:
        """The number of elements in a slice."""
        return sum(self.widths)

    def parts(self, replica: int) -> Iterator[Part]:
        """Yields what each member has in a replica's slice."""
        for member, offset, size in zip(self.members, self.offsets, self.sizes, strict=True):
            start, stop = range_of(size, self.replicas, replica)
            padding = width_of(size, self.replicas) - (stop - start)
            yield Part(member, offset + start, offset + stop, padding)


def width_of(size: int, replicas: int) -> int:
    """The number of elements in a slice of a variable, with its padding."""
    return -(-size // replicas)


def range_of(size: int, replicas: int, replica: int) -> tuple[int, int]:
    """The first and last element + 1 of a variable in a replica's slice; equal if it has none."""
    width = width_of(size, replicas)
    return min(size, replica * width), min(size, (replica + 1) * width)


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
            replicas,
            kinds[group[0][0]],
        )
        for group in groups
    ]


def group_for_gather(
    sizes: Sequence[int],
    dtypes: Sequence[Hashable],
    itemsizes: Sequence[int],
    most: int | None = None,
) -> list[list[int]]:
    """Groups successive values of one dtype whose slices are gathered in one collective.

    Args:
        sizes: the number of elements of each.
        dtypes: the dtype of each.
        itemsizes: the bytes of an element of each.
        most: the bytes of a group of several; None: 8 MiB.

    Returns:
        Lists of indices.
    """
    groups: list[list[int]] = []
    bytes_of_last, most = 0, most or _GATHER_BYTES
    for i, (count, dtype, itemsize) in enumerate(zip(sizes, dtypes, itemsizes, strict=True)):
        size = count * itemsize
        fits = groups and dtypes[groups[-1][-1]] == dtype and bytes_of_last + size <= most
        if fits:
            groups[-1].append(i)
        else:
            groups.append([i])
        bytes_of_last = size + (bytes_of_last if fits else 0)
    return groups
