"""cross_validate: trains and tests a model on each fold of the data."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.api.training import fine_tune, train_distributed
from tfbig.arguments import call_input_fn, check_limits, checked_config, checked_model_dir
from tfbig.clusters.find import find_cluster
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.evaluation.cross_validation import CrossValidation, run_folds
from tfbig.metrics.tasks import TASKS, metrics_for
from tfbig.programs.model_fn.call import is_estimator_style
from tfbig.programs.model_fn.spec import ModeKeys
from tfbig.run_config import RunConfig

_OURS = ("model_fn", "input_fn", "eval_input_fn", "model_dir")


def cross_validate(
    model_fn: Callable | None,
    source: Source | Callable[..., Source],
    *,
    folds: int = 5,
    stratify: Any = None,
    groups: Any = None,
    model_dir: str | os.PathLike | None = None,
    parallel_folds: int = 1,
    prepare: Callable[[Source, Source], tuple[Source, Source]] | None = None,
    metrics: Sequence[str] = (),
    pretrained: str | os.PathLike | None = None,
    recipe: Any = None,
    base_model_fn: Callable | None = None,
    **train_keywords: Any,
) -> CrossValidation:
    """Trains a model once per fold of the data, and tests it on the examples of that fold.

    Each fold starts with new weights and runs in its own process. Functions are passed to the
    process by name, so they must be defined at the top level of a module or of the script (no
    lambdas). A script must call cross_validate below `if __name__ == "__main__":`, because each
    process imports the script.

    A call with the same model_dir resumes: finished folds are not trained again, and an
    interrupted one continues from its checkpoint. SIGINT and SIGTERM stop all processes, which
    save first. If a fold fails, the others are stopped.

    Example:

        def prepare(train, test):  # fits the statistics on the training examples only
            cleaning = Cleaning([FillMissing(), ClipOutliers()])
            return cleaning.fit(train), cleaning.apply(test)

        if __name__ == "__main__":
            result = tfbig.cross_validate(
                build_model, source.batch(64), folds=5, stratify=True, prepare=prepare,
                epochs=20, model_dir="runs/cv", config=tfbig.RunConfig(tf_random_seed=1))
            result.show()

    Args:
        model_fn: builds the model, as for train_distributed; with `pretrained`, as for
            fine_tune, where it may be None.
        source: a batched Source, which is copied to each process, or a function that returns one,
            which each process calls. A function is better for data in files and for large
            arrays. It may take params and config.
        folds: the number of folds, at least 2.
        stratify: gives all folds the same share of every class. True uses the labels. Otherwise
            pass the name of a column, a function that returns the class of each example of a
            batch, or an array of shape [len(source)].
        groups: keeps the examples of a group in one fold. Pass a column, which the model does not
            receive, a function or an array, as for stratify. Both arguments may be combined.
        model_dir: the folder of the folds. Fold k has the model_dir fold_<k>, with fold.json (its
            metrics) and fold.log; metrics.json has the means and intervals. None saves nothing.
        parallel_folds: the number of folds that run at the same time; they share the threads of
            TensorFlow's operations evenly. The results do not depend on it, except for the
            rounding of operations that sum in another order with fewer threads (convolutions,
            wide layers without XLA). With TF_NUM_INTRAOP_THREADS set, all bits are equal.
        prepare: `prepare(train, test)` is called in each fold with its two Sources and returns
            those to use. It is the place for steps that are fitted to data, such as a Cleaning.
        metrics: names of hold-out metrics ("f1_macro", "roc_auc", "rmse", …; see
            `tfbig.evaluation.metrics.metrics_for`) in addition to the compiled ones.
        pretrained, recipe, base_model_fn: as for fine_tune, but pretrained must be a path.
        **train_keywords: further arguments of train_distributed: strategy, devices, max_steps,
            epochs, params, config, callbacks. Each fold has its own seed, derived from
            config.tf_random_seed and its number; the split depends on that seed only (None
            counts as 0). Unless config.eval_every_steps is set, a fold is tested only at its
            end, because choosing anything by its test examples overestimates the model.

    Returns:
        A CrossValidation with folds, mean, interval, table() and show().

    Raises:
        UserError: an argument has an invalid value; where possible, before a process starts.
        FoldFailed: a fold failed; the message names it and its log.
    """
    if find_cluster() is not None:
        raise UserError(
            "cross_validate trains its folds in processes of one machine, and this is a task of a "
            "cluster; run it on one machine, without TF_CONFIG and the like."
        )
    config = checked_config(train_keywords.pop("config", None))
    folder = checked_model_dir(model_dir, config)
    config = config.replace(model_dir=None)  # each fold has its own
    check_limits(train_keywords.get("max_steps"), train_keywords.get("epochs"))
    _check_functions(model_fn, pretrained, {"recipe": recipe, "base_model_fn": base_model_fn})
    _check_keywords(train_keywords)
    if prepare is not None and not callable(prepare):
        raise UserError(f"cross_validate(prepare={prepare!r}): expected a function (train, test).")
    tuning = {"pretrained": pretrained, "recipe": recipe, "base_model_fn": base_model_fn}
    return run_folds(
        train_distributed if pretrained is None else fine_tune,
        _read_source,
        {
            "model_fn": model_fn,
            "source": source,
            "prepare": prepare,
            "config": config,
            **({} if pretrained is None else tuning),
            **train_keywords,
        },
        folds=folds,
        stratify=stratify,
        groups=groups,
        metrics=_checked_metrics(metrics, model_fn if pretrained is None else None),
        parallel_folds=_checked_parallel(parallel_folds),
        model_dir=folder,
    )


def _read_source(source: Any, params: Any, config: RunConfig) -> Source:
    """Returns the Source, calling the function if necessary, and checks it."""
    if not isinstance(source, Source):
        if not callable(source):
            raise UserError(
                f"cross_validate: source is a {type(source).__name__}; give a tfbig.data.Source, "
                "such as tfbig.data.ArraySource((features, labels)).batch(64), or a function that "
                "returns one."
            )
        source = call_input_fn(source, ModeKeys.TRAIN, params, config, "source")
    if isinstance(source, tf.data.Dataset):
        raise UserError(
            "cross_validate: source returned a tf.data.Dataset, whose examples have no numbers to "
            "split by; return a tfbig.data.Source."
        )
    if source.cleaning is not None:
        raise UserError(
            "cross_validate: the source was cleaned with what all of its examples taught, those of "
            "the test parts too; give the raw source, and clean in prepare: def prepare(train, "
            "test): return cleaning.fit(train), cleaning.apply(test)."
        )
    if source.mixture is not None:
        raise UserError(
            "cross_validate: a mixture has no examples of its own to split; give one source, and "
            "mix in prepare."
        )
    if source.batch_size is None:
        raise UserError("cross_validate: the source has no batch size; write source.batch(64).")
    return source


def _check_functions(model_fn: Any, pretrained: Any, tuning: dict[str, Any]) -> None:
    if isinstance(model_fn, keras.Model):
        raise UserError(
            "cross_validate: model_fn is a keras.Model, whose weights may know the test parts; "
            "give a function that builds it, so that each fold has fresh ones."
        )
    if pretrained is None:
        if not callable(model_fn):
            raise UserError(
                f"cross_validate: model_fn={model_fn!r}; expected a function that builds a "
                "compiled keras.Model, or pretrained= the path of a saved one."
            )
        given = [name for name, value in tuning.items() if value is not None]
        if given:
            raise UserError(
                f"cross_validate: {given[0]} goes with pretrained=, which is not given."
            )
    elif not isinstance(pretrained, str | os.PathLike):
        raise UserError(
            f"cross_validate: pretrained is a {type(pretrained).__name__}; expected a path that "
            'each fold can load: write model.save("pretrained.keras") first.'
        )
    elif model_fn is not None and tuning["recipe"] is not None:
        raise UserError("cross_validate: model_fn and recipe were both given; give one of them.")


def _check_keywords(keywords: dict[str, Any]) -> None:
    if "eval_input_fn" in keywords:
        raise UserError(
            "cross_validate takes no eval_input_fn: each fold is tested on its own part of source."
        )
    known = [name for name in inspect.signature(train_distributed).parameters if name not in _OURS]
    unknown = [name for name in keywords if name not in known]
    if unknown:
        raise UserError(
            f"cross_validate has no argument {unknown[0]!r}; those for training are "
            f"{', '.join(known)}."
        )
    if not isinstance(keywords.get("strategy", "auto"), str):
        raise UserError(
            f"cross_validate: strategy is a {type(keywords['strategy']).__name__}, which cannot be "
            'sent to the processes of the folds; pass its name, such as strategy="mirrored", and '
            "devices=."
        )


def _checked_metrics(names: Any, model_fn: Any) -> list[str]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(f'cross_validate(metrics={names!r}): expected names, as ["f1_macro"].')
    for name in names:
        errors = []
        for task in TASKS:
            try:
                metrics_for(task, [name])
            except UserError as error:
                errors.append(error)
        if len(errors) == len(TASKS):
            raise errors[1]  # that of classes, the longest list
    if names and model_fn is not None and is_estimator_style(model_fn):
        raise UserError(
            "cross_validate: metrics= needs a Keras model; an estimator-style model_fn has its own "
            "in EstimatorSpec(eval_metric_ops=…)."
        )
    return list(names)


def _checked_parallel(parallel: Any) -> int:
    if isinstance(parallel, bool) or not isinstance(parallel, int) or parallel < 1:
        raise UserError(f"parallel_folds={parallel!r}: expected an integer of 1 or more.")
    return parallel
