"""An export succeeds only if another process computes the model's outputs with it."""

import os
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tests.estimator import iris
from tests.programs.preprocessing_models import FEATURES, build, outputs
from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.serving import checker, export_check
from tfbig.serving.arrays import read_arrays, write_arrays
from tfbig.serving.checker import CHECKER, Call, Checker, check_saved_model
from tfbig.serving.samples import find_sample, values_of_graph


@pytest.fixture
def answers(monkeypatch):
    """Records the calls of each check."""
    seen = []

    def check(folder, calls, half=False):
        seen.append(calls)
        return check_saved_model(folder, calls, half)

    monkeypatch.setattr(export_check, "check_saved_model", check)
    return seen


def dense(seed=0) -> keras.Model:
    start = keras.initializers.GlorotUniform(seed)
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, kernel_initializer=start)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", FEATURES)
def test_each_kind_of_preprocessing_layer_is_called_in_another_process(kind, tmp_path, answers):
    model = build(kind)
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export"))
    features = FEATURES[kind]
    features = features.tolist() if features.dtype == object else features
    np.testing.assert_allclose(loaded.serve(tf.constant(features)), outputs(model, kind), 1e-6)
    ((endpoint, signature),) = answers
    assert endpoint.signature is None
    assert signature.signature == "serving_default"
    assert not endpoint.random
    assert np.isfinite(endpoint.outputs[0]).all()
    if kind == "adapted StringLookup":  # known words and an unknown one
        assert set(endpoint.inputs[0].ravel()) == {"Ulm", "Graz", "Bonn"}


def emptied(folder):
    """Empties the file of the lookup table."""
    for root, _, files in os.walk(os.path.join(folder, "assets")):
        for name in files:
            open(os.path.join(root, name), "w").close()


def without_variables(folder):
    shutil.rmtree(os.path.join(folder, "variables"))


def without_assets(folder):
    shutil.rmtree(os.path.join(folder, "assets"))


def of_another_model(folder):
    shutil.rmtree(folder)
    dense(seed=1).export(folder, verbose=False)


def of_another_shape(folder):
    shutil.rmtree(folder)
    keras.Sequential([keras.Input((5,)), layers.Dense(3)]).export(folder, verbose=False)


def words_of_file(folder) -> keras.Model:
    (folder / "words.txt").write_text("a\nb\n")

    class Model(keras.Model):  # it cannot be rebuilt, so it is saved with its file
        def __init__(self):
            super().__init__()
            self.lookup = layers.StringLookup(vocabulary=str(folder / "words.txt"))

        def call(self, inputs):
            return self.lookup(inputs)

        def get_config(self):
            raise NotImplementedError

    model = Model()
    model(tf.constant([["a"]]))
    return model


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (without_variables, "variables"),
        (of_another_model, "returns another output '0' than the model: 9 of 9 values differ, by"),
        (of_another_shape, "(?s)loads it: "),
        (without_assets, "words.txt"),
        (emptied, "(?s)loads it: "),
    ],
)
def test_a_broken_export_is_an_error_and_keeps_the_earlier_one(
    break_it, message, tmp_path, monkeypatch
):
    target = tmp_path / "here" / "export"
    model, arguments = dense(), {}
    if break_it in (without_assets, emptied):
        model, arguments = words_of_file(tmp_path), {"example": [["a"], ["b"], ["?"]]}
    tfbig.export(dense(), target)
    before = (target / "saved_model.pb").read_bytes()
    export = keras.Model.export

    def broken(self, path, *given, **named):
        export(self, path, *given, **named)
        monkeypatch.undo()  # of_another_model exports too
        break_it(path)

    monkeypatch.setattr(keras.Model, "export", broken)
    with pytest.raises(UserError, match=message) as raised:
        tfbig.export(model, target, **arguments)
    text = str(raised.value)
    assert text.startswith(f"export to {str(target)!r}: the SavedModel does not compute ")
    assert text.endswith(". It was deleted.")
    assert "\n" not in text
    assert os.listdir(tmp_path / "here") == ["export"]
    assert (target / "saved_model.pb").read_bytes() == before
    tfbig.export(dense(), target)  # the process still answers


def test_a_py_function_in_a_model_is_detected(tmp_path):
    class Python(layers.Layer):
        def call(self, inputs):
            return tf.ensure_shape(tf.py_function(lambda a: a * 2, [inputs], tf.float32), [None, 4])

    model = keras.Sequential([keras.Input((4,)), Python()])
    with pytest.raises(UserError, match="loads it: .*(pyfunc|callback|token)"):
        tfbig.export(model, tmp_path / "export")
    assert os.listdir(tmp_path) == []


class Random(layers.Layer):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs + keras.random.normal((4,), seed=self.seeds)


def test_random_outputs_and_half_precision_are_compared_as_far_as_possible(tmp_path, answers):
    model = keras.Sequential([keras.Input((4,)), Random()])
    before = model.layers[0].seeds.state.numpy()
    tfbig.export(model, tmp_path / "random")
    assert answers[0][0].random
    np.testing.assert_array_equal(model.layers[0].seeds.state, before)
    half = keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype="bfloat16")])
    tfbig.export(half, tmp_path / "half")
    assert answers[1][0].outputs[0].dtype.name == "bfloat16"


class Strict(keras.Model):
    """Accepts only integers in a range that is not known from outside."""

    def call(self, inputs):
        with tf.control_dependencies(
            [
                tf.debugging.assert_greater(
                    tf.cast(inputs["id"], tf.int64), tf.constant(99, tf.int64)
                )
            ]
        ):
            return {"twice": inputs["id"] * 2}

    def get_config(self):
        raise NotImplementedError


def test_an_example_is_used_if_no_batch_can_be_generated(tmp_path, caplog, answers):
    model = Strict()
    batch = {"id": np.array([[100], [200]])}
    model(batch)
    path = tfbig.export(model, tmp_path / "with", example=batch)
    served = tf.saved_model.load(path)
    assert served.serve({"id": tf.constant([[150]], tf.int64)})["twice"].numpy() == 300
    assert answers[0][0].outputs[0].tolist() == [[200], [400]]
    assert not caplog.records
    with pytest.raises(UserError, match="^export: the model does not accept example="):
        tfbig.export(model, tmp_path / "bad", example={"id": np.array([[1]])})
    functional = keras.Model(*[keras.Input((1,), name="id")] * 2)
    with pytest.raises(UserError, match="pass a batch of float32"):
        tfbig.export(functional, tmp_path / "bad", example={"other": [[1.0]], "id": [[1.0]]})
    tfbig.export(model, tmp_path / "without")
    assert "does not call it, because the model accepts no generated batch" in caplog.text
    assert caplog.text.count("pass example=") == 1
    assert answers[-1] == []
    assert sorted(os.listdir(tmp_path)) == ["with", "without"]


def test_the_export_of_an_estimator_is_checked(tmp_path, monkeypatch):
    estimator = iris.estimator(tmp_path / "run").train(iris.endless_input_fn, steps=1)
    receiver = tfbig.estimator.export.build_parsing_serving_input_receiver_fn(
        {"x": tf.io.FixedLenFeature([4], tf.float32)}
    )
    seen = []
    monkeypatch.setattr(export_check, "check_saved_model", lambda folder, calls, half: (
        seen.append(calls), without_variables(folder), check_saved_model(folder, calls, half)
    ))  # fmt: skip
    with pytest.raises(
        UserError, match="does not compute what the model does when another process"
    ):
        estimator.export_saved_model(tmp_path / "out", receiver)
    assert os.listdir(tmp_path / "out") == []
    (call,) = seen[0]
    assert tf.train.Example.FromString(call.inputs["examples"][0]).features.feature["x"]
    assert call.outputs["probabilities"].shape == (3, 3)


def test_parsers_receive_valid_input():
    def parse(serialized):
        kinds = {
            "a": tf.io.FixedLenFeature([2], tf.int64),
            "b": tf.io.VarLenFeature(tf.string),
            "c": tf.io.FixedLenFeature([], tf.float32),
        }
        found = tf.io.parse_example(serialized, kinds)
        return found["a"], found["c"]

    def rows(lines):
        return tf.io.decode_csv(lines, [[0.0], [1], ["x"]], field_delim=";")

    def images(data):
        return tf.map_fn(lambda one: tf.io.decode_jpeg(one), data, fn_output_signature=tf.uint8)

    for function in (parse, rows):
        spec = tf.TensorSpec([None], tf.string)
        graph = tf.function(function).get_concrete_function(spec).graph
        _, found = find_sample(spec, function, values_of_graph(graph))
        assert len(found[0]) == 3
    assert find_sample(tf.TensorSpec([None], tf.string), images)


def test_arrays_of_every_kind_can_be_written_and_read(tmp_path):
    arrays = [
        np.array([[b"a\0", "é"], [b"", b"b"]], object),
        np.float32([1.5, np.nan]),
        tf.constant([1.5], tf.bfloat16).numpy(),
        np.zeros((0, 2), "int8"),
        np.array(True),
    ]
    write_arrays(str(tmp_path / "a.npz"), arrays)
    for one, other in zip(read_arrays(str(tmp_path / "a.npz")), arrays, strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        if one.dtype == object:
            assert one.ravel().tolist() == [b"a\0", "é".encode(), b"", b"b"]
        else:
            np.testing.assert_array_equal(one, other)


def test_the_export_signature_has_the_model_s_input_shapes():
    (spec,) = _private_api.export_signature(dense())
    assert (spec[0] if isinstance(spec, list) else spec).shape.as_list() == [None, 4]


@pytest.mark.slow
def test_one_process_serves_all_exports_and_is_replaced_if_it_dies(tmp_path, monkeypatch):
    path = tfbig.export(dense(), tmp_path / "one")
    first = CHECKER.pid
    tfbig.export(dense(), tmp_path / "two")
    assert CHECKER.pid == first is not None
    os.kill(first, signal.SIGTERM)  # it ignores SIGTERM
    check_saved_model(path, [])
    assert CHECKER.pid == first
    monkeypatch.setattr(checker, "_TIMEOUT_SECONDS", 0.0)
    with pytest.raises(UserError, match="did not answer within 0 s"):
        check_saved_model(path, [])
    assert CHECKER.pid is None
    monkeypatch.undo()
    wrong = Call(None, [np.ones((3, 4), "float32")], [np.zeros((3, 3), "float32")])
    with pytest.raises(UserError, match="values differ"):
        check_saved_model(path, [wrong])
    assert CHECKER.pid not in (None, first)


WAIT = """
import os, sys, time
from tfbig.serving.checker import CHECKER
CHECKER.start()
print(CHECKER.pid, flush=True)
if os.fork() == 0:  # it keeps the input pipe open
    time.sleep(5)
    os._exit(0)
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_the_process_exits_with_its_parent(how):
    words = [sys.executable, "-c", WAIT, "wait" if how == "killed" else "end"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        if how == "killed":
            parent.kill()
        parent.wait(20)
        until = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < until:
            if open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z":
                break  # a zombie that was not reaped yet
            time.sleep(0.1)
        else:
            assert not os.path.exists(f"/proc/{pid}")


def test_a_checker_can_be_ended():
    own = Checker()
    assert own.pid is None
    own.end()
    own.start()
    first = own.pid
    own.end()
    assert own.pid is None
    assert not os.path.exists(f"/proc/{first}")
