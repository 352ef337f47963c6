"""How variables are cut into one slice for each replica: small ones in buckets, large ones in rows.

An update works through piece after piece, so a piece's size is what an update needs of memory.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

# So many small variables are one bucket that neither the operations nor the collectives of a step
# grow with their number; a large one would only be copied on its way through a bucket.
_LARGE = 1 << 22  # bytes
_BUCKET = 1 << 23
_GATHER = 1 << 23


class Piece(NamedTuple):
    """Variables, or rows of one, laid one after the other, flat, and cut into equal slices.

    Attributes:
        members: the variables' places in the list that was laid out.
        offsets: at which of its elements each begins: 0, or where the piece's rows begin.
        sizes: how many elements of each are in the piece.
        per: how many elements a slice has; the last slices are filled up.
        kind: what the members have in common.
    """

    members: tuple[int, ...]
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    per: int
    kind: Any

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each member begins in the piece."""
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    def cut(self, replica: int) -> Iterator[tuple[int, int, int]]:
        """What of which members a replica's slice is made of: (member, start, stop)."""
        begin, end = replica * self.per, (replica + 1) * self.per
        for member, offset, start, size in zip(
            self.members, self.offsets, self.starts, self.sizes, strict=True
        ):
            first, last = max(begin, start), min(end, start + size)
            if first < last:
                yield member, offset + first - start, offset + last - start


def lay_out(
    sizes: Sequence[int],
    rows: Sequence[int],
    kinds: Sequence[Hashable],
    itemsizes: Sequence[int],
    replicas: int,
) -> list[Piece]:
    """Lays out variables of several sizes and kinds.

    Args:
        sizes: the variables' numbers of elements.
        rows: into how many parts each may be cut at most.
        kinds: variables of different kinds are in different pieces.
        itemsizes: bytes of an element.
        replicas: how many slices a piece is cut into.
    """
    groups: list[list[tuple[int, int, int]]] = []  # of (variable, offset, size)
    open_groups: dict[Hashable, list[tuple[int, int, int]]] = {}
    for i, (size, kind, itemsize) in enumerate(zip(sizes, kinds, itemsizes, strict=True)):
        if size * itemsize >= _LARGE:
            step = size // rows[i] * -(-rows[i] // -(-size * itemsize // _BUCKET))
            groups += [[(i, at, min(step, size - at))] for at in range(0, size, step)]
            continue
        group = open_groups.get(kind)
        if group is None or (sum(part[2] for part in group) + size) * itemsize > _BUCKET:
            group = open_groups[kind] = []
            groups.append(group)
        group.append((i, 0, size))
    return [
        Piece(  # type: ignore[call-arg]  # the star gives three
            *(tuple(values) for values in zip(*group, strict=True)),
            -(-sum(size for _, _, size in group) // replicas),
            kinds[group[0][0]],
        )
        for group in groups
    ]


def packed(pieces: Sequence[Piece], dtypes: Sequence[str], itemsizes: Sequence[int]) -> list:
    """Packs pieces of one dtype into lists, each of which is gathered at once.

    Args:
        pieces: from `lay_out`.
        dtypes, itemsizes: of the pieces.

    Returns:
        Lists of the pieces' places.
    """
    packs: list[list[int]] = []
    bytes_of_last = 0
    for i, (piece, dtype, itemsize) in enumerate(zip(pieces, dtypes, itemsizes, strict=True)):
        size = sum(piece.sizes) * itemsize
        fits = packs and dtypes[packs[-1][-1]] == dtype and bytes_of_last + size <= _GATHER
        if fits:
            packs[-1].append(i)
        else:
            packs.append([i])
        bytes_of_last = size + (bytes_of_last if fits else 0)
    return packs
