"""BestExporter: exports when an evaluation is better than all before."""

import os
from collections.abc import Callable
from typing import Any

from tfbig.arguments import check_count
from tfbig.errors import UserError
from tfbig.estimator.eval_events import read_eval_metrics
from tfbig.estimator.exporters import _SavedModelExporter, remove_old


def loss_smaller(best_eval_result: dict, current_eval_result: dict) -> bool:
    """Whether the current evaluation's loss is below the best one's."""
    for which, result in (("best", best_eval_result), ("current", current_eval_result)):
        if "loss" not in (result or {}):
            raise UserError(
                f"BestExporter: the {which} evaluation has no loss; pass compare_fn(best_eval_"
                "result, current_eval_result)."
            )
    return best_eval_result["loss"] > current_eval_result["loss"]


class BestExporter(_SavedModelExporter):
    """Exports the model whenever an evaluation is better than every one before it.

    The best so far is that of all evaluations in the events of model_dir, so a run that is
    started again goes on with it.

    Example:

        tfbig.BestExporter(
            serving_input_receiver_fn=receiver_fn,
            compare_fn=lambda best_eval_result, current_eval_result:
                current_eval_result["accuracy"] > best_eval_result["accuracy"])

    Args:
        name: of the folder in `<model_dir>/export`.
        serving_input_receiver_fn, assets_extra, as_text: as for FinalExporter.
        event_file_pattern: the events to read for the best so far, relative to model_dir, such
            as "eval_test/*.tfevents.*"; None: of the folder `eval`.
        compare_fn: takes best_eval_result and current_eval_result, returns whether the current
            one is better; None: its loss is smaller.
        exports_to_keep: how many stay; None: all.

    Raises:
        UserError: something given cannot be used.
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
        self._looked = False

    def export(
        self,
        estimator: Any,
        export_path: str,
        checkpoint_path: str,
        eval_result: dict,
        is_the_final_export: bool,
    ) -> str | None:
        del is_the_final_export
        if not self._looked:
            self._best = self._best_before(estimator.model_dir, eval_result)
            self._looked = True
        if self._best is not None and not self._is_better(self._best, eval_result):
            return None
        self._best = eval_result
        path = self._export(estimator, export_path, checkpoint_path)
        remove_old(export_path, self._keep)
        return path

    def _is_better(self, best: dict, current: dict) -> bool:
        return self._compare(best_eval_result=best, current_eval_result=current)

    def _best_before(self, model_dir: str, current: dict) -> dict | None:
        """The best of the evaluations in the events, without the present one."""
        best = None
        steps = read_eval_metrics(os.path.join(model_dir, self._folder))
        for step, result in steps.items():
            if step == current.get("global_step"):
                continue
            if best is None or self._is_better(best, result):
                best = result
        return best
