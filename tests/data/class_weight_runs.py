"""Training with class weights in a process of its own; the same computed by hand in NumPy."""

import keras
import numpy as np
import tensorflow as tf

import tfbig

WEIGHTS, RATE, BATCH, COUNT, TIME = {0: 0.5, 2: 3.0}, 0.5, 7, 10, 4
PLACEMENTS = {
    "one device": {},
    "accumulation": dict(config=dict(accumulation_steps=2)),
    "two replicas": dict(strategy="mirrored", devices=2),
}


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.RandomState(0)
    return rng.randn(COUNT, TIME, 3).astype("f4"), rng.randint(0, 3, [COUNT, TIME])


def input_of(kind: str, arrays, class_weight, **options):
    def input_fn():
        if kind == "source":
            data = tfbig.data.ArraySource(arrays).batch(BATCH)
        else:
            data = tf.data.Dataset.from_tensor_slices(arrays).batch(BATCH)
        return tfbig.data.with_class_weight(data, class_weight, **options)

    return input_fn


def train(model_fn, input_fn, steps, placement) -> tuple[float, list]:
    arguments = dict(PLACEMENTS[placement])
    config = tfbig.RunConfig(
        tf_random_seed=1,
        jit_compile=False,
        data_distribution="none",
        **arguments.pop("config", {}),
    )
    result = tfbig.train_distributed(
        model_fn, input_fn, max_steps=steps, config=config, **arguments
    )
    return result.loss, [weight.numpy() for weight in result.model.weights]


def cross_entropy(**arguments):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, **arguments)


def dense(units, name=None):
    return keras.layers.Dense(units, use_bias=False, kernel_initializer="zeros", name=name)


def of_steps():
    """Labels [n, time], one weight for each time step."""
    model = keras.Sequential([keras.Input((TIME, 3)), dense(3)])
    model.compile(keras.optimizers.SGD(RATE), cross_entropy())
    return model


def of_outputs():
    """Labels {"kind": [n, time], "size": [n, time, 1]}; the second is not weighted."""
    inputs = keras.Input((TIME, 3))
    outputs = {"kind": dense(3, "kind")(inputs), "size": dense(1, "size")(inputs)}
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(RATE), {"kind": cross_entropy(), "size": "mse"})
    return model


def by_hand(steps: int) -> tuple[float, np.ndarray, np.ndarray]:
    """The loss of the first step (kind and size), and both kernels after so many."""
    x, y = (part.reshape(-1, *part.shape[2:]) for part in examples())
    kind, size, first = np.zeros([3, 3]), np.zeros([3, 1]), None
    weight = np.select([y == 0, y == 2], [0.5, 3.0], 1.0)
    for step in range(steps):
        rows = slice(step * BATCH * TIME, (step + 1) * BATCH * TIME)
        at, label, w = x[rows].astype("f8"), np.eye(3)[y[rows]], weight[rows]
        logits, error = at @ kind, at @ size - at.sum(1, keepdims=True)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        if first is None:
            first = (w * -np.log((p * label).sum(1))).mean(), (error**2).mean()
        kind = kind - RATE * at.T @ ((p - label) * w[:, None]) / len(at)
        size = size - RATE * 2 * at.T @ error / len(at)
    return first, kind, size


def compare(kind: str, placement: str) -> dict[str, float]:
    """How far training is from the hand-written one, of labels [n, time] and of two outputs."""
    x, y = examples()
    both = {"kind": y, "size": x.sum(2, keepdims=True)}
    of = (
        (of_steps, input_of(kind, (x, y), WEIGHTS, one_hot=False)),
        (of_outputs, input_of(kind, (x, both), {"kind": WEIGHTS}, one_hot=False)),
    )
    (loss, other), *kernels = by_hand(2)
    found = {}
    for (model_fn, input_fn), expected in zip(of, (loss, loss + other), strict=True):
        told, _ = train(model_fn, input_fn, 1, placement)
        found[f"{model_fn.__name__} loss"] = abs(told - expected)
        _, weights = train(model_fn, input_fn, 2, placement)
        far = [np.abs(a - b).max() for a, b in zip(weights, kernels, strict=False)]
        found[f"{model_fn.__name__} weights"] = float(max(far))
    return found


def compare_all() -> dict[str, dict[str, float]]:
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    kinds = {"one device": "dataset", "accumulation": "source", "two replicas": "source"}
    found = {name: compare(kind, name) for name, kind in kinds.items()}
    found["two replicas of a dataset"] = compare("dataset", "two replicas")
    return found
