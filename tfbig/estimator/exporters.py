"""What is exported after the evaluations of train_and_evaluate."""

import os
import re
import shutil
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbig.arguments import check_count
from tfbig.errors import UserError


class Exporter:
    """What is done with a model after each evaluation; the base of all exporters.

    A subclass has a `name` and an `export`.
    """

    @property
    def name(self) -> str:
        """The folder's name: `<model_dir>/export/<name>`."""
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
            export_path: the folder.
            checkpoint_path: of the values that were evaluated.
            eval_result: what the evaluation has returned.
            is_the_final_export: whether training has ended.

        Returns:
            The path of what was written, or None.
        """
        raise NotImplementedError


class _SavedModelExporter(Exporter):
    """Exports by `Estimator.export_saved_model`.

    Args:
        name: of the folder.
        serving_input_receiver_fn, assets_extra: as for that method.
        as_text: refused.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable,
        assets_extra: dict | None,
        as_text: bool,
    ):
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise UserError(f"{type(self).__name__}(name={name!r}): expected a folder's name.")
        if not callable(serving_input_receiver_fn):
            raise UserError(
                f"{type(self).__name__}(serving_input_receiver_fn={serving_input_receiver_fn!r}): "
                "expected a function; tfbig.estimator.export."
                "build_raw_serving_input_receiver_fn(…) makes one."
            )
        if as_text:
            raise UserError(
                f"{type(self).__name__}(as_text=True): SavedModels are written in binary form "
                "alone; leave as_text out."
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
        name: of the folder in `<model_dir>/export`.
        serving_input_receiver_fn, assets_extra: as for `Estimator.export_saved_model`.
        as_text: False; SavedModels are written in binary form.
    """

    def __init__(
        self,
        name: str,
        serving_input_receiver_fn: Callable,
        assets_extra: dict | None = None,
        as_text: bool = False,
    ):
        super().__init__(name, serving_input_receiver_fn, assets_extra, as_text)

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
        exports_to_keep: how many stay; None: all.
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


def remove_old(folder: str, keep: int | None) -> None:
    """Removes all but the newest exports, which are folders named by their time."""
    if keep is None or not os.path.isdir(folder):
        return
    times = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    for time in times[:-keep]:
        shutil.rmtree(os.path.join(folder, str(time)), ignore_errors=True)


def run_exporters(
    exporters: Any, estimator: Any, checkpoint: str, result: dict, final: bool
) -> list[str | None]:
    """Has each exporter decide, in its own folder; returns what they return."""
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
