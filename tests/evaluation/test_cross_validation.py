"""Cross-validation in real processes: its results, its folders, and its errors."""

import functools
import json
import logging
import math
import multiprocessing
import os
import pathlib

import keras
import numpy as np
import pytest

import tfbig
from tests.training.small_runs import BATCH, arrays, build, config
from tfbig.data import cleaning, splitting
from tfbig.data.splitting.keys import hash_seed
from tfbig.errors import FoldFailed

SETTINGS = dict(folds=2, stratify=True, epochs=2, config=config())


def fails_in_fold_2_at_first(train, test, *, until):
    if multiprocessing.current_process().name == "tfbig fold 2" and not os.path.exists(until):
        raise RuntimeError("out of luck")
    return train, test


def source() -> tfbig.data.Source:
    return tfbig.data.ArraySource(arrays()).batch(BATCH)


def started(caplog) -> list[str]:
    return [message[:15] for message in caplog.messages if " starts" in message]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("folds")


@pytest.fixture(scope="module")
def validate(folder):
    prepare = functools.partial(fails_in_fold_2_at_first, until=str(folder / "luck"))
    return functools.partial(
        tfbig.cross_validate,
        build,
        source,
        prepare=prepare,
        model_dir=folder / "run",
        **SETTINGS,
    )


@pytest.fixture(scope="module")
def failure(validate):
    with pytest.raises(FoldFailed) as raised:
        validate()
    return str(raised.value)


@pytest.fixture(scope="module")
def finished(validate, failure, folder):
    (folder / "luck").touch()
    before = (folder / "run/fold_1/fold.json").stat().st_mtime_ns
    result = validate()
    assert (folder / "run/fold_1/fold.json").stat().st_mtime_ns == before
    return result


@pytest.mark.slow
def test_the_error_names_a_failed_fold_and_its_log(failure, folder):
    log = folder / "run/fold_2/fold.log"
    assert failure == f"fold 2 of 2: RuntimeError: out of luck (log: {log})"
    assert "Traceback" in log.read_text()
    assert "out of luck" in log.read_text()


@pytest.mark.slow
def test_each_fold_is_a_training_run_on_the_other_folds_with_its_own_seed(finished):
    """The results equal those of train_distributed on the same examples with the same seed."""
    _features, labels = arrays()
    split = splitting.folds(len(labels), 2, labels=labels, seed=3)[1]
    result = tfbig.train_distributed(
        build,
        lambda: source().select(split.train),
        eval_input_fn=lambda: source().select(split.test),
        epochs=2,
        config=config(tf_random_seed=hash_seed("fold 2", 3) % 2**31),
    )
    assert finished.folds[1] == result.metrics
    assert finished.folds[0] != finished.folds[1]


@pytest.mark.slow
def test_finished_folds_are_not_trained_again(finished, validate, caplog):
    with caplog.at_level(logging.INFO, "tfbig"):
        again = validate()
    assert started(caplog) == []
    assert again == finished
    written = json.loads(pathlib.Path(again.model_dir, "metrics.json").read_text())
    assert written["accuracy"] == again.mean["accuracy"]
    assert written["intervals"]["accuracy"]["high"] == again.interval["accuracy"].high


@pytest.mark.slow
def test_parallel_folds_give_identical_results_and_leave_no_files(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = tfbig.cross_validate(build, source, parallel_folds=2, **SETTINGS)
    assert result.folds == finished.folds
    assert result.model_dir is None
    assert list(tmp_path.glob("tfbig*")) == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(folds=3), "folds was 2 and is 3"),
        (dict(epochs=3), "epochs was 2 and is 3"),
        (dict(config=config(tf_random_seed=4)), "seed was 3 and is 4"),
        (
            dict(prepare=functools.partial(fails_in_fold_2_at_first, until="new")),
            "prepare was .*new",
        ),
        (dict(callbacks=[keras.callbacks.TerminateOnNaN()]), "callbacks was None and is .*OnNaN"),
        (dict(metrics=["log_loss"]), r"metrics was \[\] and is \['log_loss'\]"),
        (dict(stratify=None), "have other examples: stratify"),
    ],
)
@pytest.mark.slow
def test_other_arguments_are_refused_in_the_same_folder(finished, validate, changed, says):
    with pytest.raises(tfbig.errors.UserError, match=says):
        validate(**changed)


def table() -> tfbig.data.Source:
    """Rows of (a, b, patient), some without a; six rows per patient."""
    random = np.random.default_rng(0)
    patients = np.arange(120) // 6
    columns = {"a": random.normal(size=120) + patients, "b": random.normal(size=120)}
    labels = (columns["a"] > 10).astype(np.int32)
    columns["a"][::7] = np.nan
    columns = {name: column.astype(np.float32) for name, column in columns.items()}
    return tfbig.data.ArraySource(({**columns, "patient": patients}, labels)).batch(16)


def stacked(batch):
    features, labels = batch
    assert list(features) == ["a", "b"]  # the model does not see the patient
    return np.stack(list(features.values()), axis=1), labels


def cleaned(train, test):
    filling = cleaning.Cleaning([cleaning.FillMissing(strategy="mean")])
    return filling.fit(train).map(stacked), filling.apply(test).map(stacked)


@pytest.mark.slow
def test_a_saved_model_is_tuned_on_groups_with_cleaning_fitted_on_training_examples(tmp_path):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    model.save(tmp_path / "pretrained.keras")
    result = tfbig.cross_validate(
        None,
        table,
        folds=2,
        groups="patient",
        prepare=cleaned,
        metrics=["f1_macro", "confusion_matrix"],
        pretrained=tmp_path / "pretrained.keras",
        recipe=tfbig.Recipe(learning_rate=0.05),
        parallel_folds=2,
        model_dir=tmp_path / "run",
        max_steps=300,
        config=config(),
    )
    assert result.mean["accuracy"] > 0.8
    assert list(result.mean) == ["loss", "accuracy", "f1_macro"]
    for figures in result.folds:
        matrix = figures["confusion_matrix"]
        assert matrix.sum() == 60
        assert np.trace(matrix) / 60 == pytest.approx(figures["accuracy"])
    fold = np.load(tmp_path / "run/folds.npy", allow_pickle=False)
    features, _ = table().read(np.arange(120))
    for number in (1, 2):
        training = fold != number
        assert not set(features["patient"][training]) & set(features["patient"][~training])
        saved = json.loads((tmp_path / f"run/fold_{number}/cleaning.json").read_text())
        assert saved["steps"][0]["fitted"]["a"] == pytest.approx(
            np.nanmean(features["a"][training]), rel=1e-6
        )


def crossed(folds, share=0.25, **keywords):
    from tfbig.evaluation.cross_validation import CrossValidation

    return CrossValidation(folds, share, **keywords)


def test_the_interval_is_the_corrected_resampled_t_interval():
    values = [0.90, 0.94, 0.92, 0.96, 0.93]
    interval = crossed([{"accuracy": value} for value in values]).interval["accuracy"]
    half = 2.7764451 * math.sqrt((1 / 5 + 1 / 4) * np.var(values, ddof=1))  # t of 4, 0.975
    assert interval.value == pytest.approx(0.93)
    assert interval.high - interval.value == pytest.approx(half, rel=1e-6)
    assert interval.value - interval.low == pytest.approx(half, rel=1e-6)


def test_the_mean_ignores_undefined_values_and_values_that_are_not_numbers():
    folds = [
        {"loss": 1.0, "roc_auc": math.nan, "f1_per_class": {"0": 0.5}},
        {"loss": 2.0, "roc_auc": 0.75, "f1_per_class": {"0": 0.6}},
    ]
    result = crossed(folds)
    assert result.mean == {"loss": 1.5, "roc_auc": 0.75}
    assert result.interval["roc_auc"].undefined == 1
    assert math.isnan(result.interval["roc_auc"].low)


def test_the_table_has_a_line_for_each_metric():
    result = crossed([{"accuracy": 0.5}, {"accuracy": 0.75}], 1.0, preempted="SIGINT")
    title, _, head, _, row, *_ = result.table().splitlines()
    assert title == "Cross-validation: 2 folds before SIGINT"
    assert head.split()[:4] == ["metric", "mean", "low", "high"]
    assert row.split()[0::4] == ["accuracy", "0.5000"]
    assert row.split()[1] == "0.6250"
    assert row.split()[-1] == "0.7500"
