"""Keras's own callbacks act at the same steps as in `fit`, and receive the same values."""

import csv
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tfbig.errors import UserError
from tfbig.training.callbacks.runner import CallbackRunner

EPOCH = 5  # steps in one epoch over 36 examples, the last with half a batch
X = np.random.RandomState(0).rand(36, 3).astype(np.float32)
Y = X @ np.array([[1.0], [-2.0], [0.5]], np.float32) + 0.3
QUIET = tfbig.callbacks.Progress(live=False, console=type("N", (), {"print": lambda *a, **k: 0})())


def dataset(examples=36):
    return tf.data.Dataset.from_tensor_slices((X[:examples], Y[:examples])).batch(8)


def build(**optimizer):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="d")])
    optimizer = keras.optimizers.SGD(0.1, **optimizer)
    model.compile(optimizer, "mse", metrics=["mae"], jit_compile=False)
    return model


def fit(*callbacks, epochs=4, model=None):
    model = model or build()
    model.fit(dataset(), validation_data=dataset(24), epochs=epochs, verbose=0, callbacks=callbacks)
    return model


def train(*callbacks, model_fn=build, config=None, **options):
    options = {"epochs": 4} | options if "max_steps" not in options else options
    return tfbig.train_distributed(
        model_fn,
        dataset,
        eval_input_fn=lambda: dataset(24),
        strategy="one_device",
        callbacks=[QUIET, *callbacks],
        config=tfbig.RunConfig(tf_random_seed=1, jit_compile=False, **(config or {})),
        **options,
    )


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Aborts a run after a step, like a kill."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 >= self._step:
            raise Killed


def killed(make, kill, model_dir, **options):
    """Trains until a kill, with a checkpoint at every third step, and then resumes to the end."""
    config = {"save_checkpoints_steps": 3, **options.pop("config", {})}
    options = {"model_dir": model_dir, "config": config, **options}
    with pytest.raises(Killed):
        train(*make(), Kill(kill), **options)
    return train(*make(), **options)


def scalars(folder):
    """Reads all event files below a folder: {(run, tag): {step: value}}; no step occurs twice."""
    found = {}
    for path in sorted(pathlib.Path(folder).glob("*/events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag.startswith(("batch_", "epoch_", "evaluation_")):
                    of_tag = found.setdefault((path.parent.name, value.tag), {})
                    assert event.step not in of_tag, (path.parent.name, value.tag, event.step)
                    of_tag[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def assert_same_scalars(ours, fits, *, leave_out=()):
    assert ours.keys() == fits.keys()
    for key, values in fits.items():
        assert list(ours[key]) == list(values), key
        if key[1] not in leave_out:
            np.testing.assert_allclose(list(ours[key].values()), list(values.values()), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("frequency", [2, "batch"])
def test_tensorboard_with_an_update_freq_shows_what_fit_shows(frequency, tmp_path):
    def board(name):
        options = dict(update_freq=frequency, write_steps_per_second=True)
        return keras.callbacks.TensorBoard(tmp_path / name, **options)

    rates = ("batch_steps_per_second", "epoch_steps_per_second")
    fit(board("fit"))
    expected = scalars(tmp_path / "fit")
    batches = list(range(2, 21, 2)) if frequency == 2 else list(range(1, 21))
    assert list(expected["train", "batch_loss"]) == batches
    train(board("ours"))
    assert_same_scalars(scalars(tmp_path / "ours"), expected, leave_out=rates)
    if frequency == 2:  # killed after step 13, resumes from step 12
        killed(lambda: [board("killed")], 13, tmp_path / "run")
        assert_same_scalars(scalars(tmp_path / "killed"), expected, leave_out=rates)


@pytest.mark.slow
def test_model_checkpoint_saves_at_the_steps_of_fit(tmp_path):
    def saver(name, **options):
        path = tmp_path / name / "e{epoch}-b{batch}.weights.h5"
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_freq=3, **options)

    def files(name):
        return sorted(path.name for path in (tmp_path / name).iterdir())

    fit(saver("fit"))
    assert files("fit")[:3] == ["e1-b3.weights.h5", "e2-b1.weights.h5", "e2-b4.weights.h5"]
    train(saver("ours"))
    assert files("ours") == files("fit")
    model = build()
    for name in files("fit"):
        values = []
        for folder in ("fit", "ours"):
            model.load_weights(tmp_path / folder / name)
            values.append(model.get_weights())
        for ours, fits in zip(*values, strict=True):
            np.testing.assert_allclose(ours, fits, atol=1e-5)
    # Killed after step 7, it resumes from step 4, which is not a multiple of its frequency.
    config = {"save_checkpoints_steps": 4}
    killed(lambda: [saver("killed")], 7, tmp_path / "run", config=config)
    assert files("killed") == files("fit")


@pytest.mark.slow
def test_the_best_epoch_is_saved_in_a_resumed_run_too(tmp_path):
    def saver(name):
        path = tmp_path / name / "e{epoch}-{val_loss:.4f}.weights.h5"
        return keras.callbacks.ModelCheckpoint(path, save_weights_only=True, save_best_only=True)

    # The loss falls, rises, and falls again, but not below its minimum.
    def rates():
        values = [0.1, 0.1, -0.1, 0.02]
        return keras.callbacks.LearningRateScheduler(lambda epoch: values[epoch])

    fit(rates(), saver("fit"))
    killed(lambda: [rates(), saver("ours")], 17, tmp_path / "run")
    found = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("fit", "ours")]
    assert found[0] == found[1]
    assert [name[:2] for name in found[0]] == ["e1", "e2"]


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_csv_logger_in_a_resumed_run_keeps_the_rows_of_finished_epochs(tmp_path):
    def logger(name, **options):
        return keras.callbacks.CSVLogger(tmp_path / name, **options)

    fit(logger("fit.csv"))
    expected = rows(tmp_path / "fit.csv")
    # Killed in epoch 3, whose checkpoint is of step 9, in epoch 1: row 2 is written again.
    config = {"save_checkpoints_steps": 9}
    killed(lambda: [logger("killed.csv")], 17, tmp_path / "killed", config=config)
    # Finished, then extended: the rows from before belong to another run.
    (tmp_path / "longer.csv").write_bytes((tmp_path / "fit.csv").read_bytes())
    for epochs in (2, 4):
        train(logger("longer.csv", append=True), epochs=epochs, model_dir=tmp_path / "longer")
    longer = rows(tmp_path / "longer.csv")
    assert longer[:4] == expected
    for found in (rows(tmp_path / "killed.csv"), longer[4:]):
        assert [list(row) for row in found] == [list(row) for row in expected]
        for ours, fits in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                [float(v) for v in ours.values()], [float(v) for v in fits.values()], rtol=1e-4
            )
    # An independent run starts a new file.
    train(logger("killed.csv"), epochs=1)
    assert [row["epoch"] for row in rows(tmp_path / "killed.csv")] == ["0"]


class Recorder(keras.callbacks.Callback):
    """Records the arguments of its hooks."""

    def __init__(self):
        super().__init__()
        self._lines = []

    def on_train_begin(self, logs=None):
        self._lines.append(("params", {k: self.params[k] for k in ("epochs", "steps")}))

    def on_epoch_begin(self, epoch, logs=None):
        self._lines.append(("epoch_begin", epoch, logs))

    def on_train_batch_end(self, batch, logs=None):
        self._lines.append(("batch_end", batch % EPOCH, list(logs.items())))

    def on_test_batch_end(self, batch, logs=None):
        self._lines.append(("test_batch_end", batch, list(logs.items())))

    def on_test_end(self, logs=None):
        self._lines.append(("test_end", list(logs.items())))

    def on_epoch_end(self, epoch, logs=None):
        self._lines.append(("epoch_end", epoch, list(logs.items())))

    def on_train_end(self, logs=None):
        self._lines.append(("train_end", list(logs.items())))


def numbers_of(line):
    return [v for part in line if isinstance(part, list) for _, v in part]


def names_of(line):
    return [[n for n, _ in part] if isinstance(part, list) else part for part in line]


@pytest.mark.slow
def test_a_users_callback_receives_the_same_arguments_as_from_fit():
    ours, fits = Recorder(), Recorder()
    fit(fits, epochs=2)
    train(ours, epochs=2, config={"steps_per_loop": 1})
    assert [names_of(line) for line in ours._lines] == [names_of(line) for line in fits._lines]
    for our, fit_s in zip(ours._lines, fits._lines, strict=True):
        np.testing.assert_allclose(numbers_of(our), numbers_of(fit_s), rtol=1e-4)
        assert all(type(number) is float for number in numbers_of(our))
    limited = Recorder()
    train(limited, max_steps=8)
    assert limited._lines[0] == ("params", {"epochs": 1, "steps": EPOCH})


@pytest.mark.slow
@pytest.mark.parametrize("swap_on_epoch", [False, True])
def test_averages_are_swapped_as_in_fit_also_in_a_resumed_run(swap_on_epoch, tmp_path):
    def ema():
        return build(use_ema=True, ema_momentum=0.9)

    def callbacks(recorder):
        return [keras.callbacks.SwapEMAWeights(swap_on_epoch), recorder]

    fits, ours = Recorder(), Recorder()
    model = fit(*callbacks(fits), model=ema())
    result = train(*callbacks(ours), model_fn=ema)
    ends = [
        [line for line in t._lines if line[0] in ("test_end", "epoch_end")] for t in (ours, fits)
    ]
    for our, fit_s in zip(*ends, strict=True):
        np.testing.assert_allclose(numbers_of(our), numbers_of(fit_s), rtol=1e-4)
    again = killed(
        lambda: callbacks(Recorder()),
        13,
        tmp_path / "run",
        model_fn=ema,
        config={"save_checkpoints_steps": EPOCH},
    )
    for ours, fits, resumed in zip(
        result.model.get_weights(), model.get_weights(), again.model.get_weights(), strict=True
    ):
        np.testing.assert_allclose(ours, fits, atol=1e-5)
        np.testing.assert_array_equal(resumed, ours)


@pytest.mark.slow
def test_the_best_weights_are_restored_with_an_optimizer_that_keeps_averages(tmp_path):
    def ema():
        return build(use_ema=True, ema_momentum=0.9)

    def callbacks():
        values = [0.1, 0.1, -0.1, -0.1]
        return [
            keras.callbacks.LearningRateScheduler(lambda epoch: values[epoch]),
            keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        ]

    expected = fit(*callbacks(), model=ema()).get_weights()
    for _ in range(2):  # the second run finds that the first has ended
        result = train(*callbacks(), model_fn=ema, model_dir=tmp_path)
        for ours, fits in zip(result.model.get_weights(), expected, strict=True):
            np.testing.assert_allclose(ours, fits, atol=1e-5)


def test_a_progbar_logger_replaces_the_progress_line(capsys):
    tfbig.train_distributed(
        build,
        dataset,
        strategy="one_device",
        epochs=2,
        callbacks=[keras.callbacks.ProgbarLogger()],
        config=tfbig.RunConfig(tf_random_seed=1, jit_compile=False),
    )
    shown = capsys.readouterr().out
    assert "Epoch 2/2" in shown
    assert "5/5" in shown
    assert "loss: " in shown
    assert "step 10" not in shown


def test_a_profile_covers_the_requested_batches(tmp_path):
    board = keras.callbacks.TensorBoard(tmp_path, profile_batch=(3, 4), write_graph=False)
    recorder = Recorder()
    train(board, recorder, epochs=1)
    ended = [line[1] for line in recorder._lines if line[0] == "batch_end"]
    assert {1, 3} <= set(ended)  # a call starts with batch 3, and one ends with batch 4
    assert list((tmp_path / "train" / "plugins" / "profile").glob("*/*.xplane.pb"))


@pytest.mark.slow
def test_summaries_are_complete_beside_a_tensorboard_and_after_a_kill(tmp_path):
    killed(
        lambda: [keras.callbacks.TensorBoard(tmp_path / "board", update_freq=2)],
        17,
        tmp_path / "run",
        config={"save_summary_steps": 3, "save_checkpoints_steps": 4},
    )
    steps = []
    for path in sorted((tmp_path / "run" / "summaries").iterdir()):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            steps += [event.step for value in event.summary.value if value.tag == "train/loss"]
    assert steps == [3, 6, 9, 12, 15, 18, 20]


def test_swapping_averages_is_rejected_with_an_evaluator_task():
    runner = CallbackRunner([keras.callbacks.SwapEMAWeights()], build())
    with pytest.raises(UserError, match="SwapEMAWeights, which swaps the averages in before"):
        runner.check_evaluator_task()
