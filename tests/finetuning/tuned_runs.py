"""Digits 0 to 4 learned, then 5 to 9 tuned: the runs of test_fine_tune.py."""

import functools

import keras
import numpy as np

import tfbig
from tests.equivalence.models import digits


def build() -> keras.Model:
    """Trained on the digits 0 to 4; a normalization in it, and a layer of each width."""
    layers = [
        keras.layers.Dense(48, name="first", use_bias=False),
        keras.layers.BatchNormalization(name="normal"),
        keras.layers.Dense(32, "relu", name="second"),
        keras.layers.Dense(5, name="old_head"),
    ]
    model = keras.Sequential([keras.Input((64,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def examples(first: int) -> tuple[np.ndarray, np.ndarray]:
    """The digits `first` to `first + 4`, numbered from 0."""
    images, labels = digits(1797)
    chosen = (labels >= first) & (labels < first + 5)
    return images[chosen], labels[chosen] - first


def source(first: int):
    return tfbig.data.ArraySource(examples(first)).batch(32)


@functools.cache
def pretrained() -> keras.Model:
    config = tfbig.RunConfig(tf_random_seed=1)
    return tfbig.train_distributed(build, lambda: source(0), epochs=4, config=config).model


def tune(path, recipe, *, steps=60, **keywords) -> tfbig.TrainResult:
    keywords = {"strategy": "one_device", **keywords}
    return tfbig.fine_tune(
        path,
        lambda: source(5),
        recipe=recipe,
        eval_input_fn=lambda: source(5),
        max_steps=steps,
        config=tfbig.RunConfig(
            tf_random_seed=2, jit_compile=False, save_checkpoints_steps=10, keep_checkpoint_max=99
        ),
        **keywords,
    )


STAGED = dict(
    head=5,
    freeze="backbone",
    unfreeze={20: "second", 40: ["first"]},
    rate_decay=0.5,
    optimizer={"name": "sgd", "momentum": 0.9},
    learning_rate=0.05,
)


def weights_on_two_replicas(path: str) -> list:
    result = tune(path, tfbig.Recipe(**STAGED), strategy="mirrored", devices=2)
    return [weight.tolist() for weight in result.model.get_weights()]


def weights_on_workers(path: str, model_dir: str) -> dict[str, list]:
    """By recipe the weights that one of several workers ends with."""
    recipes = {"staged": STAGED, "lora": dict(head=5, lora_rank=4, learning_rate=0.05)}
    found = {}
    for name, recipe in recipes.items():
        recipe = tfbig.Recipe(**recipe)
        result = tune(path, recipe, strategy="multi_worker", model_dir=f"{model_dir}/{name}")
        found[name] = [weight.tolist() for weight in result.model.get_weights()]
    return found
