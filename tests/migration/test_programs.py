"""Whole programs for tf.estimator run after `tfbig migrate --write` and after its advice.

programs/record_losses.py has recorded what two of them computed on TF 2.15.
"""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.migration.follow import followed
from tests.migration.programs import record_losses
from tfbig.cli.migrate import main
from tfbig.migration.migrate import migrate
from tfbig.migration.source import SourceFile

PROGRAMS = pathlib.Path(__file__).parent / "programs"
# The number of lines that a person replaces.
BY_HAND = {"wide_deep": 0, "images": 3, "tagger": 1}


def return_dataset(text: str) -> str:
    """Does what the advice on iterators says: the changes of elements become a Dataset.map."""
    return re.sub(
        r"    iterator = (\w+)\.make_one_shot_iterator\(\)\n"
        r"    (\w+, \w+) = iterator\.get_next\(\)\n    return (.*)\n",
        r"    return \1.map(lambda \2: (\3))\n",
        text,
    )


# What a person does by advice that `followed` does not know.
ADVICE = {"return the Dataset itself from input_fn, without iterator": return_dataset}


def migrated(name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a program to a folder, migrates it, and follows the advice; returns its path."""
    path = folder / f"{name}.py"
    path.write_bytes((PROGRAMS / f"{name}.py.old").read_bytes())
    main(["tfbig", "migrate", "--write", str(path)])
    text = mechanical = path.read_text()
    for found in by_hand(text):
        for beginning, edit in ADVICE.items():
            text = edit(text) if found.startswith(beginning) else text
    text, _ = followed(text)
    assert by_hand(text) == []
    replaced = set(mechanical.splitlines()) - set(text.splitlines())
    assert len(replaced) == BY_HAND[name], replaced
    path.write_text(text)
    return path


def by_hand(text: str) -> list[str]:
    """The advice for the lines that a person has to change."""
    return [found.instead for found in migrate(SourceFile("program.py", text.encode())).by_hand]


@pytest.mark.parametrize("name", BY_HAND)
def test_migrating_and_following_the_advice_leaves_nothing_to_do(name, tmp_path):
    after = migrate(SourceFile.read(str(migrated(name, tmp_path))))
    assert (after.mechanical, after.by_hand) == ([], [])
    assert "contrib" not in after.text


def run(path: pathlib.Path, *words: str) -> tuple[list[str], str]:
    """Runs a program; returns the lines that it prints, and its log."""
    done = harness.run_forked(path.name, *words, folder=path.parent, timeout=300)
    return done.out.splitlines(), done.err


METRIC = re.compile(r"[a-z_/]+: [\d.]+$")


def results(lines: list[str]) -> dict[str, float]:
    """The results of evaluate() that a program prints."""
    if line := [each for each in lines if each.startswith("results ")]:
        return dict(eval(line[0].removeprefix("results ")))
    return {k: float(v) for k, v in (x.split(": ") for x in lines if METRIC.match(x))}


def served(folder: pathlib.Path, signature: str = "serving_default"):
    """The newest export in a folder, and its signature as a function."""
    loaded = tf.saved_model.load(str(max(folder.iterdir())))
    return loaded, loaded.signatures[signature]


def example(**features) -> bytes:
    """A serialized tf.train.Example of strings, floats and integers."""
    kinds = {
        bytes: lambda v: tf.train.Feature(bytes_list=tf.train.BytesList(value=v)),
        float: lambda v: tf.train.Feature(float_list=tf.train.FloatList(value=v)),
        int: lambda v: tf.train.Feature(int64_list=tf.train.Int64List(value=v)),
    }
    made = {key: kinds[type(values[0])](values) for key, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


@pytest.mark.slow
def test_wide_and_deep_trains_resumes_and_exports_what_it_predicts(tmp_path):
    path = migrated("wide_deep", tmp_path)
    words = ("--data_dir", "data", "--model_dir", "model", "--train_steps")
    first = results(run(path, *words, "100")[0])
    lines, _ = run(path, *words, "200")
    second = results(lines)
    assert (first["global_step"], second["global_step"]) == (100, 200)
    assert second["average_loss"] < first["average_loss"] < np.log(2)
    assert second["loss"] == pytest.approx(40 * second["average_loss"], rel=1e-4)
    assert second["accuracy"] > 0.74
    assert second["accuracy_baseline"] == pytest.approx(0.615, abs=1e-3)
    exports = {name: len(list((tmp_path / "model/export" / name).iterdir())) for name in EXPORTERS}
    assert exports == {"best": 2, "final": 2}
    loaded, predict = served(tmp_path / "model/export/final", "predict")
    assert set(loaded.signatures) == {"serving_default", "classification", "regression", "predict"}
    printed = [line.split()[1:] for line in lines if line.startswith("prediction: ")]
    found = predict(examples=tf.constant(census_examples(tmp_path / "data/adult.test", 20)))
    assert found["classes"].numpy().ravel().tolist() == [k.encode() for k, _ in printed]
    expected = [float(value) for _, value in printed]
    np.testing.assert_allclose(found["probabilities"].numpy()[:, 1], expected, atol=2e-6)


EXPORTERS = ("best", "final")


def census_examples(path: pathlib.Path, count: int) -> list[bytes]:
    with open(path) as file:
        return [
            example(
                age=[float(age)], hours_per_week=[float(hours)], workclass=[work.encode()],
                education=[education.encode()], occupation=[job.encode()],
            )
            for _, (age, work, education, job, hours, _) in zip(
                range(count), csv.reader(file), strict=False
            )
        ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "accuracy"), [("wide", 0.73), ("deep", 0.66)])
def test_the_wide_and_the_deep_model_alone_learn(kind, accuracy, tmp_path):
    path = migrated("wide_deep", tmp_path)
    lines, _ = run(path, "--data_dir", "data", "--model_dir", "model", "--model_type", kind)
    found = results(lines)
    assert (found["global_step"], found["accuracy"] > accuracy) == (300, True), found
    assert len([line for line in lines if line.startswith("prediction: ")]) == 20


@pytest.mark.slow
@pytest.mark.usefixtures("own_flags")
def test_the_image_model_trains_resumes_summarizes_and_exports_what_it_predicts(tmp_path):
    path = migrated("images", tmp_path)
    words = ("--model_dir", "model", "--train_steps", "150")
    lines, log = run(path, *words)
    first, (more, more_log) = results(lines), run(path, *words)
    second = results(more)
    assert (first["global_step"], second["global_step"]) == (150, 300)
    assert (second["accuracy"] > 0.92, second["top3"] > 0.98) == (True, True), second
    assert second["loss"] < first["loss"]
    logged = re.findall(r"loss = ([\d.]+), rate = ([\d.]+)", log + more_log)
    losses, rates = np.array(logged, float).T
    assert losses[-1] < losses[0] / 4
    assert rates == pytest.approx([0.05, 0.05, 0.035, 0.035, 0.0245, 0.0245], abs=1e-7)
    norms = re.findall(r"step (\d+) gradient_norm (\S+)", "\n".join(lines + more))
    assert [int(step) for step, _ in norms] == [49, 99, 149, 199, 249, 299]
    assert all(0 < float(norm) < 20 for _, norm in norms)
    tags = summaries(tmp_path / "model/summaries")
    assert {"train_accuracy", "input/image/0", "block1/activations"} <= tags
    assert summaries(tmp_path / "model/rates") == {"learning_rate"}
    program = record_losses.load(path)
    _, classify = served(tmp_path / "model/export")
    found = classify(image=tf.constant(program.load("test")[0]))["probabilities"]
    expected = np.load(tmp_path / "model/predictions.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5)


def summaries(folder: pathlib.Path) -> set[str]:
    """The tags of all summaries in the event files of a folder."""
    return {
        value.tag
        for path in folder.glob("events.out.tfevents.*")
        for record in tf.data.TFRecordDataset(str(path))
        for value in tf.compat.v1.Event.FromString(record.numpy()).summary.value
    }


@pytest.mark.slow
def test_the_tagger_trains_resumes_and_exports_what_it_predicts(tmp_path):
    path = migrated("tagger", tmp_path)
    words = ("--data_dir", "data", "--model_dir", "model", "--train_steps", "100")
    first, second = (results(run(path, *words)[0]) for _ in range(2))
    assert (first["global_step"], second["global_step"]) == (100, 200)
    assert second["loss"] < first["loss"] < 5
    assert second["accuracy"] > 0.86, (first, second)
    sentences = []
    for record in tf.data.TFRecordDataset(str(tmp_path / "data/test.tfrecord")):
        found = tf.train.Example.FromString(record.numpy()).features.feature
        sentences.append(list(found["words"].int64_list.value))
    _, predict = served(tmp_path / "model/export")
    found = predict(examples=tf.constant([example(words=words) for words in sentences]))
    tags = [
        [*row[:n]] for row, n in zip(*(found[k].numpy() for k in ("tags", "length")), strict=True)
    ]
    written = (tmp_path / "model/tags.txt").read_text().splitlines()
    assert [list(map(int, line.split())) for line in written] == tags
    assert [len(row) for row in tags] == list(map(len, sentences))


class Losses(tfbig.callbacks.LoopCallback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_log(self, step, logs):
        self.values.append(float(logs["loss"]))


def first_steps(path: str, name: str, strategy: str, devices: int) -> dict:
    """Trains a migrated program from the recorded initial values, as on TF 2.15."""
    path = pathlib.Path(path)
    folder, losses, program = path.parent, Losses(), record_losses.load(path)
    recorded = json.loads((PROGRAMS / f"{name}.json").read_text())
    train, test = record_losses.input_fns(name, program, folder)
    estimator = tfbig.Estimator(
        program.model_fn,
        str(folder / "first_steps"),
        config=tfbig.RunConfig(log_step_count_steps=1, jit_compile=False),
        params=record_losses.params(name, folder),
        warm_start_from=record_losses.initial_values(recorded["variables"], folder),
        strategy=strategy,
        devices=devices,
    )
    estimator.train(train, steps=record_losses.STEPS, hooks=[losses])
    evaluation = {key: float(value) for key, value in estimator.evaluate(test).items()}
    return {"losses": losses.values, "evaluation": evaluation}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy", "devices"),
    # On two devices batch_normalization would see halves of a batch, as in TensorFlow 1.
    [("images", "one_device", 1), ("tagger", "one_device", 1), ("tagger", "mirrored", 2)],
)
def test_the_first_losses_are_those_of_tf_estimator(name, strategy, devices, tmp_path, in_process):
    path = migrated(name, tmp_path)
    found = in_process(first_steps, str(path), name, strategy, devices)
    recorded = json.loads((PROGRAMS / f"{name}.json").read_text())
    np.testing.assert_allclose(found["losses"], recorded["losses"], rtol=1e-4)
    assert found["evaluation"] == pytest.approx(recorded["evaluation"], rel=1e-4)
