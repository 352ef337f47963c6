"""`tfbig train` as a user runs it: what it trains, what it says, how it ends."""

import os
import pathlib
import re
import signal

import pytest

DIGITS = """\
from ml_collections import ConfigDict

def get_config():
    config = ConfigDict()
    config.model_fn = "tfbig.models.mlp.build"
    config.input_fn = "tfbig.datasets.digits.input_fn"
    config.eval_input_fn = "tfbig.datasets.digits.input_fn"
    config.params = ConfigDict({"hidden_units": (32,), "data": {"batch_size": 64}})
    config.optimizer = ConfigDict({
        "name": "adam",
        "learning_rate": {"schedule": "cosine", "peak": 1e-2, "warmup_steps": 10},
    })
    config.run = ConfigDict({"tf_random_seed": 7})
    config.epochs = 4
    return config
"""

# A module of the user's own, which the command finds in the current folder.
MINE = """\
import keras
import numpy as np
import tfbig

def input_fn():
    x = np.random.RandomState(0).normal(size=(64, 3)).astype("float32")
    return tfbig.data.ArraySource((x, x.sum(1, keepdims=True))).batch(16)

def broken_input_fn():
    raise ValueError("these data\\nare broken")

def nan_input_fn():
    return input_fn().map(lambda batch: (batch[0] * np.float32("nan"), batch[1]))

def washed_input_fn():
    cleaning = tfbig.data.cleaning.Cleaning([tfbig.data.cleaning.FillMissing()])
    return cleaning.fit(input_fn())

def scaled_input_fn():
    return washed_input_fn().map(lambda batch: (batch[0] / 255, batch[1]))

def build():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

def model_fn(features, labels, mode):
    error = keras.layers.Dense(1)(features) - labels
    return tfbig.EstimatorSpec(
        mode, loss=keras.ops.mean(error**2, axis=-1), optimizer=keras.optimizers.Adam(0.1))
"""

OWN = """\
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(
        {"model_fn": "mine.model_fn", "input_fn": "mine.input_fn", "epochs": 1, "run": {}})
"""


def write_files(folder: pathlib.Path) -> None:
    for name, text in (("digits.py", DIGITS), ("mine.py", MINE), ("own.py", OWN)):
        (folder / name).write_text(text)


def value_of(lines: list[str], label: str) -> float:
    found = [line for line in lines if line.startswith(f"{label} ")]
    assert len(found) == 1, lines
    return float(found[0].split()[-1])


@pytest.fixture(autouse=True)
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command_in):
    """A run of the digits that went to its end; the command in its folder, and the outcome."""
    folder = tmp_path_factory.mktemp("trained")
    write_files(folder)
    command = command_in(folder)
    return command, command("train", "--config=digits.py", "--model_dir=run", cold=True)


@pytest.mark.slow
def test_a_run_reports_the_held_out_metrics_and_where_things_are(trained):
    command, result = trained
    assert result.code == 0, result
    assert value_of(result.out, "held-out accuracy") > 0.85
    assert 0 < value_of(result.out, "held-out loss") < 0.7
    assert "step 92/92  loss" in "\n".join(result.out)
    assert "checkpoints     run/checkpoints" in result.out
    assert "summaries       run/summaries (tensorboard --logdir run)" in result.out
    assert "exported model  run/export" in result.out
    run = command.folder / "run"
    assert (run / "checkpoints" / "ckpt-00000092").is_dir()
    assert list((run / "summaries").glob("events.out.tfevents.*"))
    assert (run / "export" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_log_lines_are_plain_on_stderr_and_have_a_time_in_the_log_file(trained):
    command, result = trained
    assert "training on one device (CPU:0) from step 0" in result.err
    kept = (command.folder / "run/logs/train.log").read_text().splitlines()
    pattern = r"\d{4}-\d\d-\d\d \S+ INFO training on one device \(CPU:0\) from step 0"
    assert any(re.fullmatch(pattern, line) for line in kept)


@pytest.mark.slow
def test_a_run_that_has_reached_its_end_says_so_and_succeeds(trained):
    command, first = trained
    again = command("train", "--config=digits.py", "--model_dir=run")
    assert again.code == 0
    assert any(line.startswith("nothing to train: step 92 is reached") for line in again.err)
    label = "held-out accuracy"
    assert value_of(again.out, label) == value_of(first.out, label)


@pytest.mark.slow
def test_a_flag_overrides_the_config_under_mirrored_too(command):
    result = command(
        "train",
        "--config=digits.py",
        "--strategy=mirrored",
        "--devices=2",
        "--max_steps=6",
        "--config.optimizer.learning_rate=0",
        "--config.run.eval_every_steps=3",
    )
    assert result.code == 0, result
    assert any("mirrored over 2 replicas" in line for line in result.err)
    assert any(line.startswith("step 6/6 ") for line in result.out)
    evaluations = [
        line.split(": ")[1] for line in result.out if line.startswith("evaluation at step")
    ]
    assert len(evaluations) == 2
    assert evaluations[0] == evaluations[1]  # nothing is learned at the rate 0
    assert result.out[-1] == "nothing was saved without --model_dir=FOLDER"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_saves_and_goes_on_when_it_is_started_again(command, number, code):
    words = ("train", "--config=digits.py", "--model_dir=run", "--config.run.eval_every_steps=500")
    cold = number == signal.SIGTERM
    process = command.start(*words, "--max_steps=10000000", cold=cold)
    command.wait_for(process, "step 100/")
    os.kill(process.pid, number)
    stopped = command.finish(process)
    assert stopped.code == code, stopped
    said = re.fullmatch(
        rf"stopped by {number.name} at step (\d+); its state is in run", stopped.out[-1]
    )
    step = int(said[1])
    assert (command.folder / "run/checkpoints" / f"ckpt-{step:08d}").is_dir()
    again = command(*words, f"--max_steps={step + 10}")
    assert again.code == 0, again
    assert f"training on one device (CPU:0) from step {step}" in again.err


def test_an_estimator_style_model_fn_trains_and_exports_nothing(command):
    result = command("train", "--config=own.py", "--model_dir=run")
    assert result.code == 0, result
    assert any(line.startswith("step 4/4  loss") for line in result.out)
    assert any(line.startswith("exported model  none") for line in result.out)


@pytest.mark.parametrize(
    ("input_fn", "takes"),
    [
        ("washed_input_fn", "raw features"),
        ("scaled_input_fn", "cleaned features: run/cleaning.json"),
    ],
)
def test_an_export_cleans_where_nothing_else_is_done_to_the_features(command, input_fn, takes):
    result = command(
        "train", "--config=own.py", "--config.model_fn=mine.build",
        f"--config.input_fn=mine.{input_fn}", "--model_dir=run",
    )  # fmt: skip
    assert result.code == 0, result
    assert any(
        line.startswith(f"exported model  run/export (accepts {takes}") for line in result.out
    )


def test_an_error_of_the_users_code_is_one_line_and_its_traceback_is_in_the_log(command):
    result = command(
        "train", "--config=own.py", "--config.input_fn=mine.broken_input_fn", "--model_dir=run"
    )
    assert result.code == 1
    assert result.err == [
        "error: ValueError: these data are broken (traceback: run/logs/train.log)"
    ]
    log = (command.folder / "run/logs/train.log").read_text()
    assert 'mine.py", line 10, in broken_input_fn' in log


def test_a_traceback_without_a_model_dir_is_in_a_temporary_file(command):
    result = command("train", "--config=own.py", "--config.input_fn=mine.broken_input_fn")
    assert result.code == 1
    assert len(result.err) == 1
    path = re.fullmatch(
        r"error: ValueError: these data are broken \(traceback: (.*)\)", result.err[0]
    )[1]
    assert "in broken_input_fn" in pathlib.Path(path).read_text()
    pathlib.Path(path).unlink()


def test_bad_data_are_one_line(command):
    result = command(
        "train", "--config=own.py", "--config.input_fn=mine.nan_input_fn", "--model_dir=run"
    )
    assert result.code == 1, result
    errors = [line for line in result.err if line.startswith("error: ")]
    assert len(errors) == 1
    assert "features" in errors[0]
    assert "NaN" in errors[0]
    assert not (command.folder / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices=0"], "devices=0: expected 1 or more"),
        (["--max_steps=5", "--epochs=2"], "max_steps=5 and epochs=2 were both given"),
        (["--config.optimizer.name=adamm"], "optimizer.name='adamm': expected one of adadelta,"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing_behind(command, words, message):
    result = command("train", "--config=digits.py", "--model_dir=run", *words)
    assert result.code == 1
    assert len(result.err) == 1, result
    assert result.err[0].startswith(f"error: {message}")
    assert result.out == []
    assert not (command.folder / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--config=FILE is missing"),
        (["--config"], "--config needs a file"),
        (["--config=digits.py", "--modeldir=x"], "Unknown command line flag 'modeldir'. Did you"),
        (["--config=digits.py", "--max_steps=many"], "flag --max_steps=many: invalid literal"),
        (["--config=digits.py", "more"], "expected flags, received 'more'"),
        (["--config=digits.py", "--config.params.data.batch_size=x"], "flag --config.params.data."),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(command, words, message):
    result = command("train", *words)
    assert result.code == 2
    assert len(result.err) == 1
    assert result.err[0].startswith(f"error: {message}")
    assert result.err[0].endswith("; tfbig train --help lists the flags")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=no.py"], "error: --config=no.py: there is no such file."),
        (["--config=digits.py", "--config.foo=1"], "error: --config.foo: there is no such field; "),
    ],
)
def test_a_wrong_config_is_one_line_and_exit_1(command, words, message):
    result = command("train", *words)
    assert result.code == 1
    assert len(result.err) == 1
    assert result.err[0].startswith(message)


def test_help_lists_the_flags(command):
    result = command("train", "--help")
    assert result.code == 0
    assert result.out[0] == "usage: tfbig train --config=FILE [flags]"
    listed = {line.split()[0] for line in result.out if line.startswith("  --")}
    assert {
        "--config", "--strategy", "--devices", "--model_dir", "--max_steps", "--epochs",
        "--cluster_timeout",
    } == listed  # fmt: skip
    assert max(map(len, result.out)) <= 100


def test_helpfull_lists_the_fields_of_the_config_with_their_values(command):
    result = command("train", "--config=digits.py", "--helpfull")
    assert result.code == 0
    assert "  --config.optimizer.learning_rate.peak=0.01" in result.out
    assert "  --config.params.data.batch_size=64" in result.out
