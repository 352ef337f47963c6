"""Small models with each kind of preprocessing layer, and data for them."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfbig

WORDS = np.array([["Ulm"], ["Graz"], ["Bonn"], ["Ulm"], ["?"], ["Graz"]], object)
IDS = np.array([[3], [5], [9], [3], [77], [5]], "int64")
TEXTS = np.array(
    [["the cat sat"], ["a dog ran"], ["the dog"], ["cat cat"], ["a mouse"], ["x"]], object
)
NUMBERS = np.random.RandomState(0).randn(6, 3).astype("float32") * 3 + 1
LABELS = np.random.RandomState(1).rand(6, 2).astype("float32")


def adapted(layer, data):
    layer.adapt(data)
    return layer


def with_vocabulary():
    layer = layers.StringLookup(output_mode="one_hot")
    layer.set_vocabulary(["Ulm", "Bonn"])
    return layer


def embedded(x):
    return layers.Flatten()(layers.Embedding(20, 3)(x))


def hidden(kind: str, x):
    """What is before the last layer of a model."""
    if kind == "adapted StringLookup":
        lookup = layers.StringLookup(num_oov_indices=2, output_mode="one_hot")
        return adapted(lookup, WORDS[:4])(x)
    if kind == "StringLookup set":
        return with_vocabulary()(x)
    if kind == "given StringLookup":
        return embedded(layers.StringLookup(vocabulary=["Ulm", "Graz"])(x))
    if kind == "adapted IntegerLookup":
        return adapted(layers.IntegerLookup(output_mode="multi_hot"), IDS[:4])(x)
    if kind == "adapted TextVectorization":
        text = layers.TextVectorization(max_tokens=20, output_sequence_length=4)
        return embedded(adapted(text, TEXTS[:4, 0])(x))
    if kind.startswith("TextVectorization of"):
        most = {"max_tokens": 12, "pad_to_max_tokens": True} if "padded" in kind else {}
        text = layers.TextVectorization(output_mode="tf_idf", **most)
        return adapted(text, TEXTS[:4, 0])(x)
    if kind == "adapted Normalization":
        return adapted(layers.Normalization(), NUMBERS)(x)
    if kind == "adapted Discretization":
        return embedded(adapted(layers.Discretization(num_bins=4), NUMBERS)(x))
    if kind == "Hashing":
        return layers.Hashing(5, output_mode="one_hot")(x)
    if kind == "CategoryEncoding":
        return layers.CategoryEncoding(80, output_mode="one_hot")(x)
    assert kind == "HashedCrossing"
    return layers.HashedCrossing(7, output_mode="one_hot")((x, x))


FEATURES = {
    "adapted StringLookup": WORDS,
    "StringLookup set": WORDS,
    "given StringLookup": WORDS,
    "adapted IntegerLookup": IDS,
    "adapted TextVectorization": TEXTS,
    "TextVectorization of tf_idf": TEXTS,
    "TextVectorization of padded tf_idf": TEXTS,
    "adapted Normalization": NUMBERS,
    "adapted Discretization": NUMBERS,
    "Hashing": WORDS,
    "CategoryEncoding": IDS,
    "HashedCrossing": WORDS,
}


def build(kind: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    features = FEATURES[kind]
    dtype = "string" if features.dtype == object else features.dtype.name
    x = keras.Input(features.shape[1:], dtype=dtype)
    model = keras.Model(x, layers.Dense(2)(hidden(kind, x)))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def input_fn_of(kind: str):
    def input_fn():
        return tf.data.Dataset.from_tensor_slices((FEATURES[kind], LABELS)).batch(4)

    return input_fn


def outputs(model: keras.Model, kind: str) -> np.ndarray:
    return model(tf.constant(FEATURES[kind].tolist() if FEATURES[kind].dtype == object
                             else FEATURES[kind])).numpy()  # fmt: skip


def fitted(kind: str) -> tuple[np.ndarray, float]:
    """The outputs of Keras's own model after two passes, and its loss."""
    model = build(kind)
    model.fit(input_fn_of(kind)(), epochs=2, verbose=0, shuffle=False)
    found = outputs(model, kind)
    return found, float(np.mean((found - LABELS) ** 2))


def used(kind: str, folder: str, **where) -> dict:
    """Trains from a built model, goes on from a function, evaluates, predicts and exports."""
    plain = {"config": tfbig.RunConfig(jit_compile=False), "model_dir": folder, **where}
    data = input_fn_of(kind)
    tfbig.train_distributed(build(kind), data, max_steps=2, **plain)
    model = tfbig.train_distributed(
        lambda: build(kind), lambda: data().repeat(), max_steps=4, **plain
    ).model
    model.save(f"{folder}/model.keras")
    served = tf.saved_model.load(tfbig.export(model, f"{folder}/export"))
    features = FEATURES[kind].tolist() if FEATURES[kind].dtype == object else FEATURES[kind]
    tuned = tfbig.fine_tune(
        f"{folder}/model.keras", data, max_steps=2, config=plain["config"], **where
    ).model
    return {
        "outputs": outputs(model, kind).tolist(),
        "loss": tfbig.evaluate(model, data, metrics=[], **where)["loss"],
        "loss of file": tfbig.evaluate(f"{folder}/model.keras", data, metrics=[], **where)["loss"],
        "predicted": np.stack(list(tfbig.predict(model, data, **where))).tolist(),
        "served": served.serve(tf.constant(features)).numpy().tolist(),
        "tuned": outputs(tuned, kind).tolist(),
    }
