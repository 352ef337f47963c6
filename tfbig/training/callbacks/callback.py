"""The base class of tfbig's own callbacks: Keras's protocol and the training loop's extra hooks."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a callback may want to know about the run before it begins.

    Attributes:
        model_dir: where the run keeps its files; None: it keeps nothing.
        max_steps: the global step at which the run stops; None: not limited by steps.
        steps_per_epoch: updates in one pass over the data; None: the length is not known.
        epochs: number of passes; None: not limited by passes.
        log_steps: updates between two calls of `on_log`.
        summary_steps: updates between two calls of `on_summary`.
        start_step: the global step of the checkpoint the run goes on from; 0 for a new run.
        batch_size: examples in one global batch, all replicas together.
        num_replicas: number of replicas that share a global batch.
        data_end: the global step at which the data end; None: the length is not known, or they
            start anew by themselves.
    """

    model_dir: str | None
    max_steps: int | None
    steps_per_epoch: int | None
    epochs: int | None
    log_steps: int
    summary_steps: int
    start_step: int
    batch_size: int
    num_replicas: int
    data_end: int | None = None

    @property
    def total_steps(self) -> int | None:
        """The global step at which the run ends, or None if only the data's end will tell."""
        if self.max_steps is not None:
            return min(self.max_steps, self.data_end or self.max_steps)
        if self.epochs is not None and self.steps_per_epoch is not None:
            return self.epochs * self.steps_per_epoch
        return None


class LoopCallback(keras.callbacks.Callback):
    """A Keras callback that also hears of the loop's calls, log points and checkpoints.

    Every hook is a no-op here; a subclass overrides those it needs, and Keras's own
    (`on_train_begin`, `on_epoch_end` …) as it likes. `step` is always the global step, the
    number of finished updates; `logs` holds Python floats. The hooks run on the chief.

    Attributes:
        stop_every: a call of the loop ends every so many steps, counted from the step at which
            the process begins; None: where it would anyway. 1 makes every step a call.
        save_now: while True, a checkpoint is written after the call, which sets it back.

    Example:

    ```python
    class LossLog(tfbig.callbacks.LoopCallback):
        def on_log(self, step, logs):
            print(step, logs["loss"])

    tfbig.train_distributed(model_fn, input_fn, max_steps=1000, callbacks=[LossLog()])
    ```
    """

    run: RunInfo | None = None
    stop_every: int | None = None
    save_now = False

    def set_run(self, run: RunInfo) -> None:
        """Receives the facts of the run, once, before `on_train_begin`."""
        self.run = run

    def on_call_begin(self, step: int, look: Callable[[Any], Any]) -> None:
        """Called before every call of the traced loop.

        Args:
            step: the number of finished updates.
            look: `look(fetches)` computes tensors of an estimator-style model_fn as its next step
                will: names, tensors or a structure of them, as in a SessionRunHook's `before_run`.
                A new set of fetches is traced once; each look costs a forward pass.
        """

    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        """Called after every call of the traced loop, often: cheap work only."""

    def on_log(self, step: int, logs: dict[str, float]) -> None:
        """Called every `log_step_count_steps` updates and after the last one.

        Args:
            step: the global step.
            logs: loss, each metric, learning_rate, steps_per_sec and examples_per_sec.
        """

    def on_summary(self, step: int, logs: dict[str, float]) -> None:
        """Called every `save_summary_steps` updates, with the same logs as `on_log`."""

    def on_evaluate(self, step: int, metrics: dict[str, float]) -> None:
        """Called after each evaluation; `metrics` includes `loss`."""

    def on_saving(self, step: int) -> None:
        """Called before a checkpoint is written."""

    def on_checkpoint(self, step: int, path: str) -> None:
        """Called once the checkpoint of a step is there, at `path`.

        That is when it was saved; tables on parameter servers are written while training goes
        on, and then it is at a later step.
        """

    def close(self) -> None:
        """Called once when the run is over, also after an error; gives back what is held."""
