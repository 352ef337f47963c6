"""cross_validate."""

import inspect
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfbig.api.training import fine_tune, train_distributed
from tfbig.arguments import call_input_fn, check_limits, checked_config, checked_model_dir
from tfbig.data.source import Source
from tfbig.errors import UserError
from tfbig.evaluation.cross_validation import CrossValidation, run_folds
from tfbig.metrics.tasks import TASKS, metrics_for
from tfbig.placement.clusters.find import find_cluster
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
    """Trains a model once for each fold of the data, and tests it on that fold.

    Each fold has fresh weights and a process of its own. Functions are sent to it by their names:
    they are defined at the top level of a module or of the script (no lambdas), and a script calls
    cross_validate below `if __name__ == "__main__":`, for each process reads the script too.

    A call with the same model_dir goes on: folds that have ended are not trained again, and one
    that was stopped resumes from its checkpoint. SIGINT and SIGTERM stop all processes, which
    save first; a fold that fails stops the others.

    Example:

        def prepare(train, test):  # statistics of the training part, as for a single split
            cleaning = Cleaning([FillMissing(), ClipOutliers()])
            return cleaning.fit(train), cleaning.apply(test)

        if __name__ == "__main__":
            result = tfbig.cross_validate(
                build_model, source.batch(64), folds=5, stratify=True, prepare=prepare,
                epochs=20, model_dir="runs/cv", config=tfbig.RunConfig(tf_random_seed=1))
            result.show()

    Args:
        model_fn: builds the model, as for train_distributed, or with `pretrained` as for
            fine_tune; then it may be None.
        source: a batched Source, which is copied to each process, or a function that returns one,
            which each process calls; better for data in files and for large arrays. It may ask
            for params and config.
        folds: how many, 2 or more.
        stratify: gives all folds equal shares of every class. True: the labels; the name of a
            column; a function of a batch that returns a class for each example; or an array of
            shape [len(source)].
        groups: keeps the examples of a group in one fold: a column, which the model is not given,
            a function or an array, as above. Both together are possible.
        model_dir: fold k is in its folder fold_<k>, a model_dir of its own with fold.json (its
            figures) and fold.log; metrics.json has the means and intervals. None keeps nothing.
        parallel_folds: how many folds run at the same time; the threads of TensorFlow's operations
            are shared evenly. The figures do not depend on it, beyond the rounding of operations
            that add up in another order with fewer threads (convolutions, wide layers without
            XLA): with TF_NUM_INTRAOP_THREADS set, all bits are equal.
        prepare: `prepare(train, test)`, called in each fold with its two parts, returns those
            that are used: for all that learns from data, as a Cleaning does.
        metrics: names of hold-out metrics of the task ("f1_macro", "roc_auc", "rmse", …; see
            `tfbig.evaluation.metrics.metrics_for`) besides those that the model is compiled with.
        pretrained, recipe, base_model_fn: as for fine_tune, but pretrained is a path.
        **train_keywords: all others of train_distributed, with the same meaning: strategy,
            devices, max_steps, epochs, params, config, callbacks. Each fold has a seed of its own
            that is made of config.tf_random_seed and its number; the split too depends on that
            seed alone (None: as 0). Unless config.eval_every_steps is set, a fold is tested at
            its end only: to choose anything by its test part flatters the model.

    Returns:
        A CrossValidation: folds, mean, interval, table(), show().

    Raises:
        UserError: something given cannot be used; before any process is started where that can be
            seen so early.
        FoldFailed: a fold has ended in an error; the message names it and its log.
    """
    if find_cluster() is not None:
        raise UserError(
            "cross_validate trains its folds in processes of one machine, and this is a task of a "
            "cluster; run it on one machine, without TF_CONFIG and the like."
        )
    config = checked_config(train_keywords.pop("config", None))
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
        model_dir=checked_model_dir(model_dir),
    )


def _read_source(source: Any, params: Any, config: RunConfig) -> Source:
    """The Source that was given, or that the function returns; batched, and not cleaned."""
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
