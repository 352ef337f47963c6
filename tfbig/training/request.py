"""What a caller asks of a training run."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfbig.run_config import RunConfig


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What hooks and an Estimator ask of a run besides the arguments of train_distributed.

    Attributes:
        callbacks: of training, after those of `TrainRequest.callbacks`.
        num_steps: how many steps a new run has at most; None: any number.
        last_step: the global step at which it ends at the latest; None: any.
        saves: (steps, seconds) between two checkpoints, one of them None, which replace those of
            the RunConfig; None: those of the RunConfig.
        keep_checkpoint_max: how many checkpoints are kept; None: as the RunConfig says.
        initializers: functions from a Program to values by variable name, or None. A run without
            a checkpoint starts from these values; called on the chief.
        repeats: a run that has ended is followed by a new one, on data from their start, as
            tf.estimator's `train` does; False: it stays ended.
        eval_steps: how many batches an evaluation reads at most; None: all.
        eval_hooks: makes the hooks of evaluations of (model_fn observer, TensorFetcher); None:
            there are none.
    """

    callbacks: tuple = ()
    num_steps: int | None = None
    last_step: int | None = None
    saves: tuple[int | None, float | None] | None = None
    keep_checkpoint_max: int | None = None
    initializers: tuple[Callable, ...] = ()
    repeats: bool = False
    eval_steps: int | None = None
    eval_hooks: Callable | None = None

    def with_spec(self, other: "RunOptions") -> "RunOptions":
        """These options and those of an EstimatorSpec: the nearest end, and its callbacks last."""
        keep = other.keep_checkpoint_max
        return dataclasses.replace(
            self,
            callbacks=(*self.callbacks, *other.callbacks),
            num_steps=nearest(self.num_steps, other.num_steps),
            last_step=nearest(self.last_step, other.last_step),
            saves=self.saves or other.saves,
            keep_checkpoint_max=self.keep_checkpoint_max if keep is None else keep,
            initializers=(*self.initializers, *other.initializers),
        )


@dataclasses.dataclass(frozen=True)
class TrainRequest:
    """What `run_training` does: arguments that are checked, and functions that read the data.

    Attributes:
        model_fn: builds a model, is one, or is of estimator style.
        read: returns the training data; called once, after the cluster has been joined.
        read_eval: returns the evaluation data, or None.
        config, strategy, devices, model_dir, params, max_steps, epochs: as in train_distributed.
        callbacks: Keras's, tfbig's and the user's.
        options: what hooks and an Estimator ask for.
        options_of_spec: from the first EstimatorSpec of training to the RunOptions that its
            fields ask for; None: they are not used.
    """

    model_fn: Any
    read: Callable[[], Any]
    read_eval: Callable[[], Any] | None
    config: RunConfig
    strategy: Any = "auto"
    devices: Any = None
    model_dir: str | None = None
    params: Any = None
    max_steps: int | None = None
    epochs: int | None = None
    callbacks: Sequence[Any] = ()
    options: RunOptions = RunOptions()
    options_of_spec: Callable[[Any], RunOptions] | None = None

    def with_spec(self, spec: Any) -> "TrainRequest":
        """The request with what an EstimatorSpec asks for."""
        if self.options_of_spec is None:
            return self
        return dataclasses.replace(self, options=self.options.with_spec(self.options_of_spec(spec)))

    @property
    def last_step(self) -> int | None:
        """The global step at which the run ends at the latest, by max_steps and by hooks."""
        return nearest(self.max_steps, self.options.last_step)

    @property
    def effective_config(self) -> RunConfig:
        """The config, with the times of checkpoints that a CheckpointSaverHook asks for."""
        if self.options.saves is None:
            return self.config
        steps, secs = self.options.saves
        return dataclasses.replace(
            self.config, save_checkpoints_steps=steps, save_checkpoints_secs=secs
        )


def nearest(*steps: int | None) -> int | None:
    """The smallest of some numbers of steps, of which None means any number."""
    return min((step for step in steps if step is not None), default=None)
