"""Owner: each replica owns a slice of the optimizer's state and updates its slice of the weights.

ZeRO stage 1: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
models", 2020, https://arxiv.org/abs/1910.02054. A replica gets its slice of the summed gradients,
updates the slices that are its own, and the new weights are gathered.
"""

import logging
import weakref
from typing import Any

import keras
import tensorflow as tf

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.placement.owner.checks import check_optimizer, check_slots
from tfbig.placement.owner.layout import Piece, lay_out
from tfbig.placement.owner.owner_step import OwnerStep
from tfbig.placement.owner.slots import Exchange, Part, PieceSlot, SlicedSlot
from tfbig.placement.placement import Placement
from tfbig.programs.updates import Updates

log = logging.getLogger("tfbig")


def make_updates(model_distribution: str, placement: Placement) -> Updates:
    """From RunConfig.model_distribution to how updates are carried out."""
    if model_distribution == "replicated":
        return placement.updates()
    if placement.owner_obstacle is not None:
        raise UserError(
            f'model_distribution="owner" with strategy="{placement.name}": '
            f"{placement.owner_obstacle}."
        )
    if placement.num_replicas == 1:
        log.info(
            'model_distribution="owner" on one replica, which owns all: the same as "replicated"'
        )
        return Updates()
    return OwnerUpdates(placement)


class OwnerUpdates(Updates):
    """Each replica holds, and updates by, a slice of the optimizer's state.

    Works with optimizers whose update rule is elementwise, by their own rule: what they do to a
    variable they do to its slices. What is not elementwise is decided by what all slices tell
    together (clipping, the finite check) or done on whole variables (constraints).

    Args:
        placement: of two or more replicas.
    """

    reduces = True
    whole = False

    def __init__(self, placement: Placement):
        self._placement, self._exchange = placement, Exchange(placement)
        self._pieces: list[Piece] = []
        self._stored: list[list[PieceSlot]] = []  # by piece, in the order in which Keras makes them
        self._slots: dict[str, SlicedSlot] = {}
        # A model_fn makes its optimizer anew in each trace; all of them share what is stored.
        self._built: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def build(self, optimizer: Any, variables: list) -> None:
        """Makes an optimizer's variables, its slots in slices.

        Raises:
            UserError: its update is not known to be elementwise.
        """
        check_optimizer(optimizer, variables)
        slots = _private_api.built_without_slots(optimizer, variables)
        check_slots(optimizer, slots)
        kinds = [
            (keras.backend.standardize_dtype(v.dtype), decays, len(own))
            for v, own in zip(variables, slots, strict=True)
            for decays in [_private_api.is_decayed(optimizer, v)]
        ]
        if not self._pieces:
            self._pieces = lay_out(
                [v.shape.num_elements() for v in variables],
                [_rows(v) for v in variables],
                kinds,
                [tf.as_dtype(dtype).size for dtype, _, _ in kinds],
                self._placement.num_replicas,
            )
            self._stored = [self._store(piece, slots[piece.members[0]]) for piece in self._pieces]
            self._report(slots, variables)
        self._attach(slots)
        self._built[optimizer] = (slots, list(variables))

    def apply(self, optimizer: Any, gradients: list, variables: list) -> None:
        slots, known = self._built[optimizer]
        step = OwnerStep(
            self._placement,
            optimizer,
            known,
            slots,
            self._pieces,
            self._stored,
            compiled=self.compiled,
        )
        step.apply(gradients, variables)

    def finalize(self, optimizer: Any, variables: list) -> None:
        del variables  # the optimizer knows them, with their averages
        for variable, average in _private_api.averages(optimizer):
            variable.assign(average.numpy())

    def slots(self) -> dict[str, SlicedSlot]:
        return dict(self._slots)

    def _store(self, piece: Piece, slots: list) -> list[PieceSlot]:
        return [
            PieceSlot(
                self._placement,
                self._exchange,
                piece,
                lambda slot=slot: _private_api.initial_value(slot, [piece.per]),
                name=f"slice_of_{slot.name}",
            )
            for slot in slots
        ]

    def _attach(self, slots: list[list]) -> None:
        """Gives an optimizer's slots what they read and assign."""
        by_variable: list[list] = [[] for _ in slots]
        for piece, stored in zip(self._pieces, self._stored, strict=True):
            for member, start, size in zip(piece.members, piece.starts, piece.sizes, strict=True):
                by_variable[member].append((stored, start, size))
        for own, places in zip(slots, by_variable, strict=True):
            for k, slot in enumerate(own):
                parts = [Part(stored[k], start, size) for stored, start, size in places]
                whole = self._slots.setdefault(slot.path, SlicedSlot(parts, slot.shape))
                _private_api.set_value(slot, whole)

    def _report(self, slots: list[list], variables: list) -> None:
        replicas = self._placement.num_replicas
        parameters = sum(_bytes(v) for v in variables)
        whole = sum(_bytes(slot) for own in slots for slot in own)
        sliced = sum(slot.bytes for stored in self._stored for slot in stored)
        log.info(
            "owner: each of %d replicas holds %s of parameters, %s of gradients and %s of "
            "optimizer state (replicated: %s)",
            replicas, _shown(parameters), _shown(parameters), _shown(sliced), _shown(whole),
        )  # fmt: skip


def _rows(variable) -> int:
    """Into how many parts a variable may be cut: one with a constraint is changed as a whole."""
    whole = variable.constraint is not None or not variable.shape.rank
    return 1 if whole else variable.shape[0]


def _bytes(variable) -> int:
    return variable.shape.num_elements() * tf.as_dtype(variable.dtype).size


def _shown(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
