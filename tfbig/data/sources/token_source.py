"""Windows of fixed length over one long array of tokens."""

from typing import Any

import numpy as np

from tfbig.data.source import Source
from tfbig.errors import UserError


class TokenSource(Source):
    """Windows over one long array of tokens; an example is (tokens, the tokens that follow).

    Example:

        source = TokenSource(np.frombuffer(b"hello, world", np.uint8), sequence_length=4)
        tokens, next_tokens = source.read(np.array([0, 1]))  # b"hell", b"o, w"; b"ello", b", wo"

    Args:
        tokens: uint8, uint16 or uint32 array of shape [N]; a memory-mapped one stays on disk.
        sequence_length: T; window i has the T + 1 tokens from number iT on. The last tokens,
            fewer than T, are in no window.
        ends: int64 array, increasing: where each document ends, the place after its last token;
            the last one is N. Needed for `boundaries` and `documents`.
        boundaries: whether the windows say where documents begin; see `TextFolderSource`.

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
                "give more text or a smaller sequence_length."
            )
        self.sequence_length = size - 1
        # Rows of a view are copied whole: several times as fast as to take token by token.
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

    def read(self, indices: np.ndarray) -> Any:
        windows = self._windows[indices]
        tokens, following = windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32)
        if not self._boundaries:
            return tokens, following
        segment, position, weight = self._places(np.asarray(indices, np.int64))
        return {"tokens": tokens, "segment": segment, "position": position}, following, weight

    def _places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the documents begin in these windows: segment, position and weight, [n, T] each."""
        length = self.sequence_length
        starts = indices * length
        # Of each window, the documents that end at its tokens 1 … T.
        first = np.searchsorted(self._ends, starts, side="right")
        count = np.searchsorted(self._ends, starts + length, side="right") - first
        row = np.repeat(np.arange(len(indices)), count)
        number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        column = self._ends[np.repeat(first, count) + number] - starts[row]
        begins = np.zeros([len(indices), length + 1], bool)
        begins[row, column] = True
        place = np.arange(length, dtype=np.int32)
        begun = np.maximum.accumulate(np.where(begins[:, :-1], place, 0), axis=1)
        segment = np.cumsum(begins[:, :-1], axis=1, dtype=np.int32)
        return segment, place - begun, (~begins[:, 1:]).astype(np.float32)


def check_whole(name: str, value: Any) -> None:
    """Refuses an argument that is no integer of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise UserError(f"{name}={value!r}: expected an integer of 1 or more.")
