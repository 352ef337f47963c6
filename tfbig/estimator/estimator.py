"""Estimator: trains, evaluates, predicts with and exports a model_fn and its checkpoints."""

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfbig.arguments import check_callable, check_steps, checked_config, checked_model_dir
from tfbig.errors import UserError
from tfbig.estimator import evaluating, exporting, predicting, training
from tfbig.estimator.eval_events import eval_dir
from tfbig.estimator.warm_start import checked_warm_start
from tfbig.programs.model_fn.call import call_model_fn, check_arguments, is_estimator_style
from tfbig.programs.model_fn.spec import EstimatorSpec, ModeKeys
from tfbig.programs.program import BatchPart
from tfbig.training.checkpoints.named_checkpoint import NamedCheckpoint, latest

log = logging.getLogger("tfbig")


class Estimator:
    """A model_fn and its checkpoints, with the methods of tf.estimator.Estimator.

    Each method reads the newest checkpoint in model_dir. A call of `train` that was interrupted
    is resumed at the same position in the data, bit for bit. After a call that finished, the next
    one continues from its weights and reads the data from the start.

    Example:

        estimator = tfbig.Estimator(model_fn, "runs/iris", params={"units": 10})
        estimator.train(train_input_fn, steps=1000)
        print(estimator.evaluate(eval_input_fn))   # {"loss": …, "accuracy": …, "global_step": …}
        for prediction in estimator.predict(predict_input_fn):
            print(prediction["class_ids"])

    Args:
        model_fn: `model_fn(features, labels, mode, params, config)`, which returns an
            EstimatorSpec. Arguments are recognised by name; only `features` is required.
        model_dir: the folder for checkpoints, summaries and exports; None creates a temporary
            folder.
        config: a tfbig.RunConfig; None for the defaults.
        params: a dict, passed to model_fn and to the input functions that have a `params`
            argument.
        warm_start_from: a tfbig.WarmStartSettings or the path of a checkpoint. It gives the
            initial values if model_dir has no checkpoint.
        strategy, devices: as for `tfbig.train_distributed`; used by all methods.

    Attributes:
        given_model_fn: the model_fn as it was given.

    Raises:
        UserError: an argument has an invalid value, or a subclass overrides a method.
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
        check_no_override(type(self))
        config = checked_config(config)
        model_dir = checked_model_dir(model_dir or None, config)
        if model_dir is None:
            model_dir = tempfile.mkdtemp(prefix="tfbig-")
            log.warning("Using temporary folder as model directory: %s", model_dir)
        self.given_model_fn, self._model_dir = model_fn, model_dir
        self._config = config.replace(model_dir=model_dir)
        self._params = {} if params is None else copy.deepcopy(params)
        self._warm_start = checked_warm_start(warm_start_from)
        self.strategy, self.devices = strategy, devices

    @property
    def model_dir(self) -> str:
        """The folder of the checkpoints, summaries and exports."""
        return self._model_dir

    @property
    def config(self) -> Any:
        """The RunConfig of all methods, with the model_dir of this Estimator."""
        return self._config

    @property
    def params(self) -> Any:
        """A copy of the dict for model_fn and input functions; {} if none was given."""
        return copy.deepcopy(self._params)

    def params_for(self, input_fn: Callable, mode: str) -> Any:
        """Returns the params for an input function in a mode: a ModeKeys value."""
        return self.params

    @property
    def model_fn(self) -> Callable:
        """The model_fn as a function of (features, labels, mode, config): params are bound."""

        def model_fn(features: Any, labels: Any, mode: str, config: Any) -> EstimatorSpec:
            batch = BatchPart(features, labels, None, None, tf.constant(1.0))
            return call_model_fn(self.given_model_fn, batch, mode, self.params, config)

        return model_fn

    @property
    def warm_start(self) -> Any:
        """The WarmStartSettings, or None if training starts from the model's own initializers."""
        return self._warm_start

    def train(
        self,
        input_fn: Callable,
        hooks: Sequence[Any] | None = None,
        steps: int | None = None,
        max_steps: int | None = None,
        saving_listeners: Sequence[Any] | None = None,
    ) -> "Estimator":
        """Trains from the newest checkpoint, if there is one, and writes a checkpoint at the end.

        Args:
            input_fn: returns a tf.data.Dataset or a tfbig.data.Source of features or (features,
                labels), batched to the global batch size. It may take mode, params and config.
            hooks: hooks of `tfbig.estimator` or tf.compat.v1.train, your own SessionRunHooks, and
                keras.callbacks.
            steps: the number of steps of this call.
            max_steps: the global step at which training ends; nothing is trained if the
                checkpoint has reached it. Without steps and max_steps, training ends at the end
                of the data.
            saving_listeners: CheckpointSaverListeners, called for each checkpoint.

        Returns:
            The Estimator itself.

        Raises:
            UserError: an argument has an invalid value.
            SystemExit, KeyboardInterrupt: the process received SIGTERM or SIGINT; a checkpoint
                was written first.
        """
        if steps is not None and max_steps is not None:
            raise UserError(
                f"train(steps={steps}, max_steps={max_steps}): Can not provide both steps and "
                "max_steps; give one of them."
            )
        check_callable("input_fn", input_fn)
        check_steps("steps", steps)
        check_steps("max_steps", max_steps)
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
        """Evaluates a checkpoint on one pass over the data of input_fn.

        Args:
            input_fn: as for `train`.
            steps: the number of batches; None for all.
            hooks: LoggingTensorHook, FinalOpsHook and your own SessionRunHooks.
            checkpoint_path: None for the newest checkpoint, or the model's initial values if
                there is none.
            name: the results are written to model_dir/eval_<name>; None for model_dir/eval.

        Returns:
            "loss", the metrics of the spec, and "global_step".
        """
        check_callable("input_fn", input_fn)
        check_steps("steps", steps)
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
        """Predicts for every example of input_fn, in the order of the data.

        Args:
            input_fn: as for `train`; labels are ignored.
            predict_keys: the names of the predictions to return; None for all.
            hooks: as for `evaluate`.
            checkpoint_path: None for the newest checkpoint, or the model's initial values if
                there is none.
            yield_single_examples: False to yield whole batches.

        Yields:
            For each example, a dict of NumPy arrays (or the structure of the spec's predictions);
            without end if the Dataset repeats.

        Raises:
            UserError: checkpoint_path has no checkpoint, or the data is unsuitable.
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
            export_dir_base: the parent folder. The export is a new folder in it, named by the
                time in seconds.
            serving_input_receiver_fn: returns a ServingInputReceiver.
            assets_extra: a dict from paths inside assets.extra to the files to copy there.
            as_text: must be False; SavedModels are written in binary form.
            checkpoint_path: None for the newest checkpoint.

        Returns:
            The path of the new folder.

        Raises:
            UserError: an argument has an invalid value, there is no checkpoint, or the export
                failed.
        """
        if as_text:
            raise UserError(
                "export_saved_model(as_text=True): SavedModels are written in binary form only; "
                "leave as_text out."
            )
        return exporting.export(
            self,
            os.fspath(export_dir_base),
            serving_input_receiver_fn,
            assets_extra=assets_extra,
            checkpoint=checkpoint_path,
        )

    def export_savedmodel(
        self,
        export_dir_base: str | os.PathLike,
        serving_input_receiver_fn: Callable,
        assets_extra: dict[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike | None = None,
    ) -> str:
        """The older name of `export_saved_model`."""
        return self.export_saved_model(
            export_dir_base, serving_input_receiver_fn, assets_extra, as_text, checkpoint_path
        )

    def experimental_export_all_saved_models(
        self,
        export_dir_base: str | os.PathLike,
        input_receiver_fn_map: dict[str, Callable],
        assets_extra: dict[str, str] | None = None,
        as_text: bool = False,
        checkpoint_path: str | os.PathLike | None = None,
    ) -> str:
        """Exports the model for serving, as `export_saved_model` does.

        Args:
            export_dir_base: as for `export_saved_model`.
            input_receiver_fn_map: {ModeKeys.PREDICT: serving_input_receiver_fn}.
            assets_extra, as_text, checkpoint_path: as for `export_saved_model`.

        Raises:
            UserError: the map has another mode, or as for `export_saved_model`.
        """
        if not isinstance(input_receiver_fn_map, dict) or not input_receiver_fn_map:
            raise UserError(
                f"experimental_export_all_saved_models(input_receiver_fn_map="
                f"{input_receiver_fn_map!r}): expected "
                "{tfbig.ModeKeys.PREDICT: serving_input_receiver_fn}."
            )
        others = sorted(set(input_receiver_fn_map) - {ModeKeys.PREDICT})
        if others:
            raise UserError(
                f"experimental_export_all_saved_models: the modes {others} are not exported: a "
                "SavedModel of tfbig is for serving. Leave them out, and train from a checkpoint "
                "with warm_start_from=."
            )
        return self.export_saved_model(
            export_dir_base,
            input_receiver_fn_map[ModeKeys.PREDICT],
            assets_extra,
            as_text,
            checkpoint_path,
        )

    def get_variable_names(self) -> list[str]:
        """Returns the names of all variables in the newest checkpoint.

        Raises:
            UserError: there is no checkpoint.
        """
        return sorted(NamedCheckpoint(self.checkpoint()).shapes)

    def get_variable_value(self, name: str) -> np.ndarray:
        """Returns the value of a variable in the newest checkpoint.

        Args:
            name: the name of the variable, with or without ":0".

        Raises:
            UserError: there is no checkpoint, or it has no variable of that name.
        """
        return NamedCheckpoint(self.checkpoint()).value(name.removesuffix(":0"))

    def latest_checkpoint(self) -> str | None:
        """Returns the newest checkpoint, for `tf.train.load_checkpoint`; None if there is none."""
        return latest(self._model_dir)

    def eval_dir(self, name: str | None = None) -> str:
        """Returns the folder of the results of `evaluate(name=name)`."""
        return eval_dir(self._model_dir, name)

    def checkpoint(self, path: str | os.PathLike | None = None) -> str:
        """Returns the checkpoint at a path, or the newest one.

        Raises:
            UserError: there is no checkpoint.
        """
        path = self.latest_checkpoint() if path is None else os.fspath(path)
        if path is None:
            raise UserError(
                f"Could not find trained model in model_dir: {self._model_dir}. Call train first, "
                "or pass checkpoint_path."
            )
        return NamedCheckpoint(path).path


def check_no_override(kind: type) -> None:
    """Refuses a user's subclass that overrides a public method of Estimator.

    The methods call each other's parts, so an override would change some of them only.

    Raises:
        UserError: the message names the overridden methods.
    """
    public = {name for name in vars(Estimator) if not name.startswith("_")}
    own = [
        c for c in kind.__mro__ if issubclass(c, Estimator) and c.__module__.startswith("tfbig.")
    ]
    found = sorted(
        name
        for c in kind.__mro__
        if issubclass(c, Estimator) and c not in own
        for name in public & set(vars(c))
    )
    if found:
        raise UserError(
            "Subclasses of Estimator cannot override members of Estimator. "
            f"{kind.__name__} does override {', '.join(found)}; give the method another name, and "
            "call the Estimator's from it."
        )
