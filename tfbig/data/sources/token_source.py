"""Windows of fixed length over one long array of tokens."""

from typing import Any

import numpy as np
from typing_extensions import override

from tfbig.data.source import Source
from tfbig.errors import UserError


class TokenSource(Source):
    """Windows of one long array of tokens; an example is (tokens, next tokens).

    Example:

        source = TokenSource(np.frombuffer(b"hello, world", np.uint8), sequence_length=4)
        tokens, next_tokens = source.read(np.array([0, 1]))  # b"hell", b"o, w"; b"ello", b", wo"

    Args:
        tokens: uint8, uint16 or uint32 array of shape [N]; a memory-mapped one stays on disk.
        sequence_length: T; window i has the T + 1 tokens from index iT on. The last tokens, fewer
            than T, are not used.
        ends: increasing int64 array: the index after the last token of each document; its last
            entry is N. Needed for `boundaries` and `documents`.
        boundaries: whether examples include the boundaries of documents; see `TextFolderSource`.

    Raises:
        UserError: there are fewer tokens than a window has.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        sequence_length: int,
        *,
        ends: np.ndarray | None = None,
        boundaries: bool = False,
    ):
        check_whole("sequence_length", sequence_length)
        size = int(sequence_length) + 1
        if len(tokens) < size:
            unit = "bytes" if tokens.dtype == np.uint8 else "tokens"
            raise UserError(
                f"a text of {len(tokens)} {unit} is shorter than one window of {size} {unit}; "
                "use more text or a smaller sequence_length."
            )
        self.sequence_length = size - 1
        # Copying rows of a view is several times as fast as gathering single tokens.
        self._windows = np.lib.stride_tricks.sliding_window_view(tokens, size)[:: size - 1]
        self._ends, self._boundaries = ends, boundaries

    def __len__(self) -> int:
        return len(self._windows)

    @property
    def documents(self) -> np.ndarray:
        """The number of the document in which each window starts: int64 [len(self)].

        Example: `splitting.by_group(source.documents, (0.9, 0.1))`.
        """
        starts = np.arange(len(self)) * self.sequence_length
        return np.searchsorted(self._ends, starts, side="right")

    @override
    def read(self, indices: np.ndarray) -> Any:
        windows = self._windows[indices]
        tokens, following = windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32)
        if not self._boundaries:
            return tokens, following
        segment, position, weight = self._segments(np.asarray(indices, np.int64))
        return {"tokens": tokens, "segment": segment, "position": position}, following, weight

    def _segments(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The documents in these windows: segment, position and weight, [n, T] each."""
        length = self.sequence_length
        starts = indices * length
        # For each window, the documents that end at its tokens 1 … T.
        first = np.searchsorted(self._ends, starts, side="right")
        count = np.searchsorted(self._ends, starts + length, side="right") - first
        row = np.repeat(np.arange(len(indices)), count)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        column = self._ends[np.repeat(first, count) + number] - starts[row]
        begins = np.zeros([len(indices), length + 1], bool)
        begins[row, column] = True
        index = np.arange(length, dtype=np.int32)
        start = np.maximum.accumulate(np.where(begins[:, :-1], index, 0), axis=1)
        segment = np.cumsum(begins[:, :-1], axis=1, dtype=np.int32)
        return segment, index - start, (~begins[:, 1:]).astype(np.float32)


def check_whole(name: str, value: Any) -> None:
    """Raises a UserError if an argument is not an integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UserError(f"{name}={value!r}: expected an integer of 1 or more.")
