"""TrainSpec and EvalSpec: the arguments of train_and_evaluate."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfbig.arguments import check_callable, check_count
from tfbig.errors import UserError
from tfbig.estimator.exporters import Exporter


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The training part of `tfbig.train_and_evaluate`.

    Example: `tfbig.TrainSpec(input_fn, max_steps=1000)`

    Args:
        input_fn: as for `Estimator.train`.
        max_steps: the global step at which training ends; None for the end of the data.
        hooks: as for `Estimator.train`.
        saving_listeners: CheckpointSaverListeners, called for each checkpoint.
    """

    input_fn: Callable
    max_steps: int | None = None
    hooks: Sequence[Any] | None = None
    saving_listeners: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        check_callable("TrainSpec.input_fn", self.input_fn)
        check_count("TrainSpec.max_steps", self.max_steps)

    def _replace(self, **fields: Any) -> "TrainSpec":
        """Returns a copy with new values of some fields, as tf.estimator's namedtuple did."""
        return dataclasses.replace(self, **fields)


@dataclasses.dataclass(frozen=True)
class EvalSpec:
    """The evaluation part of `tfbig.train_and_evaluate`.

    Example:

        tfbig.EvalSpec(eval_input_fn, steps=None, exporters=[tfbig.BestExporter(
            serving_input_receiver_fn=receiver_fn)])

    Args:
        input_fn: as for `Estimator.evaluate`.
        steps: the number of batches of one evaluation; None for all.
        name: the results are written to the folder eval_<name>.
        hooks: as for `Estimator.evaluate`.
        exporters: an Exporter, or a list of them with different names; they run after each
            evaluation.
        start_delay_secs, throttle_secs: accepted for tf.estimator's sake and ignored, with a
            warning: evaluations run at steps, not by the clock. See `train_and_evaluate`.

    Raises:
        UserError: a field has an invalid value.
    """

    input_fn: Callable
    steps: int | None = 100
    name: str | None = None
    hooks: Sequence[Any] | None = None
    exporters: Any = None
    start_delay_secs: float | None = None
    throttle_secs: float | None = None

    def __post_init__(self) -> None:
        check_callable("EvalSpec.input_fn", self.input_fn)
        check_count("EvalSpec.steps", self.steps)
        if self.name is not None and (not isinstance(self.name, str) or not self.name):
            raise UserError(f"EvalSpec(name={self.name!r}): expected a name, or None.")
        for field in ("start_delay_secs", "throttle_secs"):
            value = getattr(self, field)
            if value is not None and not (isinstance(value, (int, float)) and value >= 0):
                raise UserError(f"EvalSpec({field}={value!r}): expected seconds, or None.")
        exporters = self.exporters
        if exporters is None:
            exporters = []
        exporters = [exporters] if isinstance(exporters, Exporter) else list(exporters)
        for exporter in exporters:
            if not isinstance(exporter, Exporter):
                raise UserError(
                    f"EvalSpec(exporters=…) has {exporter!r}, which is not an exporter; pass "
                    "tfbig.BestExporter(serving_input_receiver_fn=…), for example."
                )
        names = [exporter.name for exporter in exporters]
        duplicates = [name for name in names if names.count(name) > 1]
        if duplicates:
            raise UserError(
                f"EvalSpec(exporters=…) has two exporters named {duplicates[0]!r}, which would "
                "write to the same folder; give them different names."
            )
        object.__setattr__(self, "exporters", tuple(exporters))

    def _replace(self, **fields: Any) -> "EvalSpec":
        """Returns a copy with new values of some fields, as tf.estimator's namedtuple did."""
        return dataclasses.replace(self, **fields)
