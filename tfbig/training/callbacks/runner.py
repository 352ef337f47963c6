"""Runs the callbacks of one run: Keras's hooks, the loop's hooks, and their saved state."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.programs.vector_metrics import to_fit_logs, to_scalars
from tfbig.training.callbacks.batch_counts import BatchCounts
from tfbig.training.callbacks.callback import LoopCallback, RunInfo
from tfbig.training.callbacks.fit_logs import logs_for
from tfbig.training.callbacks.log_files import LogFiles
from tfbig.training.callbacks.nan_guard import NaNGuard

_SCALARS = (bool, int, float, str, type(None))
_OWN = "counts and files"  # the key of the runner's own state; no callback has this name


class CallbackRunner:
    """Calls the hooks of all callbacks of a run.

    Args:
        callbacks: callbacks of Keras, tfbig and the user.
        model: the model that callbacks see as `self.model`.

    Raises:
        UserError: an item is not a callback, or conflicts with the loop.
    """

    def __init__(self, callbacks: Iterable[keras.callbacks.Callback], model: Any):
        self._all = [_checked(callback) for callback in keras.tree.flatten(list(callbacks))]
        self._loop = [c for c in self._all if isinstance(c, LoopCallback)]
        self._swaps = [c for c in self._all if isinstance(c, keras.callbacks.SwapEMAWeights)]
        self._counts, self._files = BatchCounts(self._all), LogFiles(self._all)
        guards = [c for c in self._all if isinstance(c, NaNGuard)]
        tolerant = any(isinstance(c, keras.callbacks.TerminateOnNaN) for c in self._all)
        self.guard = guards[0] if guards else None if tolerant else NaNGuard()
        self._model = model
        self._keras: keras.callbacks.CallbackList | None = None
        self._initial: dict[str, dict[str, Any]] = {}
        self._restored: dict[str, set[str]] = {}
        model.stop_training = False

    @property
    def stop_training(self) -> bool:
        """Whether a callback has requested the end of the run."""
        return bool(self._model.stop_training)

    @property
    def save_now(self) -> bool:
        """Whether a callback has requested a checkpoint."""
        return any(callback.save_now for callback in self._loop)

    @property
    def call_ends(self) -> tuple[list[int], list[int], list[int]]:
        """The steps at which callbacks need a call of the loop to end.

        Returns:
            Three lists: periods, counted from the step at which the process starts; periods,
            counted from step 0; and single global steps.
        """
        stops = sorted({c.stop_every for c in self._loop if c.stop_every is not None})
        return stops, self._counts.frequencies, self._counts.steps

    @property
    def need_epochs(self) -> bool:
        """Whether any callback overrides an epoch hook, so that a call has to end at epoch ends."""
        return self._any_overrides("on_epoch_begin", "on_epoch_end")

    @property
    def need_batch_logs(self) -> bool:
        """Whether any callback overrides a batch hook."""
        return self._any_overrides(
            "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"
        )

    @property
    def may_stop(self) -> bool:
        """Whether there are callbacks besides tfbig's own; they may have ended an earlier run."""
        return len(self._all) > len(self._loop)

    def check_evaluator_task(self) -> None:
        """Checks that the callbacks work if an evaluator task evaluates the checkpoints.

        Raises:
            UserError: a callback changes the weights for evaluations.
        """
        if self._swaps:
            raise UserError(
                "callbacks has a SwapEMAWeights, which swaps the averages in before an "
                "evaluation, but an evaluator task evaluates the checkpoints of this run with the "
                "weights themselves; remove SwapEMAWeights, or the evaluator task."
            )

    @property
    def restored_best(self) -> bool:
        """Whether an EarlyStopping has restored its best weights after the end of training."""
        kind = keras.callbacks.EarlyStopping
        return any(
            c.restore_best_weights and c.best_weights is not None
            for c in self._all
            if isinstance(c, kind)
        )

    def begin(
        self,
        run: RunInfo,
        state: dict | None,
        arrays: dict[str, np.ndarray],
        epoch_steps: int | None = None,
    ) -> None:
        """Starts the run.

        Args:
            run: the facts of the run.
            state: the plain values from `state`, which a checkpoint stored; None in a new run.
            arrays: the arrays from `state`; {} in a new run.
            epoch_steps: updates in an epoch; None: not known, or no callback needs epochs.
        """
        own = (state or {}).get(_OWN)
        epochs = run.start_step // epoch_steps if epoch_steps else 0
        self._files.begin(run.model_dir, epochs, own)
        for callback in self._loop:
            callback.set_run(run)
        params = _params(run, epoch_steps, self._all)
        self._keras = keras.callbacks.CallbackList(self._all, model=self._model, **params)
        for swap in self._swaps:  # in the last epoch, it would overwrite the averages
            swap.set_params({**params, "epochs": 0})
        self._keras.on_train_begin()
        self._files.opened()
        self._counts.begin(run.start_step, epoch_steps, own["tested"] if own else [])
        for key, callback in self._keyed():
            self._initial[key] = copy.deepcopy(_public_state(callback))
            restored = dict((state or {}).get(key, {}))
            prefix = f"{key}."
            restored.update(
                _unflattened({n.removeprefix(prefix): a for n, a in arrays.items()
                              if n.startswith(prefix)})
            )  # fmt: skip
            if getattr(callback, "monitor_op", True) is None:
                # Keras negates min_delta at the end of the first epoch, in each process.
                restored.pop("min_delta", None)
            self._restored[key] = set(restored)
            for name, value in restored.items():
                setattr(callback, name, value)

    def state(self) -> tuple[dict, dict[str, np.ndarray]]:
        """Returns the public attributes that callbacks have changed, for a checkpoint.

        Returns:
            Plain values for JSON, and arrays by name; for an EarlyStopping, for example, `wait` and
            `best_weights`.
        """
        plain: dict[str, dict] = {_OWN: {**self._files.state(), "tested": self._counts.state()}}
        arrays: dict[str, np.ndarray] = {}
        for key, callback in self._keyed():
            initial = self._initial.get(key, {})
            for name, value in _public_state(callback).items():
                same = name in initial and _same(initial[name], value)
                if same and name not in self._restored.get(key, ()):
                    continue
                if isinstance(value, _SCALARS):
                    plain.setdefault(key, {})[name] = value
                elif isinstance(value, np.ndarray):
                    arrays[f"{key}.{name}"] = value
                else:
                    arrays.update({f"{key}.{name}.{i}": a for i, a in enumerate(value)})
        return plain, arrays

    def epoch_begin(self, epoch: int) -> None:
        """Calls on_epoch_begin; epochs count from 0."""
        self._keras.on_epoch_begin(epoch)

    def epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Calls on_epoch_end with the logs of the epoch, then swaps averages back."""
        self._files.epoch_end(logs)
        for callback in self._all:
            callback.on_epoch_end(epoch, logs_for(callback, logs))
        for swap in self._swaps:
            _private_api.restore_swapped_weights(swap)

    def call_begin(self, step: int, fetch: Callable[[Any], Any]) -> None:
        """Calls the hooks before a call of the loop; `step` updates are finished."""
        if self.need_batch_logs:
            self._counts.call_begin(step)
            for callback in self._all:
                callback.on_train_batch_begin(self._counts.batch(callback, step), {})
        for callback in self._loop:
            callback.on_call_begin(step, fetch)

    def call_end(self, step: int, loss: float, batch_logs: Callable[[], dict]) -> None:
        """Calls the hooks after a call of the loop; `step` updates are finished.

        Args:
            step: the global step; Keras's batch numbers count from 0.
            loss: the mean loss of the call; with a custom train_step, since the epoch began.
            batch_logs: returns loss and metrics since the epoch began; called only if needed.
        """
        if self.need_batch_logs:
            self._counts.call_end(step)
            logs = dict(sorted(batch_logs().items()))  # in the same order as in Keras
            for callback in self._all:
                batch = self._counts.batch(callback, step - 1)
                callback.on_train_batch_end(batch, logs_for(callback, logs))
        for callback in self._loop:
            callback.on_calls(step, {"loss": loss})

    def log(self, step: int, logs: dict[str, float]) -> None:
        """Calls on_log at a log point."""
        for callback in self._loop:
            callback.on_log(step, to_scalars(logs))

    def summary(self, step: int, logs: dict[str, float]) -> None:
        """Calls on_summary, every `save_summary_steps` updates."""
        for callback in self._loop:
            callback.on_summary(step, to_scalars(logs))

    def evaluate(self, step: int, evaluator: Callable[..., dict[str, float]]) -> dict[str, float]:
        """Runs an evaluation and calls the hooks that belong to it; returns its metrics."""
        self._counts.test_begin()
        for callback in self._all:
            callback.on_test_begin({})
        batch_hooks = self._any_overrides("on_test_batch_begin", "on_test_batch_end")
        metrics = evaluator(*((self._test_call,) if batch_hooks else ()))
        for callback in self._all:
            callback.on_test_end(logs_for(callback, metrics))
        for callback in self._loop:
            callback.on_evaluate(step, to_scalars(metrics))
        return metrics

    def saving(self, step: int) -> None:
        """Calls on_saving before a checkpoint is written."""
        self._counts.flush()
        for callback in self._loop:
            callback.on_saving(step)

    def saved(self) -> None:
        """Resets the requests for a checkpoint after one was written."""
        for callback in self._loop:
            callback.save_now = False

    def checkpoint(self, step: int, path: str) -> None:
        """Calls on_checkpoint once the checkpoint is complete."""
        for callback in self._loop:
            callback.on_checkpoint(step, path)

    def end(self, logs: dict[str, float]) -> None:
        """Calls on_train_end with the final logs; not called after an error."""
        self._keras.on_train_end(to_fit_logs(logs))

    def close(self) -> None:
        """Closes tfbig's callbacks, also after an error."""
        for callback in self._loop:
            callback.close()

    def _test_call(self, first: int, last: int, logs: dict[str, float]) -> None:
        self._counts.test_call(last)
        self._keras.on_test_batch_begin(first)
        for callback in self._all:
            callback.on_test_batch_end(last, logs_for(callback, logs))

    def _any_overrides(self, *hooks: str) -> bool:
        return any(_overrides(callback, hook) for callback in self._all for hook in hooks)

    def _keyed(self) -> list[tuple[str, keras.callbacks.Callback]]:
        seen: dict[str, int] = {}
        keyed = []
        for callback in self._all:
            name = type(callback).__name__
            keyed.append((f"{name}#{seen.setdefault(name, 0)}", callback))
            seen[name] += 1
        return keyed


def _checked(callback: Any) -> keras.callbacks.Callback:
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise UserError(
            "callbacks has a BackupAndRestore, which would overwrite the state from tfbig's own "
            "checkpoints; remove it and pass model_dir: a run that is started again resumes by "
            "itself."
        )
    if not isinstance(callback, keras.callbacks.Callback):
        raise UserError(
            f"callbacks has {callback!r}, which is not a keras.callbacks.Callback; pass instances, "
            "for example callbacks=[keras.callbacks.CSVLogger('log.csv')]."
        )
    return callback


def _params(
    run: RunInfo, epoch_steps: int | None, callbacks: Iterable[keras.callbacks.Callback]
) -> dict[str, Any]:
    """Returns the dict that callbacks see as `self.params`."""
    epochs, total = run.epochs, run.total_steps
    if epochs is None and total is not None and epoch_steps:
        epochs = -(-total // epoch_steps)
    shown = any(isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks)
    return {"epochs": epochs or 1, "steps": run.steps_per_epoch, "verbose": int(shown)}


def _overrides(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether a callback overrides a hook, in its class or on the instance."""
    bound = getattr(callback, hook)
    return getattr(bound, "__func__", bound) is not getattr(keras.callbacks.Callback, hook)


def _public_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns a callback's public attributes that are plain values, arrays or lists of arrays."""
    found = {}
    for name, value in vars(callback).items():
        if name.startswith("_") or name in ("run", "params", "model", "save_now", "stop_every"):
            continue
        if isinstance(value, np.generic):
            value = value.item()
        arrays = (
            isinstance(value, list)
            and value
            and all(isinstance(item, np.ndarray) for item in value)
        )
        if isinstance(value, (*_SCALARS, np.ndarray)) or arrays:
            found[name] = value
    return found


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, (list, np.ndarray)) or isinstance(second, (list, np.ndarray)):
        return type(first) is type(second) and np.array_equal(first, second)
    return first == second or (first != first and second != second)  # NaN equals NaN here


def _unflattened(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Converts {"best_weights.0": a, "best_weights.1": b} to {"best_weights": [a, b]}."""
    values: dict[str, Any] = {}
    for name, array in arrays.items():
        attribute, _, number = name.partition(".")
        if number:
            values.setdefault(attribute, {})[int(number)] = array
        else:
            values[attribute] = array
    return {
        name: [value[i] for i in sorted(value)] if isinstance(value, dict) else value
        for name, value in values.items()
    }
