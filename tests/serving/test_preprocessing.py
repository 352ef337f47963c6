"""An export with preprocessing accepts raw features and equals the model on cleaned ones."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfbig
from tfbig.data import cleaning as c
from tfbig.errors import NotBuiltError, UserError

N = 200


def raw(seed: int = 0) -> dict[str, np.ndarray]:
    """Rows with missing values, outliers and strings that are not numbers."""
    random = np.random.RandomState(seed)
    age = np.array([str(a) for a in random.randint(1, 99, N)], object)
    age[:4] = ["", "?", " 41 ", "1e99"]
    height = random.normal(170, 10, N).astype("float32")
    height[3:9], height[9], height[10] = np.nan, 1e6, -np.inf
    city = np.array(["", "Ulm", "Köln", "Graz"], object)[random.randint(0, 4, N)]
    return {"age": age, "mean height": height, "city": city, "rooms": random.randint(1, 9, N)}


def steps() -> list[c.Step]:
    return [
        c.FixTypes({"age": "float32", "mean height": "float32"}),
        c.FillMissing(["age", "mean height"], "median"),
        c.FillMissing(["city"], "most_frequent"),
        c.ClipOutliers(["age", "mean height", "rooms"]),
    ]


def labels() -> np.ndarray:
    return np.random.RandomState(9).randint(0, 2, N)


def fitted(features=None) -> tuple[c.Cleaning, tfbig.data.Source]:
    features = raw() if features is None else features
    cleaning = c.Cleaning(steps() if isinstance(features, dict) else [c.FillMissing()])
    return cleaning, cleaning.fit(tfbig.data.ArraySource((features, labels())))


def model_of_columns() -> keras.Model:
    lookup = layers.StringLookup(vocabulary=["Ulm", "Köln", "Graz"], output_mode="one_hot")
    inputs = {
        "age": keras.Input((1,), name="age"),
        "mean height": keras.Input((1,), name="mean height"),
        "city": keras.Input((1,), name="city", dtype="string"),
        "rooms": keras.Input((1,), name="rooms"),
    }
    numbers = layers.Concatenate()([inputs["age"], inputs["mean height"], inputs["rooms"]])
    scaled = layers.Normalization(mean=[50, 170, 5], variance=[400, 100, 4])(numbers)
    hidden = layers.Concatenate()([scaled, lookup(inputs["city"])])
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(hidden))


def model_of_array(width: int) -> keras.Model:
    return keras.Sequential([keras.Input((width,)), layers.Dense(4, "tanh"), layers.Dense(2)])


def tensors(features):
    return tf.nest.map_structure(tf.constant, features)


def close(found, expected) -> None:
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def rows(source, count=N):
    features = source.read(np.arange(count))[0]
    return {k: v.astype(str) if v.dtype == object else v for k, v in features.items()}


@pytest.mark.slow
def test_a_served_model_of_columns_cleans_raw_rows_as_training_did(tmp_path):
    cleaning, train = fitted()
    model = model_of_columns()
    expected = model({k: tf.constant(v) for k, v in rows(train).items()}).numpy()
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export", preprocessing=cleaning))
    close(loaded.serve(tensors(raw())), expected)
    new = {"age": ["x", "7"], "mean height": [np.nan, 1e9], "city": ["", "Ulm"], "rooms": [3, 99]}
    arrays = {k: np.array(v, raw()[k].dtype) for k, v in new.items()}
    cleaned = cleaning.transform(arrays)
    numbers = [int(a) for a in raw()["age"][2:] if a != "1e99"]
    assert cleaned["age"].tolist() == [np.median(numbers), 7]
    assert cleaned["city"][0] == cleaning.steps[2].fitted["city"]
    assert cleaned["mean height"][1] == np.float32(cleaning.steps[3].fitted["mean height"][1])
    close(loaded.serve(tensors(arrays)), model(tensors(cleaned)))
    assert os.listdir(tmp_path) == ["export"]


def test_the_inputs_of_the_signature_have_valid_forms_of_the_column_names(tmp_path):
    cleaning, train = fitted()
    model = model_of_columns()
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export", preprocessing=cleaning))
    signature = loaded.signatures["serving_default"]
    inputs = signature.structured_input_signature[1]
    assert {name: spec.dtype.name for name, spec in inputs.items()} == {
        "age": "string", "mean_height": "float32", "city": "string", "rooms": "int64"
    }  # fmt: skip
    assert {tuple(spec.shape) for spec in inputs.values()} == {(None,)}
    given = {name.replace(" ", "_"): value for name, value in tensors(raw()).items()}
    (found,) = signature(**given).values()
    close(found, model({k: tf.constant(v) for k, v in rows(train).items()}))


@pytest.mark.parametrize("names", [("a b", "a_b", "a-b"), ("1st", "col", "_x"), ("é", "è", "e")])
def test_columns_with_equal_valid_names_get_different_ones(names, tmp_path):
    features = {name: np.float32([k, np.nan, 3 * k]) for k, name in enumerate(names)}
    cleaning = c.Cleaning([c.FillMissing(strategy="mean")])
    cleaning.fit(tfbig.data.ArraySource(features))

    def stack(columns):
        return tf.stack([columns[name] for name in names], axis=1)

    model = model_of_array(3)
    path = tfbig.export(model, tmp_path / "export", preprocessing=[cleaning, stack])
    loaded = tf.saved_model.load(path)
    close(loaded.serve(tensors(features)), model(stack(cleaning.transform(tensors(features)))))
    assert len(loaded.signatures["serving_default"].structured_input_signature[1]) == 3


class Stack(layers.Layer):
    """Stacks the columns into one array; has its own lookup table."""

    def __init__(self):
        super().__init__()
        self.lookup = layers.StringLookup(vocabulary=["Ulm", "Köln", "Graz"])

    def call(self, columns):
        code = tf.cast(self.lookup(columns["city"]), tf.float32)
        return tf.stack([columns["age"] / 50, columns["mean height"] / 170, code], axis=1)


def test_functions_and_layers_receive_the_cleaned_features(tmp_path):
    cleaning, train = fitted()
    stack, model = Stack(), model_of_array(3)
    path = tfbig.export(
        model, tmp_path / "export", preprocessing=[cleaning, stack, lambda x: x[:, ::-1]]
    )
    served = tf.saved_model.load(path)
    expected = model(stack(tensors(rows(train)))[:, ::-1])
    close(served.serve(tensors(raw())), expected)


def test_a_model_trained_on_an_array_is_served_raw_arrays(tmp_path):
    features = np.random.RandomState(0).randn(N, 4).astype("float32")
    features[::7, 1] = np.nan
    cleaning, train = fitted(features)

    def build():
        model = model_of_array(4)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    model = tfbig.train_distributed(build, lambda: train.batch(50), max_steps=4).model
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export", preprocessing=cleaning))
    cleaned = train.read(np.arange(N))[0]
    close(loaded.serve(features), model.predict(cleaned, verbose=0))
    close(loaded.serve(features[:1]), model.predict(cleaned[:1], verbose=0))


def test_a_saved_and_loaded_cleaning_serves_bit_for_bit_the_same(tmp_path):
    cleaning, _ = fitted()
    cleaning.save(tmp_path / "cleaning.json")
    model = model_of_columns()
    answers = []
    for number, one in enumerate([cleaning, c.Cleaning.load(tmp_path / "cleaning.json")]):
        loaded = tf.saved_model.load(tfbig.export(model, tmp_path / f"{number}", preprocessing=one))
        answers.append(loaded.serve(tensors(raw())).numpy())
    np.testing.assert_array_equal(*answers)


def test_steps_that_drop_rows_are_skipped_in_serving(tmp_path):
    features = {
        "a": np.float32([1, 1, np.nan, 900, 2, 3, 4]),
        "b": np.float32([1, 1, 5, 6, 7, 8, 9]),
    }
    cleaning = c.Cleaning(
        [
            c.Filter(lambda batch: batch["b"] < 9, name="small"),
            c.DropMissing(),
            c.DropDuplicates(),
            c.DropOutliers(method="zscore", factor=1.5),
            c.Balance("oversample"),
        ]
    )
    cleaning.fit(tfbig.data.ArraySource((features, np.array([0, 0, 0, 0, 1, 1, 0]))))
    stack = [cleaning, lambda columns: tf.stack([columns["a"], columns["b"]], axis=1)]
    model = model_of_array(2)
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export", preprocessing=stack))
    found = loaded.serve(tensors(features)).numpy()
    expected = model(np.stack([features["a"], features["b"]], 1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[[0, 1, 3, 4, 5, 6]]).all()


def test_a_value_that_is_not_an_integer_is_an_error_of_the_request(tmp_path):
    cleaning = c.Cleaning([c.FixTypes({"0": "int64"})])
    cleaning.fit(tfbig.data.ArraySource((np.array([["1"], ["2"]], object), np.array([0, 1]))))
    model = keras.Sequential([keras.Input((1,), dtype="int64"), layers.Embedding(9, 2)])
    loaded = tf.saved_model.load(tfbig.export(model, tmp_path / "export", preprocessing=cleaning))
    close(loaded.serve(tf.constant([["7"], [" 1"]])), model(np.array([[7], [1]])))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="column 0 has a value that is not a valid int"
    ):
        loaded.serve(tf.constant([["7"], ["x"]]))


def test_a_model_that_does_not_accept_the_cleaned_features_is_an_error(tmp_path):
    cleaning, _ = fitted()
    with pytest.raises(UserError) as raised:
        tfbig.export(model_of_array(3), tmp_path / "export", preprocessing=cleaning)
    message = str(raised.value)
    assert message.startswith(
        "export: the model does not accept the result of the preprocessing, {'age"
    )
    assert "preprocessing=[cleaning, lambda columns: tf.stack(" in message
    assert os.listdir(tmp_path) == []


def stack(columns):
    return columns


@pytest.mark.parametrize("value", [stack, [stack], [], "cleaning.json", [stack, c.FillMissing()]])
def test_preprocessing_that_does_not_begin_with_a_cleaning_is_an_error(value, tmp_path):
    with pytest.raises(UserError, match="^export\\(preprocessing=.*expected a fitted tfbig.data.c"):
        tfbig.export(model_of_array(3), tmp_path / "export", preprocessing=value)
    assert os.listdir(tmp_path) == []


def test_a_cleaning_that_is_not_fitted_is_an_error(tmp_path):
    with pytest.raises(UserError, match="it is not fitted; call cleaning.fit"):
        tfbig.export(
            model_of_array(3), tmp_path / "export", preprocessing=c.Cleaning([c.FillMissing()])
        )


def test_signatures_are_not_built_yet(tmp_path):
    with pytest.raises(NotBuiltError, match="^export\\(signatures=…\\) is not built yet; leave it"):
        tfbig.export(model_of_array(3), tmp_path / "export", signatures={"serve": None})
