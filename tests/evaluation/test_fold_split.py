"""Which fold tests which example, and which arguments are refused before a process starts."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.training.small_runs import arrays, build
from tfbig.data import cleaning
from tfbig.data.splitting.split import Split
from tfbig.errors import UserError
from tfbig.evaluation import cross_validation
from tfbig.evaluation.fold_split import fold_numbers

LABELS = np.array([0] * 60 + [1] * 30)
SITES = np.arange(90) // 5
SOURCE = tfbig.data.ArraySource(({"x": np.zeros(90), "site": SITES}, LABELS)).batch(8)


def classes(batch):
    return batch[1]


def sites(batch):
    return batch[0]["site"]


@pytest.mark.parametrize("stratify", [True, LABELS, LABELS.tolist(), classes, lambda b: b[1]])
def test_every_fold_has_its_share_of_each_class(stratify):
    fold = fold_numbers(SOURCE, 3, stratify=stratify, groups=None, seed=0)
    for number in (1, 2, 3):
        assert np.bincount(LABELS[fold == number]).tolist() == [20, 10]


@pytest.mark.parametrize("groups", ["site", SITES, sites])
@pytest.mark.parametrize("stratify", [None, True])
def test_no_group_is_in_two_folds(groups, stratify):
    fold = fold_numbers(SOURCE, 3, stratify=stratify, groups=groups, seed=0)
    assert np.bincount(fold).tolist() == [0, 30, 30, 30]
    assert all(len(set(fold[site == SITES])) == 1 for site in range(18))


def test_without_labels_and_groups_the_seed_decides_the_folds():
    one, same, other = (
        fold_numbers(SOURCE, 4, stratify=None, groups=None, seed=seed) for seed in (0, 0, 1)
    )
    assert sorted(np.bincount(one)[1:]) == [22, 22, 23, 23]
    assert one.tolist() == same.tolist() != other.tolist()


def test_skipped_bad_records_are_in_no_fold(tmp_path):
    path = str(tmp_path / "rows.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for row in range(40):
            writer.write(b"torn" if row == 7 else f"{row % 2}".encode())

    def parse(records):
        return {"x": np.zeros(len(records))}, np.array([int(r) for r in records.tolist()])

    source = tfbig.data.TFRecordSource(path, parse, on_bad_record="skip")
    groups = np.arange(40) // 4
    fold = fold_numbers(source, 2, stratify=True, groups=groups, seed=0)
    assert np.flatnonzero(fold == 0).tolist() == [7]
    assert all(len(set(fold[groups == g]) - {0}) == 1 for g in range(10))


def test_a_fold_without_an_example_is_refused(monkeypatch):
    empty = [Split(train=np.arange(90)), Split(train=[], test=np.arange(90))]
    monkeypatch.setattr("tfbig.data.splitting.folds", lambda *arguments, **keywords: empty)
    with pytest.raises(
        UserError, match="fold 1 of 2 has no example to test on: there are too few groups"
    ):
        fold_numbers(SOURCE, 2, stratify=True, groups=SITES, seed=0)


def test_errors_for_several_labels_say_how_to_select_one():
    x, kind = np.zeros([8, 1]), np.arange(8) % 2
    for labels, message in (
        (
            {"kind": kind, "size": x},
            r"outputs \('kind', 'size'\); .*lambda batch: batch\[1\]\['kind'",
        ),
        ((kind, x), r"several outputs \(2\); .*lambda batch: batch\[1\]\[0\]\.$"),
        (np.eye(2)[kind], r"the shape \[8, 2\]; .*batch\[1\]\.argmax\(axis=-1\)"),
    ):
        source = tfbig.data.ArraySource((x, labels))
        with pytest.raises(UserError, match=message):
            fold_numbers(source, 2, stratify=True, groups=None, seed=0)
    source = tfbig.data.ArraySource((x, {"kind": kind, "size": x}))
    fold = fold_numbers(source, 2, stratify=lambda batch: batch[1]["kind"], groups=None, seed=0)
    assert all(kind[fold == number].sum() == 2 for number in (1, 2))


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """Calls cross_validate, which must fail before it starts a process, and returns the error."""

    def started(*arguments, **keywords):
        raise AssertionError("a process was started")

    monkeypatch.setattr(cross_validation, "run_jobs", started)

    def call(**changes) -> str:
        keywords = dict(model_fn=build, source=small(), model_dir=tmp_path / "run") | changes
        with pytest.raises(UserError) as raised:
            tfbig.cross_validate(**keywords)
        assert not (tmp_path / "run").exists()
        return str(raised.value)

    return call


def small() -> tfbig.data.Source:
    return tfbig.data.ArraySource(arrays()).batch(16)


def dataset():
    return tf.data.Dataset.range(10)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(folds=1), "k=1; expected an integer of 2 or more"),
        (dict(folds=153), "152 examples cannot fill 153 folds; use fewer folds"),
        (dict(stratify=LABELS), "stratify is of shape [90], but the source has 152 examples"),
        (dict(stratify=np.arange(152) // 2), "class 0 has 2"),
        (dict(stratify=0.5), "stratify is 0.5, but the source has 152 examples"),
        (dict(stratify=lambda batch: [1]), "the function stratify returned an array of shape [1]"),
        (dict(groups=np.arange(152) % 4), "4 groups cannot fill 5 folds; use fewer folds"),
        (
            dict(groups="patient"),
            "groups='patient': there is no such column; the features are not a dict",
        ),
        (dict(groups=True), "groups=True: expected an array, the name of a column or a function"),
        (dict(eval_input_fn=small), "takes no eval_input_fn: each fold is tested on its own part"),
        (dict(max_step=5), "no argument 'max_step'; those for training are strategy, devices, max"),
        (dict(max_steps=5, epochs=1), "max_steps=5 and epochs=1 were both given"),
        (dict(parallel_folds=0), "parallel_folds=0: expected an integer of 1 or more"),
        (dict(config={}), "config={}: expected a tfbig.RunConfig"),
        (dict(metrics=["f1_makro"]), "no metric 'f1_makro' for 'classes'; did you mean 'f1_macro'"),
        (dict(metrics="f1"), "metrics='f1'): expected names, as [\"f1_macro\"]"),
        (dict(source=dataset), "source returned a tf.data.Dataset, whose examples have no numbers"),
        (dict(source=arrays()), "source is a tuple; give a tfbig.data.Source"),
        (
            dict(source=tfbig.data.ArraySource(arrays())),
            "the source has no batch size; write source.batch(64)",
        ),
        (dict(model_fn=lambda: build()), "model_fn cannot be sent to the processes of the folds"),
        (dict(model_fn=functools.partial(build, rate=dataset().take)), "model_fn cannot be sent"),
        (
            dict(source=small().map(lambda batch: batch)),
            "pass a function that returns this source",
        ),
        (
            dict(callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: None)]),
            "callbacks cannot be sent to the processes of the folds",
        ),
        (dict(model_fn=None), "model_fn=None; expected a function that builds a compiled"),
        (dict(model_fn=build()), "model_fn is a keras.Model, whose weights may know the test"),
        (dict(recipe=tfbig.Recipe()), "recipe goes with pretrained=, which is not given"),
        (dict(pretrained=build()), "pretrained is a Sequential; expected a path"),
        (dict(prepare=3), "prepare=3): expected a function (train, test)"),
        (dict(strategy=tf.distribute.get_strategy()), 'pass its name, such as strategy="mirrored"'),
    ],
)
def test_invalid_arguments_are_refused_before_a_process_starts(changes, says, refused):
    assert says in refused(**changes)


def test_a_source_that_was_cleaned_before_the_split_is_refused(refused):
    whole = cleaning.Cleaning([cleaning.FillMissing()]).fit(small())
    assert "those of the test parts too; give the raw source, and clean in prepare" in refused(
        source=whole
    )


def test_a_call_in_the_process_of_a_fold_raises_with_the_remedy(refused, monkeypatch):
    process = types.SimpleNamespace(name="tfbig fold 1")
    monkeypatch.setattr("multiprocessing.current_process", lambda: process)
    assert 'move the call below if __name__ == "__main__":' in refused()


@pytest.mark.slow
def test_functions_of_an_interactive_session_are_refused(tmp_path):
    code = (
        "import numpy, tfbig\n"
        "def build(): pass\n"
        "tfbig.cross_validate(build, tfbig.data.ArraySource(numpy.ones([9, 1])).batch(2))"
    )
    with pytest.raises(
        harness.ProcessFailed, match="model_fn is defined in an interactive session"
    ):
        harness.run_forked("-c", code, folder=tmp_path)
