"""Values that cannot be trained on: what the error names, and that nothing half-written stays."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests.training.small_runs import arrays, build, checkpoint_steps, config, files_below, train
from tfbig.errors import TrainingDiverged, UserError

BATCH = 10
PLACES = pytest.mark.parametrize(("step", "example"), [(1, 3), (4, 7)])  # the first batch, a later
JIT = pytest.mark.parametrize("jit", [True, False], ids=["jit", "graph"])


def batches(features, labels):
    """An input_fn that gives the examples in their order."""
    return lambda: tf.data.Dataset.from_tensor_slices((features, labels)).batch(BATCH)


def changed(array, step, example, value):
    """A copy in which one example of a step's batch has another value."""
    copy = array.copy()
    copy[(step - 1) * BATCH + example] = value
    return copy


def refused(kinds, parts, model_dir, step, **keywords) -> str:
    """Asserts a one-line error with these parts; returns it.

    Nothing is left of a run that fails at its first step; of a later step's, whole checkpoints.
    """
    with pytest.raises(kinds) as raised:
        train(**{"epochs": 1, **keywords, "model_dir": model_dir})
    message = str(raised.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    if step == 1:
        assert not model_dir.exists()
    else:
        assert all(".tmp" not in name for name in files_below(model_dir))
    return message


@JIT
@PLACES
@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "an infinity")])
def test_a_nan_or_infinity_in_features_is_named_with_its_example(
    step, example, value, name, jit, tmp_path
):
    features, labels = arrays()
    message = refused(
        UserError if step == 1 else TrainingDiverged,
        [f"features has {name} in example {example} of the batch", "repair or leave out such"],
        tmp_path / "run",
        step,
        input_fn=batches(changed(features, step, example, value), labels),
        config=config(jit_compile=jit),
    )
    if step > 1:
        assert f"for the first time at step {step};" in message


def test_a_nan_in_one_of_several_features_is_named_by_its_key(tmp_path):
    features, labels = arrays()
    inputs = {name: keras.Input((8,), name=name) for name in ("first", "second")}

    def model_fn():
        logits = keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values())))
        model = keras.Model(inputs, logits)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    bad = {"first": features, "second": changed(features, 1, 2, np.nan)}
    refused(
        UserError,
        ["features['second'] has NaN in example 2 of the batch"],
        tmp_path / "run",
        1,
        model_fn=model_fn,
        input_fn=batches(bad, labels),
    )


@JIT
@PLACES
@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_that_does_not_exist_is_named_with_its_example(step, example, wrong, jit, tmp_path):
    features, labels = arrays()
    refused(
        UserError if step == 1 or not jit else (UserError, TrainingDiverged),
        [
            f"labels has class {wrong} in example {example} of the batch, but the model has 3 "
            "classes: 0 to 2",
            "repair or leave out such examples in input_fn",
        ],
        tmp_path / "run",
        step,
        input_fn=batches(features, changed(labels, step, example, wrong)),
        config=config(jit_compile=jit),
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs)


@JIT
@PLACES
def test_a_class_that_does_not_exist_is_named_for_a_subclassed_model(step, example, jit, tmp_path):
    def model_fn():
        model = Subclassed()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    features, labels = arrays()
    refused(
        (UserError, TrainingDiverged),
        [f"labels has class 9 in example {example} of the batch, but the model has 3 classes"],
        tmp_path / "run",
        step,
        model_fn=model_fn,
        input_fn=batches(features, changed(labels, step, example, 9)),
        config=config(jit_compile=jit),
    )


def test_a_run_that_fails_later_keeps_its_whole_checkpoints(tmp_path):
    broken = True

    def repair(batch):
        return (batch[0] * np.float32("nan"), batch[1]) if broken and reads[0] > 9 else batch

    def input_fn():
        return Counting(reads).map(repair).batch(BATCH)

    reads = [0]
    settings = config(save_checkpoints_steps=4, steps_per_loop=1)
    parts = ["features has NaN in example 0 of the batch", "at step 9;"]
    refused(TrainingDiverged, parts, tmp_path, 9, input_fn=input_fn, config=settings)
    assert checkpoint_steps(tmp_path) == [4, 8]
    broken = False
    assert train(input_fn=input_fn, max_steps=12, model_dir=tmp_path).global_step == 12


class Counting(tfbig.data.ArraySource):
    """Counts how often it is read: once for its structure and once for each step."""

    def __init__(self, reads):
        super().__init__(arrays())
        self._reads = reads

    def read(self, indices):
        self._reads[0] += 1
        return super().read(indices)


def model_fn(features, labels, mode):
    logits = keras.layers.Dense(3)(features)
    losses = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    return tfbig.EstimatorSpec(mode, loss=losses, optimizer=keras.optimizers.SGD(0.1))


@PLACES
def test_a_nan_is_named_for_an_estimator_style_model_fn(step, example, tmp_path):
    features, labels = arrays()
    refused(
        (UserError, TrainingDiverged),
        [f"features has NaN in example {example} of the batch"],
        tmp_path / "run",
        step,
        model_fn=model_fn,
        input_fn=batches(changed(features, step, example, np.nan), labels),
    )


class Changing(tfbig.data.Source):
    """Gives other features after the first 60 examples; read in order with one pass."""

    def __init__(self, change):
        self._features, self._labels = arrays()
        self._change = change

    def __len__(self):
        return len(self._labels)

    def read(self, indices):
        batch = self._features[indices], self._labels[indices]
        return batch if (indices < 60).all() else self._change(*batch)


CHANGES = {
    "a key more": (lambda x, y: ({"x": x}, y), "returned ({x: float32["),
    "another shape": (lambda x, y: (x[:, :4], y), "float32 of shape ("),
    "another type": (lambda x, y: (x, y.astype(np.int64)), "int64 of shape ("),
    "fewer labels": (lambda x, y: (x, y[:-1]), "int32 of shape ("),
}


@pytest.mark.parametrize("change", CHANGES)
def test_features_whose_structure_changes_are_refused_with_the_step(change, tmp_path):
    change, part = CHANGES[change]
    refused(
        UserError,
        ["the data changed their structure between batches: at step ", part],
        tmp_path / "run",
        2,
        input_fn=lambda: Changing(change).batch(BATCH),
    )


def generated(*examples):
    """A Dataset from a Python generator, whose signature says what the first example is."""
    return lambda: tf.data.Dataset.from_generator(
        lambda: iter(examples),
        output_signature=(tf.TensorSpec([None, 8]), tf.TensorSpec([None], tf.int32)),
    )


GENERATED = {
    "another shape": (np.ones([4, 5], "f4"), np.ones([4], "i4")),
    "another structure": ({"x": np.ones([4, 8], "f4")}, np.ones([4], "i4")),
    "another type": (np.full([4, 8], "text"), np.ones([4], "i4")),
}


@pytest.mark.parametrize("bad", GENERATED)
@pytest.mark.parametrize("step", [1, 3])
def test_a_generator_whose_batches_change_is_refused(bad, step, tmp_path):
    good = (np.ones([4, 8], "f4"), np.ones([4], "i4"))
    refused(
        UserError,
        ["the Dataset failed while a batch was read", "TensorFlow says: "],
        tmp_path / "run",
        step,
        input_fn=generated(*[good] * (step - 1), GENERATED[bad]),
        model_fn=build,
    )


@pytest.mark.parametrize("step", [2, 3])
def test_a_batch_that_grows_is_refused_with_both_sizes(step, tmp_path):
    good, large = [(np.ones([n, 8], "f4"), np.ones([n], "i4")) for n in (4, 6)]
    refused(
        UserError,
        ["a batch is larger than the first one (6 examples after 4)", "one global batch size"],
        tmp_path / "run",
        step,
        input_fn=generated(*[good] * (step - 1), large),
    )


def two_heads():
    inputs = keras.Input((8,))
    outputs = [keras.layers.Dense(n, name=name)(inputs) for n, name in ((3, "kind"), (1, "area"))]
    model = keras.Model(inputs, outputs)
    kind = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss={"kind": kind, "area": "mse"})
    return model


def test_labels_go_to_the_outputs_of_their_names(tmp_path):
    features, labels = arrays()
    area = features[:, 0]
    good = batches(features, {"kind": labels, "area": area})
    assert train(two_heads, good, epochs=1).global_step == 16
    refused(
        UserError,
        ["labels['kind'] has class 7 in example 1 of the batch, but the model has 3 classes"],
        tmp_path / "run",
        1,
        model_fn=two_heads,
        input_fn=batches(features, {"kind": changed(labels, 1, 1, 7), "area": area}),
    )
    refused(
        UserError,
        ["labels have the shape (batch, 8), but mean_squared_error on an output", "(batch, 1)"],
        tmp_path / "run",
        1,
        model_fn=two_heads,
        input_fn=batches(features, {"kind": labels, "area": features}),
    )


def test_a_class_that_the_loss_ignores_is_no_error():
    def model_fn():
        model = build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
        model.compile("sgd", loss)
        return model

    features, labels = arrays()
    result = train(model_fn, batches(features, changed(labels, 1, 0, -1)), epochs=1)
    assert result.global_step == 16
