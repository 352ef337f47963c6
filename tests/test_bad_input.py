"""What cannot be trained is refused in one line, before anything is written."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.training.small_runs import arrays, config, dataset, source, train
from tfbig.errors import NotBuiltError, UserError

X, Y = arrays()


def slices(features=X, labels=Y):
    return tf.data.Dataset.from_tensor_slices((features, labels))


def given(data):
    """An input_fn."""
    return lambda: data


def refused(model_dir, kind, parts, **keywords) -> None:
    """Asserts that a run is refused in one line with these parts, and has written nothing."""
    with pytest.raises(kind) as raised:
        train(**{"max_steps": 30, **keywords, "model_dir": model_dir})
    message = str(raised.value)
    assert type(raised.value) is kind
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert not model_dir.exists()


class OwnTrainStep(keras.Sequential):
    def train_step(self, data):
        return 0.0


def compiled(kind=keras.Sequential, loss="sparse_categorical_crossentropy", **arguments):
    model = kind([keras.Input((8,)), keras.layers.Dense(3, "softmax")])
    model.compile(**{"optimizer": "adam", "loss": loss, **arguments})
    return model


ARGUMENTS = {
    "max_steps and epochs": (
        UserError,
        dict(max_steps=5, epochs=2),
        ["max_steps=5 and epochs=2 were both given", "pass one of them"],
    ),
    "max_steps=0": (UserError, dict(max_steps=0), ["max_steps=0: expected an integer of 1 or"]),
    "max_steps=2.5": (UserError, dict(max_steps=2.5), ["max_steps=2.5", "integer of 1 or more"]),
    "epochs=-1": (UserError, dict(max_steps=None, epochs=-1), ["epochs=-1", "1 or more, or None"]),
    "epochs=True": (UserError, dict(max_steps=None, epochs=True), ["epochs=True: expected an int"]),
    "devices=0": (
        UserError,
        dict(devices=0),
        ["devices=0: expected 1 or more, or devices=None"],
    ),
    "devices=True": (UserError, dict(devices=True), ["devices=True: expected a number or device"]),
    "more devices than there are": (
        UserError,
        dict(strategy="mirrored", devices=64),
        ["64 ", "devices", "Write right after the imports: tf.config.set_logical_device"],
    ),
    "a GPU that is not there": (
        UserError,
        dict(strategy="mirrored", devices=["GPU:0", "GPU:99"]),
        ["does not exist; this machine shows", "Pass devices=None"],
    ),
    "no device name": (UserError, dict(devices="gpu0"), ["'gpu0' is no device name", '"GPU:0"']),
    "a device twice": (UserError, dict(devices=["CPU:0"] * 2), ["name each device once"]),
    "two devices for one_device": (
        UserError,
        dict(devices=2),
        ['devices=2 with strategy="one_device"', 'write strategy="mirrored"'],
    ),
    "an unknown strategy": (
        UserError,
        dict(strategy="horovod"),
        ["strategy='horovod': expected one of auto, one_device, mirrored, multi_worker"],
    ),
    **{
        f"strategy={name}": (
            NotBuiltError,
            dict(strategy=name),
            [f"strategy='{name}' is not built yet; write strategy=\"auto\" or"],
        )
        for name in ("tpu",)
    },
    "workers without a cluster": (
        UserError,
        dict(strategy="multi_worker"),
        ['strategy="multi_worker", but no cluster is described: set TF_CONFIG'],
    ),
    "parameter servers without a cluster": (
        UserError,
        dict(strategy="parameter_server"),
        ['strategy="parameter_server", but no cluster is described: set TF_CONFIG', "--ps=1"],
    ),
    "a strategy that is not built": (
        NotBuiltError,
        dict(strategy=tf.distribute.experimental.CentralStorageStrategy),
        ["a CentralStorageStrategy is not built yet; pass a tf.distribute.MirroredStrategy"],
    ),
    "devices of a strategy of its own": (
        UserError,
        dict(strategy=lambda: tf.distribute.OneDeviceStrategy("CPU:0"), devices=1),
        ["devices=1 together with a OneDeviceStrategy", "leave devices out"],
    ),
    "config as a dict": (
        UserError,
        dict(config={"steps_per_loop": 3}),
        ["config={'steps_per_loop': 3}: expected a tfbig.RunConfig, such as config=tfbig."],
    ),
    "a callback's class": (
        UserError,
        dict(callbacks=[keras.callbacks.EarlyStopping]),
        ["EarlyStopping'>, which is not a keras.callbacks.Callback; pass instances"],
    ),
    "a function as a callback": (
        UserError,
        dict(callbacks=[print]),
        ["<built-in function print>, which is not a keras.callbacks.Callback"],
    ),
    "model_dir=''": (UserError, dict(model_dir=""), ["model_dir=''", "None to save nothing"]),
    "model_dir=5": (UserError, dict(model_dir=5), ["model_dir=5", "None to save nothing"]),
    "data_distribution random with a Dataset": (
        UserError,
        dict(input_fn=dataset, config=config(data_distribution="random")),
        ['data_distribution="random" needs data with random access', "tfbig.data.Source"],
    ),
    "data_distribution block with a Dataset": (
        UserError,
        dict(input_fn=dataset, config=config(data_distribution="block")),
        ['data_distribution="block" needs data with random access', "tfbig.data.Source"],
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_that_cannot_be_is_refused(case, tmp_path):
    kind, keywords, parts = ARGUMENTS[case]
    if callable(keywords.get("strategy")):
        keywords = {**keywords, "strategy": keywords["strategy"]()}
    model_dir = keywords.get("model_dir", tmp_path / "run")
    if "model_dir" in keywords:
        with pytest.raises(kind) as raised:
            train(max_steps=3, model_dir=model_dir)
        assert all(part in str(raised.value) for part in parts), raised.value
    else:
        refused(model_dir, kind, parts, **keywords)


def test_backup_and_restore_is_refused(tmp_path):
    refused(
        tmp_path / "run",
        UserError,
        [
            "BackupAndRestore, which would overwrite the state from tfbig's own checkpoints; "
            "remove it"
        ],
        callbacks=[keras.callbacks.BackupAndRestore(tmp_path / "backup")],
    )


def test_a_model_dir_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "run"
    with pytest.raises(UserError) as raised:
        train(max_steps=3, model_dir=folder)
    assert str(raised.value) == (
        f"model_dir='{folder}' cannot be written: Not a directory. Give a directory that can, or "
        "model_dir=None to save nothing."
    )
    assert (tmp_path / "file").read_text() == "mine"


def asks(batch_size):
    return source()


INPUT = {
    "no function": (dict(input_fn=X), ["input_fn=a ndarray: expected a function", "lambda: data"]),
    "a Dataset": (dict(input_fn=dataset()), ["input_fn=a ", "pass input_fn=lambda: data"]),
    "nothing": (dict(input_fn=given(None)), ["input_fn returned None; return a batched tf.data."]),
    "an array": (dict(input_fn=given(X)), ["input_fn returned a ndarray; return a batched"]),
    "a tuple": (dict(input_fn=given((X, Y))), ["input_fn returned a tuple; return a batched"]),
    "an unknown argument": (
        dict(input_fn=asks),
        ["input_fn requires an argument 'batch_size'", "mode, params, config and input_context"],
    ),
    "evaluation data that are none": (
        dict(eval_input_fn=given(None)),
        ["eval_input_fn returned None; return a batched"],
    ),
    "evaluation data as no function": (
        dict(eval_input_fn=dataset()),
        ["eval_input_fn=a ", "pass eval_input_fn=lambda: data"],
    ),
    "an unbatched Dataset": (
        dict(input_fn=lambda: slices()),
        ["component 1 has no batch dimension; use dataset.batch(64)"],
    ),
    "an unbatched Source": (
        dict(input_fn=lambda: tfbig.data.ArraySource((X, Y))),
        ["the ArraySource has no batch size; write return source.batch(64)"],
    ),
    "an empty Dataset": (
        dict(input_fn=lambda: slices(X[:0], Y[:0]).batch(16)),
        ["the Dataset is empty: it has no batch", "drop_remainder=True"],
    ),
    "a Dataset whose filter lets nothing through": (
        dict(input_fn=lambda: slices().filter(lambda x, y: y > 7).batch(16)),
        ["the Dataset is empty: it has no batch", "its filter"],
    ),
    "a Dataset that drops its only batch": (
        dict(
            input_fn=lambda: slices().filter(lambda x, y: y == 0).batch(1000, drop_remainder=True)
        ),
        ["the Dataset is empty: it has no batch", "drop_remainder=True) drops the only batch"],
    ),
    "an empty Source": (
        dict(input_fn=lambda: tfbig.data.ArraySource((X[:0], Y[:0])).batch(16)),
        ["ArraySource is empty: it has 0 examples"],
    ),
    "an infinite Dataset without a limit": (
        dict(input_fn=lambda: dataset().repeat(), max_steps=None),
        ["infinite Dataset", "neither max_steps nor epochs", "give max_steps, or leave out .rep"],
    ),
    "an infinite Dataset with epochs": (
        dict(input_fn=lambda: dataset().repeat(), max_steps=None, epochs=2),
        ["infinite Dataset", "epochs=2 would never end it"],
    ),
    "infinite evaluation data": (
        dict(eval_input_fn=lambda: dataset().repeat()),
        ["eval_input_fn returned an infinite Dataset", "leave out .repeat(), or write .take(n)"],
    ),
    "empty evaluation data": (
        dict(eval_input_fn=lambda: slices(X[:0], Y[:0]).batch(16)),
        ["eval_input_fn: the Dataset is empty: it has no batch"],
    ),
}


@pytest.mark.parametrize("case", INPUT)
def test_input_that_cannot_be_read_is_refused(case, tmp_path):
    keywords, parts = INPUT[case]
    refused(tmp_path / "run", UserError, parts, **keywords)


MODELS = {
    "no model_fn": (dict(model_fn=None), ["model_fn=None: expected a function that builds a com"]),
    "a builder that returns nothing": (
        dict(model_fn=lambda: None),
        ["model_fn returned None; return a compiled keras.Model"],
    ),
    "a builder that asks for too much": (
        dict(model_fn=lambda units, rate: compiled()),
        ["model_fn requires units, rate; a Keras builder is model_fn() or model_fn(params)"],
    ),
    "a model that is not compiled": (
        dict(model_fn=lambda: keras.Sequential([keras.layers.Dense(3)], name="mine")),
        ["the model 'mine' is not compiled; call model.compile(optimizer="],
    ),
    "a model object that is not compiled": (
        dict(model_fn=keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)], name="mine")),
        ["the model 'mine' is not compiled; call model.compile(optimizer="],
    ),
    "no loss": (
        dict(model_fn=lambda: compiled(loss=None)),
        ["nothing to minimize: compile(loss=…) was not given", "Pass a loss to compile()"],
    ),
    "a train_step that returns no names": (
        dict(model_fn=lambda: compiled(OwnTrainStep)),
        ["OwnTrainStep.train_step returned a float; return a dict of names and numbers"],
    ),
    "Keras's accumulation": (
        dict(
            model_fn=lambda: compiled(
                optimizer=keras.optimizers.Adam(gradient_accumulation_steps=4)
            )
        ),
        ["gradient_accumulation_steps=4", "write RunConfig(accumulation_steps=4)"],
    ),
    "run_eagerly": (
        dict(model_fn=lambda: compiled(run_eagerly=True)),
        ["run_eagerly=True, but tfbig's loop is traced; leave it out of compile()"],
    ),
    "one-hot labels for class numbers": (
        dict(input_fn=lambda: slices(X, np.eye(3, dtype="float32")[Y]).batch(16)),
        [
            "labels have the shape (batch, 3), but sparse_categorical_crossentropy on an output",
            "expects (batch), class numbers from 0 to 3 - 1; for one-hot labels compile with",
        ],
    ),
    "evaluation features of another shape": (
        dict(eval_input_fn=lambda: slices(X[:, :5], Y).batch(16)),
        ["eval_input_fn gives features of shape (batch, 5), but the model", "expects (batch, 8)"],
    ),
    "evaluation data without labels": (
        dict(eval_input_fn=lambda: tf.data.Dataset.from_tensor_slices(X).batch(16)),
        ["eval_input_fn gives no labels, but the model is compiled with a loss"],
    ),
    "evaluation features of another structure": (
        dict(eval_input_fn=lambda: slices({"a": X, "b": X}, Y).batch(16)),
        ["features of eval_input_fn lack '", "they have 'a', 'b', and the model's inputs are '"],
    ),
    "class names for class numbers": (
        dict(input_fn=lambda: slices(X, Y.astype("U1")).batch(16)),
        ["labels are strings; map them to numbers, say by np.searchsorted(classes, labels)"],
    ),
    "class numbers for one-hot labels": (
        dict(model_fn=lambda: compiled(loss="categorical_crossentropy")),
        ["labels have the shape (batch), but categorical_crossentropy", "expects (batch, 3)"],
    ),
    "labels of another rank": (
        dict(input_fn=lambda: slices(X, np.zeros([len(X), 4, 5])).batch(16)),
        ["labels have the shape (batch, 4, 5)", "expects (batch), class numbers"],
    ),
    "too many labels": (
        dict(input_fn=lambda: slices(X, (Y, Y)).batch(16)),
        ["input_fn gives 2 labels, but the model has 1 output(s); give one label tensor"],
    ),
    "no labels": (
        dict(input_fn=lambda: tf.data.Dataset.from_tensor_slices(X).batch(16)),
        ["input_fn gives no labels, but the model is compiled with a loss"],
    ),
    "features of another shape": (
        dict(input_fn=lambda: slices(X[:, :5], Y).batch(16)),
        ["features of shape (batch, 5)", "(batch, 8)"],
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_that_cannot_be_trained_or_does_not_fit_the_data_is_refused(case, tmp_path):
    keywords, parts = MODELS[case]
    refused(tmp_path / "run", UserError, parts, **keywords)
