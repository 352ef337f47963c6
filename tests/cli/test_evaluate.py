"""`tfbig evaluate` as a user runs it: its output, its files and its errors."""

import json

import pytest

from tests.cli.test_train import DIGITS, MINE, OWN, value_of


def write_files(folder) -> None:
    for name, text in (("digits.py", DIGITS), ("mine.py", MINE), ("own.py", OWN)):
        (folder / name).write_text(text)


@pytest.fixture(autouse=True)
def files(tmp_path):
    write_files(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command_in):
    """A short run of the digits: the command in its folder, and what training said."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_files(folder)
    command = command_in(folder)
    result = command("train", "--config=digits.py", "--model_dir=run")
    assert result.code == 0, result
    return command, result


@pytest.mark.slow
def test_a_run_has_the_metrics_of_the_end_of_training_and_a_report(trained):
    command, training = trained
    result = command("evaluate", "--model=run", "--config=digits.py", "--intervals=20")
    assert result.code == 0, result
    assert result.err == []
    assert result.out[0] == "run on tfbig.datasets.digits.input_fn"
    assert result.out[2].split() == ["metric", "value", "low", "high"]
    assert result.out[-1] == "metrics.json and plots are in run"
    run = command.folder / "run"
    written = json.loads((run / "metrics.json").read_text())
    for name in ("loss", "accuracy"):
        assert written[name] == pytest.approx(value_of(training.out, f"held-out {name}"), abs=1e-4)
    row = next(line.split() for line in result.out if line.startswith("accuracy "))
    told = [f"{written['intervals']['accuracy'][end]:.4f}" for end in ("value", "low", "high")]
    assert row[1:] == told
    names = ["confusion_matrix", "learning_curves", "reliability", "roc"]
    assert sorted(path.stem for path in run.glob("*.png")) == names


@pytest.mark.slow
def test_the_exported_model_has_the_same_metrics_on_two_devices(trained):
    command, training = trained
    words = ["evaluate", "--model=run/export", "--config=digits.py"]
    result = command(*words, "--strategy=mirrored", "--devices=2")
    assert result.code == 0, result
    accuracy = value_of(training.out, "held-out accuracy")
    assert value_of(result.out, "accuracy") == pytest.approx(accuracy, abs=1e-4)
    assert result.out[-1] == "nothing was saved without --model_dir=FOLDER"
    result = command(*words, "--steps=1", "--model_dir=report")
    assert result.out[-1] == "metrics.json and plots are in report"
    matrix = json.loads((command.folder / "report/metrics.json").read_text())["confusion_matrix"]
    assert sum(map(sum, matrix)) == 64  # one batch


@pytest.mark.slow
def test_the_exported_model_of_a_fine_tuned_run_is_evaluated(trained):
    command, training = trained
    tuned = DIGITS.replace("    return", '    config.pretrained = "base.keras"\n    return')
    (command.folder / "tuned.py").write_text(tuned)
    result = command("evaluate", "--model=run", "--config=tuned.py", "--model_dir=tuned")
    assert result.code == 0, result
    written = json.loads((command.folder / "tuned/metrics.json").read_text())
    accuracy = value_of(training.out, "held-out accuracy")
    assert written["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    assert "loss" not in written  # a SavedModel is not compiled; the run's checkpoint would be
    (command.folder / "unfinished/checkpoints").mkdir(parents=True)
    result = command("evaluate", "--model=unfinished", "--config=tuned.py")
    assert (result.code, len(result.err)) == (1, 1)
    assert "there is no unfinished/export; run tfbig finetune to its end" in result.err[0]


def test_help_names_the_model(command):
    result = command("evaluate", "--help")
    assert result.code == 0
    assert result.out[0] == "usage: tfbig evaluate --model=PATH --config=FILE [flags]"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "--model=PATH is missing; tfbig evaluate --help lists the flags"),
        (["--model=none"], 1, "--model=none: there is no such file, folder or checkpoint."),
        (["--model=mine.py"], 1, "evaluate: mine.py is "),
    ],
)
def test_errors_are_one_line(command, words, code, message):
    result = command("evaluate", "--config=digits.py", *words)
    assert result.code == code
    assert len(result.err) == 1
    assert result.err[0].startswith("error: ")
    assert message in result.err[0]


def test_a_config_without_held_out_data_or_with_an_estimators_model_is_refused(command):
    result = command("evaluate", "--model=mine.py", "--config=own.py")
    assert (result.code, len(result.err)) == (1, 1)
    assert "the config has no eval_input_fn; write config.eval_input_fn =" in result.err[0]
    text = OWN.replace('"epochs"', '"eval_input_fn": "mine.input_fn", "epochs"')
    (command.folder / "own.py").write_text(text)
    result = command("evaluate", "--model=mine.py", "--config=own.py")
    assert "config.model_fn is estimator-style" in result.err[0]
