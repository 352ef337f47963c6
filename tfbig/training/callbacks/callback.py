"""The base class of tfbig's callbacks: Keras's hooks and additional hooks of the training loop."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """Facts about a run that callbacks receive before it begins.

    Attributes:
        model_dir: the directory for the run's files; None: the run writes no files.
        max_steps: the global step at which the run stops; None: not limited by steps.
        steps_per_epoch: updates in one pass over the data; None: the length is not known.
        epochs: number of passes; None: not limited by passes.
        log_steps: updates between two calls of `on_log`.
        summary_steps: updates between two calls of `on_summary`.
        start_step: the global step of the checkpoint from which the run resumes; 0: a new run.
        batch_size: examples in one global batch, over all replicas.
        num_replicas: number of replicas that share a global batch.
        data_end: the global step at which the data end; None: their length is not known, or they
            repeat.
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
        """The global step at which the run ends; None if the end of the data decides it."""
        if self.max_steps is not None:
            return min(self.max_steps, self.data_end or self.max_steps)
        if self.epochs is not None and self.steps_per_epoch is not None:
            return self.epochs * self.steps_per_epoch
        return None


class LoopCallback(keras.callbacks.Callback):
    """A Keras callback with additional hooks for the loop's calls, log points and checkpoints.

    All hooks do nothing by default. A subclass overrides the hooks it needs, including Keras's own
    (`on_train_begin`, `on_epoch_end` …). `step` is always the global step, which is the number of
    finished updates; `logs` contains Python floats. The hooks run on the chief.

    Attributes:
        run: the facts of the run, set before `on_train_begin`.
        stop_every: end a call of the loop every `stop_every` steps, counted from the step at which
            the process starts; None: no additional ends. With 1, every step is its own call.
        save_now: set it to True to request a checkpoint after the current call; the loop sets it
            back to False.

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
        """Receives the facts of the run once, before `on_train_begin`."""
        self.run = run

    def on_call_begin(self, step: int, fetch: Callable[[Any], Any]) -> None:
        """Called before every call of the traced loop.

        Args:
            step: the number of finished updates.
            fetch: `fetch(fetches)` computes tensors of an estimator-style model_fn on the batch of
                the next step. `fetches` are names, tensors or a structure of them, as in a
                SessionRunHook's `before_run`. A new set of fetches is traced once; each call costs
                a forward pass.
        """

    def on_calls(self, step: int, logs: dict[str, float]) -> None:
        """Called after every call of the traced loop; it is called often, so it should be cheap."""

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
        """Called when the checkpoint of a step is complete, at `path`.

        Usually that is immediately after saving. Tables on parameter servers are written while
        training continues, so this is then called at a later step.
        """

    def close(self) -> None:
        """Called once when the run ends, also after an error; releases the callback's resources."""
