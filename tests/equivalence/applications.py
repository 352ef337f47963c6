"""keras.applications without weights: trained for two steps, saved, loaded and tuned."""

import functools
import pathlib
import tempfile
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.equivalence import reference
from tests.equivalence.case import SEED, Case
from tests.equivalence.runs import train

CLASSES, NEW_CLASSES = 4, 3
BATCH = 8
RATE = 1e-3


class Application(NamedTuple):
    """One of keras.applications: its old classifier, and whether it scales pixels itself."""

    classifier: str
    scales: bool = True
    adapters: bool = False


APPLICATIONS = {
    "MobileNetV3Small": Application("logits"),
    "ResNet50": Application("predictions", scales=False),
    "DenseNet121": Application("predictions", scales=False),
    "EfficientNetV2B0": Application("predictions"),
    "ConvNeXtTiny": Application("convnext_tiny_head_dense", adapters=True),
}


def figures_of(name: str) -> dict:
    """Returns the figures of a model; in a process of its own, for its two replicas."""
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    return figures(name, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def build(name: str) -> keras.Model:
    """A model for images of 32 x 32, without anything random in it."""
    usual = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = getattr(keras.applications, name)(
            weights=None, classes=CLASSES, input_shape=(32, 32, 3)
        )
    finally:
        keras.config.set_dtype_policy(usual)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    loss = keras.losses.SparseCategoricalCrossentropy(dtype="float64")
    model.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    return model


def images(name: str, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Noise for two batches, as pixels from 0 to 255 if the model scales them."""
    random = np.random.default_rng(3)
    pixels = random.uniform(0, 255, (2 * BATCH, 32, 32, 3))
    if not APPLICATIONS[name].scales:
        pixels = pixels / 127.5 - 1
    return pixels.astype("float32"), random.integers(0, classes, 2 * BATCH)


def figures(name: str, mirrored: tf.distribute.Strategy) -> dict[str, float]:
    """What the tests look at, all of them the largest differences of values.

    The steps are in float64. BatchNormalization over the few places that 32 x 32 pixels leave makes
    rounding grow from layer to layer: in float32, plain Keras is 1.5 % from what it computes in
    float64.
    """
    case = Case(
        functools.partial(build, name),
        functools.partial(images, name),
        batch_size=BATCH,
        epochs=1,
        config={"jit_compile": False},  # compiling takes longer than all the rest
    )
    keras.utils.set_random_seed(0)
    found = {}
    for kind, strategy, parts in (("one", "one_device", 1), ("two", mirrored, 2)):
        expected, got = reference.train(case, parts), train(case, strategy)
        found[kind] = difference(got.weights, expected.weights)
        found[f"{kind}_loss"] = abs(got.history[-1]["loss"] - expected.history[-1]["loss"])
    with tempfile.TemporaryDirectory() as folder:
        path = str(pathlib.Path(folder, "trained.keras"))
        keras.utils.set_random_seed(SEED)
        model = build(name)
        pairs = list(zip(model.variables, expected.weights, strict=True))
        found["moved"] = max(
            float(np.abs(v.numpy() - value).max()) for v, value in pairs if v.trainable
        )
        for variable, value in pairs:
            variable.assign(value)
        model.save(path)
        loaded = tfbig.finetuning.load_model(path)
        pixels, _ = images(name)
        features = loaded(pixels, training=False).numpy()
        found["loaded"] = difference([features], [model(pixels, training=False).numpy()])
        found |= tuned_by_a_head(name, path, loaded)
        if APPLICATIONS[name].adapters:
            found |= tuned_by_adapters(name, path, loaded)
    return found


def tuned_by_a_head(name: str, path: str, loaded: keras.Model) -> dict[str, float]:
    """A step of a new head on the frozen backbone, against the same step in NumPy."""
    pixels, labels = images(name, NEW_CLASSES)
    before = loaded.get_layer(APPLICATIONS[name].classifier).input
    features = keras.Model(loaded.input, before)(pixels, training=False).numpy()
    features = features.reshape(len(pixels), -1)  # of one place, where it has places
    zero, one = (tune(name, path, steps, freeze="backbone") for steps in (0, 1))
    kernel, bias = (np.float64(v.numpy()) for v in zero.get_layer("head").weights)
    features, labels = features[:BATCH], labels[:BATCH]
    scores = features @ kernel + bias
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = scores / scores.sum(axis=1, keepdims=True) - np.eye(NEW_CLASSES)[labels]
    expected = [kernel - RATE * features.T @ error / BATCH, bias - RATE * error.mean(axis=0)]
    got = [v.numpy() for v in one.get_layer("head").weights]
    return {
        "head": difference(got, expected),
        "head_moved": difference(got, [kernel, bias]),
        **kept(one, loaded),
    }


def kept(tuned: keras.Model, loaded: keras.Model) -> dict[str, float]:
    """How far the layers that both have are apart, and which layers with weights are gone."""
    ours = {layer.name: layer for layer in tuned.layers}
    both = [(ours[each.name], each) for each in loaded.layers if each.name in ours]
    values = (
        [w.numpy() for a, _ in both for w in a.weights if not w.name.startswith("lora_")],
        [w.numpy() for _, b in both for w in b.weights],
    )
    return {
        "frozen": difference(*values),
        "gone": [each.name for each in loaded.layers if each.weights and each.name not in ours],
    }


def tuned_by_adapters(name: str, path: str, loaded: keras.Model) -> dict[str, float]:
    """A step of adapters: what moves, and whether they are merged when the model is saved."""
    pixels, _ = images(name)
    tuned = tune(name, path, 1, lora_rank=2, head=None)
    seconds = [v for v in tuned.trainable_variables if v.path.endswith("_b")]
    with tempfile.TemporaryDirectory() as folder:
        merged = tfbig.export(tuned, folder)
        artifact = tf.saved_model.load(merged)
        served = artifact.serve(tf.constant(pixels)).numpy()
    return {
        "adapters": len(tuned.trainable_variables),
        "adapters_moved": max(float(np.abs(v.numpy()).max()) for v in seconds),
        "adapters_frozen": kept(tuned, loaded)["frozen"],
        "merged": difference([served], [tuned(pixels, training=False).numpy()]),
    }


def tune(name: str, path: str, steps: int, *, head: int | None = NEW_CLASSES, **recipe):
    """The model after so many steps of SGD (0: one at the rate 0), with the same first head."""
    pixels, labels = images(name, head or CLASSES)
    return tfbig.fine_tune(
        path,
        lambda: tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(BATCH),
        recipe=tfbig.Recipe(
            head=head, optimizer="sgd", learning_rate=RATE if steps else 0.0, **recipe
        ),
        strategy="one_device",
        max_steps=1,
        config=tfbig.RunConfig(tf_random_seed=1, jit_compile=False),
    ).model


def difference(got: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [a.shape for a in got] == [a.shape for a in expected]
    return max(float(np.abs(a - b).max()) for a, b in zip(got, expected, strict=True))
