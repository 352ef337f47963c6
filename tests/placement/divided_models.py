"""Models whose weights are used in ways that dividing them has to cope with."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

import tfbig

WORDS, LENGTH = 11, 6


def tokens() -> tuple:
    random = np.random.default_rng(0)
    x = random.integers(0, WORDS, (40, LENGTH)).astype("int32")
    return x, np.roll(x, -1, 1)


def rows() -> tuple:
    random = np.random.default_rng(1)
    x = random.normal(size=(40, 8)).astype("float32")
    return x, np.tanh(x[:, :3])


def tied() -> keras.Model:
    """The embedding's weights are used by two blocks."""
    params = {"layers": 1, "width": 8, "heads": 2, "sequence_length": LENGTH}
    return tfbig.models.transformer_lm.build({**params, "vocabulary_size": WORDS})


class Outside(keras.Model):
    """Uses weights of its own, a weight of a layer outside of it, and both inside of a loop."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Dense(5, "tanh")
        self.second = keras.layers.Dense(3)

    def build(self, shape):
        self.scale = self.add_weight(shape=(5,), initializer="ones", name="scale")
        self.first.build(shape)
        self.second.build((None, 5))

    def call(self, x):
        hidden = self.first(x) * self.scale

        def body(i, h):
            return i + 1, ops.tanh(
                ops.matmul(h @ ops.transpose(self.first.kernel), self.first.kernel)
            )

        _, hidden = ops.while_loop(lambda i, h: i < 3, body, (0, hidden), maximum_iterations=3)
        return self.second(hidden)


def outside() -> keras.Model:
    model = Outside()
    model.build((None, 8))
    return _compiled(model)


def regularized() -> keras.Model:
    """Regularizers read weights when all blocks are done."""
    layers = keras.layers
    return _compiled(
        keras.Sequential(
            [
                keras.Input((8,)),
                layers.Dense(7, kernel_regularizer=keras.regularizers.L2(0.1)),
                layers.ActivityRegularization(l1=0.01),
                layers.Dense(3, kernel_regularizer="l1"),
            ]
        )
    )


def statistics() -> keras.Model:
    """Statistics over all replicas move."""
    layers = [
        keras.layers.Dense(7, use_bias=False),
        keras.layers.BatchNormalization(synchronized=True),
    ]
    return _compiled(keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)]))


def adapted() -> keras.Model:
    """A frozen layer with LoRA adapters, and a frozen one."""
    layers = [keras.layers.Dense(6, "tanh", name=f"dense_{i}") for i in range(3)]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])
    layers[0].trainable = False
    layers[1].enable_lora(2)
    return _compiled(model)


def recurrent() -> keras.Model:
    """A layer that reads its weights inside of a loop."""
    layers = [keras.layers.Embedding(WORDS, 5), keras.layers.GRU(4, return_sequences=True)]
    model = keras.Sequential([keras.Input((LENGTH,), dtype="int32"), *layers])
    model.add(keras.layers.Dense(WORDS))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    return model


def nested() -> keras.Model:
    """A model in a model, called twice, and a head without a loss."""
    inner = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5, "tanh")], name="inner")
    inputs = keras.Input((8,))
    hidden = inner(inner(keras.layers.Dense(5)(inputs)))
    outputs = {"value": keras.layers.Dense(3)(hidden), "unused": keras.layers.Dense(2)(hidden)}
    model = keras.Model(inputs, {n: _named(t, n) for n, t in outputs.items()})
    model.compile(keras.optimizers.AdamW(1e-2, weight_decay=0.1), {"value": "mse"})
    return model


def _named(tensor, name: str):
    return keras.layers.Identity(name=name)(tensor)


def _compiled(model: keras.Model) -> keras.Model:
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", metrics=["mae"])
    return model


MODELS: dict[str, tuple[Callable, Callable]] = {
    "tied": (tied, tokens),
    "outside": (outside, rows),
    "regularized": (regularized, rows),
    "statistics": (statistics, rows),
    "adapted": (adapted, rows),
    "recurrent": (recurrent, tokens),
    "nested": (nested, lambda: (rows()[0], {"value": rows()[1]})),
}


def train(name: str, replicas: int, distribution: str, model_dir: str | None = None, **config):
    """Trains one of MODELS; `replicas` of one is one device."""
    build, arrays = MODELS[name]

    def input_fn():
        return tf.data.Dataset.from_tensor_slices(arrays()).batch(16)

    return tfbig.train_distributed(
        build,
        input_fn,
        eval_input_fn=input_fn,
        strategy="one_device" if replicas == 1 else "mirrored",
        devices=replicas,
        epochs=2,
        model_dir=model_dir,
        config=tfbig.RunConfig(
            model_distribution=distribution,
            tf_random_seed=5,
            log_step_count_steps=1,
            **{"jit_compile": False, **config},
        ),
    )


def found(name: str, replicas: int, distribution: str, **config) -> dict:
    """What a training leaves: weights, the optimizer's variables, losses and metrics."""
    result = train(name, replicas, distribution, **config)
    variables = [*result.model.variables, *result.model.optimizer.variables]
    return {
        "values": [np.asarray(v.numpy(), float).ravel().tolist() for v in variables],
        "losses": [point["loss"] for point in result.history if "loss" in point],
        "metrics": result.metrics,
    }


def found_of_all(replicas: int, distribution: str, config: dict) -> dict:
    """`found` of every model, or the error.

    Left out are statistics of micro-batches, and what XLA cannot compile: statistics over replicas,
    and the gradient of the loop of a recurrent layer.
    """
    left = {}
    for name in MODELS:
        if (name == "statistics" and config) or (name == "recurrent" and config.get("jit_compile")):
            continue
        try:
            left[name] = found(name, replicas, distribution, **config)
        except Exception as error:
            left[name] = {"error": f"{type(error).__name__}: {error}"}
    return left
