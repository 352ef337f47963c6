"""Exporters: what train_and_evaluate exports after its evaluations."""

import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.arguments import check_count
from tfbig.errors import UserError
from tfbig.estimator.eval_events import read_eval_metrics


class Exporter:
    """Base class of exporters, which run after each evaluation of `train_and_evaluate`.

    A subclass defines `name` and `export`.
    """

    @property
    def name(self) -> str:
        """The name of the folder `<model_dir>/export/<name>`."""
        raise NotImplementedError

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: dict,
        is_the_final_export: bool,
    ) -> str | None:
        """Exports the model, or decides not to.

        Args:
            estimator: the tfbig.Estimator.
            export_path: the parent folder of the exports.
            checkpoint_path: the checkpoint that was evaluated.
            eval_result: the result of the evaluation.
            is_the_final_export: whether training has ended.

        Returns:
            The path of the export, or None if nothing was exported.
        """
        raise NotImplementedError


class _SavedModelExporter(Exporter):
    """Exports with `Estimator.export_saved_model`.

    Args:
        name: the name of the folder.
        serving_input_receiver_fn, assets_extra: as for that method.
        as_text: must be False.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable,
        assets_extra: dict | None,
        as_text: bool,
    ):
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{type(self).__name__}(name={name!r}): expected the name of a folder.")
        if not callable(serving_input_receiver_fn):
            raise UserError(
                f"{type(self).__name__}(serving_input_receiver_fn={serving_input_receiver_fn!r}): "
                "expected a function; tfbig.estimator.export."
                "build_raw_serving_input_receiver_fn(…) makes one."
            )
        if as_text:
            raise UserError(
                f"{type(self).__name__}(as_text=True): SavedModels are written in binary form "
                "only; leave as_text out."
            )
        self._name, self._receiver_fn = name, serving_input_receiver_fn
        self._assets_extra = assets_extra

    @property
    def name(self) -> str:
        return self._name

    def _export(self, estimator: Any, export_path: str, checkpoint_path: str) -> str:
        return estimator.export_saved_model(
            export_path,
            self._receiver_fn,
            assets_extra=self._assets_extra,
            checkpoint_path=checkpoint_path,
        )


class FinalExporter(_SavedModelExporter):
    """Exports once, when training has ended.

    Example: `tfbig.FinalExporter("final", serving_input_receiver_fn)`

    Args:
        name: the name of the folder in `<model_dir>/export`.
        serving_input_receiver_fn, assets_extra: as for `Estimator.export_saved_model`.
        as_text: must be False; SavedModels are written in binary form.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable,
        assets_extra: dict | None = None,
        as_text: bool = False,
    ):
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)

    @override
    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: dict,
        is_the_final_export: bool,
    ) -> str | None:
        del eval_result
        if not is_the_final_export:
            return None
        return self._export(estimator, export_path, checkpoint_path)


class LatestExporter(_SavedModelExporter):
    """Exports after each evaluation and keeps the newest exports.

    Example: `tfbig.LatestExporter("latest", serving_input_receiver_fn, exports_to_keep=2)`

    Args:
        name, serving_input_receiver_fn, assets_extra, as_text: as for FinalExporter.
        exports_to_keep: the number of exports to keep; None for all.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable,
        assets_extra: dict | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
    ):
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)
        check_count("LatestExporter.exports_to_keep", exports_to_keep)
        self._keep = exports_to_keep

    @override
    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: dict,
        is_the_final_export: bool,
    ) -> str | None:
        del eval_result, is_the_final_export
        path = self._export(estimator, export_path, checkpoint_path)
        remove_old(export_path, self._keep)
        return path


def loss_smaller(best_eval_result: dict, current_eval_result: dict) -> bool:
    """Whether the loss of the current evaluation is below the best loss."""
    for which, result in (("best", best_eval_result), ("current", current_eval_result)):
        if "loss" not in (result or {}):
            raise UserError(
                f"BestExporter: the {which} evaluation has no loss; pass compare_fn(best_eval_"
                "result, current_eval_result)."
            )
    return best_eval_result["loss"] > current_eval_result["loss"]


class BestExporter(_SavedModelExporter):
    """Exports the model whenever an evaluation is better than all before it.

    The best result so far is read from the events in model_dir, so it survives a restart.

    Example:

        tfbig.BestExporter(
            serving_input_receiver_fn=receiver_fn,
            compare_fn=lambda best_eval_result, current_eval_result:
                current_eval_result["accuracy"] > best_eval_result["accuracy"])

    Args:
        name: the name of the folder in `<model_dir>/export`.
        serving_input_receiver_fn, assets_extra, as_text: as for FinalExporter.
        event_file_pattern: the event files with the earlier evaluations, relative to model_dir,
            such as "eval_test/*.tfevents.*"; None for the folder `eval`.
        compare_fn: takes best_eval_result and current_eval_result, and returns whether the
            current one is better; None compares the losses.
        exports_to_keep: the number of exports to keep; None for all.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        name: str = "best_exporter",
        serving_input_receiver_fn: Callable | None = None,
        event_file_pattern: str | None = None,
        compare_fn: Callable[..., bool] | None = None,
        assets_extra: dict | None = None,
        as_text: bool = False,
        exports_to_keep: int | None = 5,
    ):
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)
        check_count("BestExporter.exports_to_keep", exports_to_keep)
        compare_fn = loss_smaller if compare_fn is None else compare_fn
        if not callable(compare_fn):
            raise UserError(f"BestExporter(compare_fn={compare_fn!r}): expected a function.")
        self._folder = os.path.dirname(event_file_pattern or "eval/*")
        self._compare, self._keep = compare_fn, exports_to_keep
        self._best: dict | None = None
        self._has_read_events = False

    @override
    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: dict,
        is_the_final_export: bool,
    ) -> str | None:
        del is_the_final_export
        if not self._has_read_events:
            self._best = self._best_before(estimator.model_dir, eval_result)
            self._has_read_events = True
        if self._best is not None and not self._is_better(self._best, eval_result):
            return None
        self._best = eval_result
        path = self._export(estimator, export_path, checkpoint_path)
        remove_old(export_path, self._keep)
        return path

    def _is_better(self, best: dict, current: dict) -> bool:
        return self._compare(best_eval_result=best, current_eval_result=current)

    def _best_before(self, model_dir: str, current: dict) -> dict | None:
        """Returns the best of the evaluations in the events, without the current one."""
        best = None
        steps = read_eval_metrics(os.path.join(model_dir, self._folder))
        for step, result in steps.items():
            if step == current.get("global_step"):
                continue
            if best is None or self._is_better(best, result):
                best = result
        return best


def remove_old(folder: str, keep: int | None) -> None:
    """Removes all but the newest `keep` exports, which are folders named by their time."""
    if keep is None or not os.path.isdir(folder):
        return
    times = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    for time in times[:-keep]:
        shutil.rmtree(os.path.join(folder, str(time)), ignore_errors=True)


def run_exporters(
    exporters: Any, estimator: Any, checkpoint: str, result: dict, final: bool
) -> list[str | None]:
    """Runs each exporter with its own folder, and returns their results in the same order."""
    paths = []
    for exporter in exporters:
        folder = os.path.join(estimator.model_dir, "export", exporter.name)
        tf.io.gfile.makedirs(os.path.dirname(folder))
        paths.append(
            exporter.export(
                estimator=estimator,
                export_path=folder,
                checkpoint_path=checkpoint,
                eval_result=result,
                is_the_final_export=final,
            )
        )
    return paths
