"""Every file of examples/ runs as its user runs it."""

import importlib
import os
import pathlib
import re
import signal

import pytest

import tfbig
from tests import harness
from tests.training.small_runs import assert_same_variables, saved_variables

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

# The arguments, and the pattern of the last line with the number that must be reached.
RUNS = [
    ("train_digits.py", r"step 500: held-out accuracy (0\.9[5-9]\d*|1\.0*)"),
    (
        "train_digits.py --strategy=mirrored --devices=2",
        r"step 500: held-out accuracy (0\.9[5-9]\d*|1\.0*)",
    ),
    ("compiled_model_and_dataset.py", r"step 200: mean absolute error 4\d\.\d"),
    ("compiled_model_and_dataset.py --devices=4", r"step 200: mean absolute error 4\d\.\d"),
    ("estimator_model_fn.py", r"step 500: held-out accuracy (0\.9[4-9]\d*|1\.0*)"),
    ("estimator_model_fn.py --devices=2", r"step 500: held-out accuracy (0\.9[4-9]\d*|1\.0*)"),
    ("estimator_train_and_evaluate.py", r"step 400: held-out accuracy (0\.9[4-9]\d*|1\.0*)"),
    ("own_source.py", r"step 1000: accuracy (0\.9\d*|1\.0*)"),
    ("less_memory.py", r"step 60: [45]\.\d* bits per byte"),
    (
        "less_memory.py --precision=mixed_bfloat16 --accumulation_steps=4",
        r"step 60: [45]\.\d* bits per byte",
    ),
    ("image_folder.py", r"step 600: held-out accuracy (0\.9[5-9]\d*|1\.0*)"),
    ("csv_tabular.py", r"step 300: held-out accuracy (0\.9[5-9]\d*|1\.0*)"),
    ("tfrecord.py", r"step 500: held-out accuracy (0\.9[5-9]\d*|1\.0*)"),
    ("fine_tune_lora_lm.py", r"LoRA recovers (8|9|10)\d% of the gain of (0\.[5-9]|1\.)\d+ bits"),
    ("text_lm.py", r"step 200: held-out 3\.[3-9]\d* bits per byte"),
    (
        "evaluate_holdout.py",
        r"accuracy 0\.9[6-9]\d*, \+0\.0\d* against a linear model .*, p = 0\.0\d*",
    ),
    (
        "cross_validate.py --folds=2 --parallel_folds=2 --units=32 --model_dir={tmp}/folds",
        r"accuracy 0\.9[4-9]\d\d, 95 % from 0\.\d* to [01]\.\d*",
    ),
    ("fine_tune_h5.py", r"step 100: held-out accuracy (0\.9[5-9]\d*|1\.0*), from scratch 0\.\d+"),
    (
        "recommender.py --rows=500000 --model_dir={tmp}/recommender",
        r"step 464: held-out AUC 0\.7[0-4]\d\d, best possible 0\.78\d\d",
    ),
    (
        "custom_train_step.py --kind=vae --model_dir={tmp}/vae",
        r"vae: step 600: held-out loss 2[2-6]\.\d\d",
    ),
    (
        "custom_train_step.py --kind=gan --model_dir={tmp}/gan",
        r"gan: step 600: d_loss 0\.[2-6]\d*, g_loss [01]\.\d*, mean pixel of generated images "
        r"0\.[23]\d*",
    ),
    (
        "custom_train_step.py --kind=distillation --model_dir={tmp}/distillation",
        r"distillation: step 600: held-out accuracy of the student 0\.9[1-9]\d*",
    ),
    ("callbacks.py --log={tmp}/log.csv", r"stopped at step \d+; best: 0\.9[5-9]\d* at step \d+"),
]


# The quick tests run one example of each way in: a builder, a compiled model, a model_fn.
QUICK = ("train_digits.py", "compiled_model_and_dataset.py", "estimator_model_fn.py", "tfrecord.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "last_line"),
    [
        pytest.param(*run, id=run[0], marks=() if run[0] in QUICK else pytest.mark.slow)
        for run in RUNS
    ],
)
def test_the_example_ends_with_the_number_it_should_reach(command, last_line, tmp_path):
    script, *arguments = command.format(tmp=tmp_path).split()
    done = harness.run_forked(str(EXAMPLES / script), *arguments, folder=tmp_path, timeout=400)
    assert re.fullmatch(last_line, done.out.splitlines()[-1]), done.out[-500:]


@pytest.mark.slow
@pytest.mark.usefixtures("own_flags")
@pytest.mark.parametrize("kind", ["vae", "gan", "distillation"])
def test_a_custom_train_step_that_is_stopped_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("custom_train_step")

    class Stop(tfbig.callbacks.LoopCallback):
        stop_every = 1

        def on_calls(self, step, logs):
            if step == 31:
                os.kill(os.getpid(), signal.SIGTERM)

    def run(name, *callbacks):
        return tfbig.train_distributed(
            lambda: example.build(kind),
            lambda: example.source(kind, "train"),
            strategy="one_device",
            max_steps=50,
            model_dir=tmp_path / name,
            callbacks=callbacks,
            config=tfbig.RunConfig(tf_random_seed=0),
        )

    run("straight")
    assert run("stopped", Stop()).global_step == 31
    run("stopped")
    first, second = (saved_variables(tmp_path / name, 50) for name in ("straight", "stopped"))
    assert_same_variables(first, second)


def test_no_example_is_left_out():
    assert {run[0].split()[0] for run in RUNS} == {path.name for path in EXAMPLES.glob("*.py")}
