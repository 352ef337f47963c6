"""What a case of the numbers contract is, and what a run of it leaves."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SEED = 7


class Where(NamedTuple):
    """A placement: "one_device", "mirrored", "workers" or "servers", and its number of replicas."""

    kind: str
    count: int

    def __str__(self) -> str:
        return f"{self.kind}{self.count}"


@dataclasses.dataclass(frozen=True)
class Case:
    """One training that has to give the same numbers wherever it runs.

    Attributes:
        build: returns a compiled keras.Model.
        arrays: returns (features, labels[, sample_weight]), arrays with all examples.
        batch_size: of the global batch; the last one of a pass may be smaller.
        epochs: passes over the data.
        config: fields of RunConfig.
        reference_build: the reference's model, where it is written in another way.
        model_fn: what train_distributed is given instead of `build`. Its weights are compared by
            the path that they have in the checkpoint and in the model; metrics are those of the
            evaluation alone.
        reference: trains in the place of tests.equivalence.reference.train: (case, parts).
        read: from the tf.data.Dataset of `arrays` to the one that train_distributed is given.
        parts: whether the reference treats each replica's part of a batch separately.
        evaluates: whether the run ends with an evaluation on all examples.
        weights, losses, metrics: the largest differences allowed. Losses and metrics are
            compared relative to their size.
        replicas: the numbers of replicas, in one process, that the case is run on.
        workers: the numbers of workers, each a process with one replica.
        servers: the numbers of workers beside a chief and parameter servers, which train with
            max_staleness=0.
    """

    build: Callable[[], Any] | None
    arrays: Callable[[], tuple]
    batch_size: int = 64
    epochs: int = 3
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reference_build: Callable[[], Any] | None = None
    model_fn: Callable | None = None
    reference: Callable | None = None
    read: Callable | None = None
    parts: bool = False
    evaluates: bool = False
    weights: float = 1e-5
    losses: float = 1e-5
    metrics: float = 1e-6
    replicas: tuple[int, ...] = (1, 2)
    workers: tuple[int, ...] = ()
    servers: tuple[int, ...] = ()

    def __post_init__(self):
        if self.model_fn is not None and self.reference is None:
            object.__setattr__(self, "build", self.model_fn.as_keras)

    @property
    def placements(self) -> tuple["Where", ...]:
        return (
            *(Where("one_device" if n == 1 else "mirrored", n) for n in self.replicas),
            *(Where("workers", n) for n in self.workers),
            *(Where("servers", n) for n in self.servers),
        )

    @functools.cached_property
    def examples(self) -> int:
        """How many there are."""
        features, *_ = self.arrays()
        return len(next(iter(features.values())) if isinstance(features, dict) else features)

    @property
    def steps(self) -> int:
        """How many updates the training makes."""
        return self.epochs * -(-self.examples // self.batch_size)

    @property
    def log_every(self) -> int:
        return self.config.get("log_step_count_steps", 5)

    @property
    def precision(self) -> str:
        return self.config.get("precision", "float32")


@dataclasses.dataclass
class Outcome:
    """What a run leaves.

    Attributes:
        weights: the model's variables.
        optimizer: the optimizer's variables, in their order.
        history: one dict for each log point: step, loss, metrics.
        evaluation: loss and metrics on all examples at the end, or {}.
        copies: the largest difference between two replicas' copies of a variable.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    history: list[dict[str, float]]
    evaluation: dict[str, float]
    copies: float = 0.0

    def save(self, path: pathlib.Path) -> None:
        arrays = {f"w{i:03d}": a for i, a in enumerate(self.weights)}
        arrays |= {f"o{i:03d}": a for i, a in enumerate(self.optimizer)}
        np.savez(path.with_suffix(".npz"), **arrays)
        facts = {k: getattr(self, k) for k in ("history", "evaluation", "copies")}
        path.with_suffix(".json").write_text(json.dumps(facts))

    @classmethod
    def load(cls, path: pathlib.Path) -> "Outcome":
        with np.load(path.with_suffix(".npz")) as arrays:
            names = sorted(arrays)
            weights = [arrays[n] for n in names if n.startswith("w")]
            optimizer = [arrays[n] for n in names if n.startswith("o")]
        facts = json.loads(path.with_suffix(".json").read_text())
        return cls(weights, optimizer, **facts)
