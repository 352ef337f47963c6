"""Owner: each replica owns a slice of the optimizer's state and updates that slice of the weights.

ZeRO stage 1: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
models", 2020, https://arxiv.org/abs/1910.02054. Each replica receives its slice of the summed
gradients and updates its slice of the weights; then all replicas gather the new weights.
"""

import contextlib
import logging
import weakref
from typing import Any

import keras
import tensorflow as tf
from typing_extensions import override

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.placement import process_memory
from tfbig.placement.owner.checks import check_optimizer, check_slots, updates_whole_variables
from tfbig.placement.owner.layout import Bucket, make_buckets, width_of
from tfbig.placement.owner.owner_step import OwnerStep
from tfbig.placement.owner.slices import SlicedVariable, Store, StoredPart
from tfbig.placement.owner.weight_access import SliceAccess, WholeAccess
from tfbig.placement.owner.weights import OwnedGradients, OwnedWeights, SlicedWeight
from tfbig.placement.placement import Placement
from tfbig.programs.updates import Updates, bytes_of, slot_bytes
from tfbig.run_config import RunConfig

log = logging.getLogger("tfbig")


def make_updates(config: RunConfig, placement: Placement) -> Updates:
    """Returns how updates are carried out, given RunConfig.model_distribution.

    Args:
        config: of the run.
        placement: the placement of the run.

    Raises:
        UserError: the placement cannot train with that model_distribution.
    """
    distribution = config.model_distribution
    if distribution == "replicated":
        return placement.updates()
    if placement.owner_obstacle is not None:
        raise UserError(
            f'model_distribution="{distribution}" with strategy="{placement.name}": '
            f"{placement.owner_obstacle}."
        )
    if placement.num_replicas == 1:
        log.log(
            logging.WARNING if distribution == "owner_full" else logging.INFO,
            'model_distribution="%s" on one replica has the same effect as "replicated"',
            distribution,
        )
        return Updates()
    if distribution == "owner_full":
        process_memory.return_large_blocks()
        weights = OwnedWeights(placement, config.prefetched_blocks)
        return OwnerUpdates(placement, distribution, weights)
    if distribution == "owner_gradients":
        return OwnerUpdates(placement, distribution, OwnedGradients(placement))
    return OwnerUpdates(placement, distribution)


class OwnerUpdates(Updates):
    """Each replica holds a slice of the optimizer's state and updates that slice of the weights.

    The rules of most optimizers are elementwise: their own rule is applied to slices instead of
    variables. Those of Lamb, Muon and Adafactor see gathered variables, one after the other. Steps
    that are not elementwise use sums over all slices (clipping, the check for finite gradients) or
    complete variables (constraints).

    Args:
        placement: a placement with two or more replicas.
        distribution: RunConfig.model_distribution.
        weights: how gradients, or weights too, are divided; None: only the optimizer's state is.
    """

    reduces = True
    slots_are_whole = False

    def __init__(
        self,
        placement: Placement,
        distribution: str = "owner",
        weights: OwnedWeights | OwnedGradients | None = None,
    ):
        self._placement, self.distribution, self.weights = placement, distribution, weights
        self._buckets: list[Bucket] = []
        self._stored: list[list[Store]] = []  # by bucket, in Keras's order
        self._slots: dict[str, SlicedVariable] = {}
        # A model_fn creates a new optimizer in each trace; all of them share the stored slots.
        self._built: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    @override
    def creating_weights(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.weights is None else self.weights.creating()

    @override
    def stores(self, value: Any) -> bool:
        return isinstance(value, SlicedWeight)

    @override
    def build(self, optimizer: Any, variables: list) -> None:
        """Creates an optimizer's variables, with its slots in slices.

        Args:
            optimizer: a Keras optimizer that has not been built.
            variables: the variables that it will update.

        Raises:
            UserError: its update is not known to be elementwise.
        """
        check_optimizer(optimizer, variables, self.distribution)
        slots = _private_api.build_without_slots(optimizer, variables)
        check_slots(optimizer, slots)
        # A variable of which the rule needs all elements is a bucket by itself.
        whole = updates_whole_variables(optimizer)
        kinds = [
            (keras.backend.standardize_dtype(v.dtype), decays, len(own), i if whole else None)
            for i, (v, own) in enumerate(zip(variables, slots, strict=True))
            for decays in [_private_api.is_decayed(optimizer, v)]
        ]
        if not self._buckets:
            self._buckets = make_buckets(
                [v.shape.num_elements() for v in variables],
                # A weight that is in slices is one bucket, or in one, as a whole.
                [1 if whole or self.weights is not None else _rows(v) for v in variables],
                kinds,
                [tf.as_dtype(dtype).size for dtype, *_ in kinds],
                self._placement.num_replicas,
            )
            self._stored = [
                self._store(bucket, slots[bucket.members[0]]) for bucket in self._buckets
            ]
        self._attach(slots)
        self._built[optimizer] = (slots, list(variables))

    @override
    def apply(self, optimizer: Any, gradients: list, variables: list) -> None:
        slots, built_for = self._built[optimizer]
        step = OwnerStep(
            self._placement,
            optimizer,
            built_for,
            slots,
            self._buckets,
            self._stored,
            weights=(SliceAccess if self.gathers else WholeAccess)(self._placement, built_for),
            sums=self.weights is None,
            compiled=self.compiled,
        )
        step.apply(gradients, variables)

    @override
    def finalize(self, optimizer: Any, variables: list) -> None:
        del variables  # the optimizer has them, with their averages
        for variable, average in _private_api.moving_averages(optimizer):
            variable.assign(average.numpy())

    @override
    def slots(self) -> dict[str, SlicedVariable]:
        return dict(self._slots)

    def _store(self, bucket: Bucket, slots: list) -> list[Store]:
        return [
            Store(
                self._placement,
                bucket.slice_size,
                lambda slot=slot: _private_api.initial_value(slot, [bucket.slice_size]),
                name=f"slice_of_{slot.name}",
            )
            for slot in slots
        ]

    def _attach(self, slots: list[list]) -> None:
        """Sets the values of an optimizer's slots to views of the stored slices."""
        by_variable: list[list] = [[] for _ in slots]
        for bucket, stored in zip(self._buckets, self._stored, strict=True):
            for i, member in enumerate(bucket.members):
                where = bucket.positions[i], bucket.sizes[i], bucket.widths[i]
                by_variable[member].append((stored, where))
        for own, ranges in zip(slots, by_variable, strict=True):
            for k, slot in enumerate(own):
                parts = [StoredPart(stored[k], *where) for stored, where in ranges]
                sliced = SlicedVariable(self._placement, parts, slot.shape)
                _private_api.set_value(slot, self._slots.setdefault(slot.path, sliced))

    @override
    def bytes_to_come(self, optimizer: Any, variables: list) -> int:
        replicas = self._placement.num_replicas
        gradients, slots = sum(map(bytes_of, variables)), slot_bytes(optimizer, variables)
        return gradients // (1 if self.weights is None else replicas) + slots // replicas

    @override
    def report(self, program: Any) -> None:
        variables = [*program.trainable, *program.state]
        divides = self.weights.divides if self.weights is not None else lambda variable: False
        replicas = self._placement.num_replicas
        weights = sum(
            _bytes_of_slice(v, replicas if self.gathers and divides(v) else 1) for v in variables
        )
        gradients = sum(
            _bytes_of_slice(v, replicas if divides(v) else 1) for v in program.trainable
        )
        slots = sum(slot.bytes for stored in self._stored for slot in stored)
        whole = sum(bytes_of(v) for v in variables), sum(bytes_of(v) for v in program.trainable)
        log.info(
            "%s: each of %d replicas holds %s of weights, %s of gradients and %s of optimizer "
            "state; replicated: %s, %s and %s",
            self.distribution,
            replicas,
            *map(_readable, (weights, gradients, slots)),
            *map(_readable, (*whole, sum(bytes_of(slot) for slot in self._slots.values()))),
        )
        if self.gathers and not program.blocks:
            log.info(
                "%s: the model has no blocks, so each weight is gathered when a step first reads "
                "it, and kept until its gradient is there",
                self.distribution,
            )
        elif self.gathers:
            blocks = {name: sum(map(bytes_of, those)) for name, those in program.blocks.items()}
            inside = {id(v) for those in program.blocks.values() for v in those}
            outside = sum(bytes_of(v) for v in variables if divides(v) and id(v) not in inside)
            log.info(
                "%s: weights are gathered in %d blocks, of which the largest has %s; %s are used "
                "outside of blocks",
                self.distribution,
                len(blocks),
                _readable(max(blocks.values(), default=0)),
                _readable(outside),
            )


def _rows(variable) -> int:
    """The most parts that a variable may be cut into; a constraint needs the complete variable."""
    uncut = variable.constraint is not None or not variable.shape.rank
    return 1 if uncut else variable.shape[0]


def _bytes_of_slice(variable: Any, replicas: int) -> int:
    elements = width_of(variable.shape.num_elements(), replicas)
    return elements * tf.as_dtype(variable.dtype).size


def _readable(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} bytes"
