"""Estimator: trains, evaluates, predicts and exports a model_fn, by its checkpoints."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tfbig.arguments import check_callable, check_count, checked_config, checked_model_dir
from tfbig.errors import UserError
from tfbig.estimator import evaluating, exporting, predicting, training
from tfbig.estimator.eval_events import eval_dir
from tfbig.estimator.warm_start import checked_warm_start
from tfbig.programs.model_fn.call import check_arguments, is_estimator_style
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint, latest

log = logging.getLogger("tfbig")


class Estimator:
    """A model_fn with its checkpoints: what tf.estimator.Estimator was, on tfbig's loop.

    Each method reads the newest checkpoint in model_dir; `train` goes on from it. A call of
    `train` that was stopped goes on with its data where it stood, to the bit; one that had ended
    is followed by a new one, on data from their start.

    Example:

        estimator = tfbig.Estimator(model_fn, "runs/iris", params={"units": 10})
        estimator.train(train_input_fn, steps=1000)
        print(estimator.evaluate(eval_input_fn))   # {"loss": …, "accuracy": …, "global_step": …}
        for prediction in estimator.predict(predict_input_fn):
            print(prediction["class_ids"])

    Args:
        model_fn: `model_fn(features, labels, mode, params, config)`, which returns an
            EstimatorSpec; arguments are recognised by name, `features` is required.
        model_dir: where checkpoints, summaries and exports are; None: a new temporary folder.
        config: a tfbig.RunConfig.
        params: a dict, handed to model_fn and to input functions that ask for it.
        warm_start_from: a tfbig.WarmStartSettings or a checkpoint's path, for the first values
            where model_dir has no checkpoint.
        strategy, devices: as for `tfbig.train_distributed`; of all methods.

    Raises:
        UserError: something given cannot be used.
    """

    def __init__(
        self,
        model_fn: Callable,
        model_dir: str | os.PathLike | None = None,
        config: Any = None,
        params: Any = None,
        warm_start_from: Any = None,
        *,
        strategy: Any = "auto",
        devices: Any = None,
    ):
        if not is_estimator_style(model_fn):
            given = getattr(model_fn, "__name__", type(model_fn).__name__)
            raise UserError(
                f"Estimator(model_fn=…): `model_fn` must take features as its first argument: "
                f"model_fn(features, labels, mode); received {given!r}. Keras builders and models "
                "are trained by tfbig.train_distributed."
            )
        check_arguments(model_fn, params)
        model_dir = checked_model_dir(model_dir)
        if model_dir is None:
            model_dir = tempfile.mkdtemp(prefix="tfbig-")
            log.warning("Using temporary folder as model directory: %s", model_dir)
        self._model_fn, self._model_dir = model_fn, model_dir
        self._config, self._params = checked_config(config), {} if params is None else params
        self._warm_start = checked_warm_start(warm_start_from)
        self.strategy, self.devices = strategy, devices

    @property
    def model_dir(self) -> str:
        """Where checkpoints, summaries and exports are."""
        return self._model_dir

    @property
    def config(self) -> Any:
        """The RunConfig."""
        return self._config

    @property
    def params(self) -> Any:
        """What model_fn and input functions are handed."""
        return self._params

    @property
    def model_fn(self) -> Callable:
        """The model_fn as it was given."""
        return self._model_fn

    @property
    def warm_start(self) -> Any:
        """The WarmStartSettings, or None."""
        return self._warm_start

    def train(
        self,
        input_fn: Callable,
        hooks: Sequence[Any] | None = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Sequence[Any] | None = None,
    ) -> "Estimator":
        """Trains, from the newest checkpoint if there is one, and leaves a new one.

        Args:
            input_fn: returns a tf.data.Dataset or a tfbig.data.Source of features or (features,
                labels), batched to the global batch size; may ask for mode, params, config.
            hooks: of `tfbig.estimator` or tf.compat.v1.train, your own SessionRunHooks, and
                keras.callbacks.
            steps: how many steps this call trains.
            max_steps: or the global step at which training ends; nothing happens if it is
                reached. With neither, training ends at the data's end.
            saving_listeners: CheckpointSaverListeners.

        Returns:
            The Estimator.

        Raises:
            UserError: something given cannot be used.
            SystemExit, KeyboardInterrupt: SIGTERM or SIGINT has come; all was saved first.
        """
        if steps is not None and max_steps is not None:
            raise UserError(
                f"train(steps={steps}, max_steps={max_steps}): Can not provide both steps and "
                "max_steps; give one of them."
            )
        check_callable("input_fn", input_fn)
        check_count("steps", steps)
        check_count("max_steps", max_steps)
        training.fit(
            self,
            input_fn,
            hooks=hooks,
            steps=steps,
            max_steps=max_steps,
            listeners=saving_listeners,
        )
        return self

    def evaluate(
        self,
        input_fn: Callable,
        steps: int | None = None,
        hooks: Sequence[Any] | None = None,
        checkpoint_path: str | os.PathLike | None = None,
        name: str | None = None,
    ) -> dict[str, float]:
        """Evaluates a checkpoint on one pass over data.

        Args:
            input_fn: as for `train`.
            steps: the number of batches; None: all.
            hooks: LoggingTensorHook, FinalOpsHook and your own SessionRunHooks.
            checkpoint_path: None: the newest; without any, the model's first values.
            name: the figures are written to model_dir/eval_<name>; None: model_dir/eval.

        Returns:
            "loss", the spec's metrics and "global_step".
        """
        check_callable("input_fn", input_fn)
        check_count("steps", steps)
        return evaluating.evaluate(
            self, input_fn, steps=steps, hooks=hooks, checkpoint=checkpoint_path, name=name
        )

    def predict(
        self,
        input_fn: Callable,
        predict_keys: Sequence[str] | str | None = None,
        hooks: Sequence[Any] | None = None,
        checkpoint_path: str | os.PathLike | None = None,
        yield_single_examples: bool = True,
    ) -> Iterator[Any]:
        """Predicts for every example of input_fn, in their order.

        Args:
            input_fn: as for `train`; labels are left aside.
            predict_keys: which of the predictions; None: all.
            hooks: as for `evaluate`.
            checkpoint_path: None: the newest.
            yield_single_examples: False: whole batches.

        Yields:
            A dict of NumPy arrays (or what the spec's predictions are), one for each example.

        Raises:
            UserError: there is no checkpoint, or the data cannot be used.
        """
        check_callable("input_fn", input_fn)
        return predicting.predict(
            self,
            input_fn,
            keys=predict_keys,
            hooks=hooks,
            checkpoint=checkpoint_path,
            single=yield_single_examples,
        )

    def export_saved_model(
        self,
        export_dir_base: str | os.PathLike,
        serving_input_receiver_fn: Callable,
        assets_extra: dict[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike | None = None,
    ) -> str:
        """Writes a SavedModel that TensorFlow Serving and tf.saved_model.load can read.

        Example:

            fn = tfbig.estimator.export.build_raw_serving_input_receiver_fn(
                {"x": tf.TensorSpec([None, 4], tf.float32, name="x")})
            path = estimator.export_saved_model("runs/iris/export", fn)
            served = tf.saved_model.load(path).signatures["serving_default"]

        Args:
            export_dir_base: the export is a folder in it that is named by the time.
            serving_input_receiver_fn: returns a ServingInputReceiver.
            assets_extra: by path in assets.extra, the files to copy there.
            as_text: False; SavedModels are written in binary form.
            checkpoint_path: None: the newest.

        Returns:
            The folder.
        """
        if as_text:
            raise UserError(
                "export_saved_model(as_text=True): SavedModels are written in binary form alone; "
                "leave as_text out."
            )
        return exporting.export(
            self,
            os.fspath(export_dir_base),
            serving_input_receiver_fn,
            assets_extra=assets_extra,
            checkpoint=checkpoint_path,
        )

    def get_variable_names(self) -> list[str]:
        """The names of all variables in the newest checkpoint.

        Raises:
            UserError: there is none.
        """
        return sorted(NamedCheckpoint(self.checkpoint()).shapes)

    def get_variable_value(self, name: str) -> np.ndarray:
        """The value of a variable in the newest checkpoint.

        Raises:
            UserError: there is no checkpoint, or no variable of that name.
        """
        return NamedCheckpoint(self.checkpoint()).value(name.removesuffix(":0"))

    def latest_checkpoint(self) -> str | None:
        """The newest checkpoint, for `tf.train.load_checkpoint` and checkpoint_path=; or None."""
        return latest(self._model_dir)

    def eval_dir(self, name: str | None = None) -> str:
        """Where the figures of `evaluate(name=name)` are."""
        return eval_dir(self._model_dir, name)

    def checkpoint(self, path: str | os.PathLike | None = None) -> str:
        """The checkpoint at a path, or the newest.

        Raises:
            UserError: there is none.
        """
        path = self.latest_checkpoint() if path is None else os.fspath(path)
        if path is None:
            raise UserError(
                f"Could not find trained model in model_dir: {self._model_dir}. Call train first, "
                "or give checkpoint_path."
            )
        return NamedCheckpoint(path).path
