"""Small Keras models at random, each as a description of plain data that can be built again.

A description says what the model is, what its data are and how it is trained; JSON can hold it.
`descriptions()` draws one by hypothesis, `build` makes the compiled model, `arrays` its data.
"""

from typing import Any

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers

from tests.equivalence import random_parts as parts

TIME, CLASSES, VOCABULARY = 5, 3, 6
SERIES = ("tokens", "series")
_REDUCTIONS = ("sum_over_batch_size", "mean_with_sample_weight", "mean", "sum")
_UNITS = {"numbers": 2, "classes": CLASSES, "one_hot": CLASSES, "binary": 1}
_CLASS_WEIGHT = {0: 2.0, 1: 0.25}


def descriptions(replicas: int = 1) -> st.SearchStrategy[dict]:
    """Draws descriptions; the simpler choice comes first, for hypothesis to shrink to.

    Args:
        replicas: of those that are mirrored; the others run on one device.
    """
    return _descriptions(replicas)


@st.composite
def _descriptions(draw, replicas: int) -> dict:
    features = draw(st.sampled_from(["vector", "integers", "pair_dict", "pair_list", *SERIES]))
    series = features in SERIES
    run = draw(_runs(replicas))
    known = [*parts.LAYERS]
    if series:
        known += parts.SERIES_LAYERS
    elif run["accumulation"] == 1:  # micro-batches are normalised apart
        known += parts.MIXING_LAYERS
    pool = draw(st.sampled_from(["max", "mean", "gru", "flatten", None])) if series else None
    mask = series and pool != "flatten" and draw(st.booleans())
    keeps_time = series and pool is None
    summed = run["aggregation"] == "sum"
    heads = draw(st.lists(_heads(keeps_time, summed), min_size=1, max_size=2))
    single = len(heads) == 1
    chosen = draw(st.lists(st.sampled_from(known), max_size=3))
    if single and not set(chosen) & set(parts.WITH_LOSSES) and draw(st.booleans()):
        heads[0]["reduction"] = None  # a vector, which Keras adds to no scalar
    class_weight = (
        single
        and not keeps_time
        and heads[0]["labels"] in ("classes", "one_hot")
        and draw(st.booleans())
    )
    weights = draw(st.sampled_from([None, "each"] if single else [None, "one", "each"]))
    return {
        "features": features,
        "mask": mask,
        "all_masked": mask and pool != "mean" and draw(st.booleans()),
        "layers": chosen,
        "pool": pool,
        "heads": heads,
        "outputs": "single" if single else draw(st.sampled_from(["dict", "list"])),
        "weights": weights,
        "zero_weights": weights is not None and draw(st.booleans()),
        "class_weight": class_weight,
        "own_metrics": draw(st.sampled_from([False, False, True])),
        "optimizer": draw(_optimizers()),
        "run": run,
    }


@st.composite
def _runs(draw, replicas: int) -> dict:
    replicas, accumulation = draw(
        st.sampled_from([(replicas, 1), (1, 2), (replicas, 2), (1, 3), (1, 1)])
    )
    batch = draw(st.integers(1, 6))
    full = draw(st.integers(1, 2))
    return {
        "replicas": replicas,
        "accumulation": accumulation,
        "batch": batch,
        "examples": batch * full + draw(st.integers(0, batch - 1)),
        "epochs": draw(st.integers(1, 2)),
        "data": draw(st.sampled_from(["dataset", "source"])),
        "log": draw(st.integers(1, 2)),
        "aggregation": draw(st.sampled_from(["mean", "mean", "sum"])),
        # XLA takes long to compile.
        "jit": replicas == accumulation == 1 and draw(st.integers(0, 3)) == 3,
    }


@st.composite
def _heads(draw, keeps_time: bool, summed: bool) -> dict:
    labels = draw(st.sampled_from(list(parts.LOSSES)))
    # What gradient_aggregation="sum" is told of these would be wrong.
    known = [loss for loss in parts.LOSSES[labels] if not (summed and loss in parts.BATCH_MEANS)]
    loss = draw(st.sampled_from(known))
    plain = list(parts.PLAIN[labels])
    metrics = plain if keeps_time else [*plain, *parts.METRICS[labels]]
    return {
        "labels": labels,
        "column": labels in ("classes", "binary") and draw(st.booleans()),
        "loss": loss,
        "reduction": draw(st.sampled_from(_REDUCTIONS)),
        "loss_weight": draw(st.sampled_from([None, 0.3])),
        "weights": draw(st.sampled_from(["column", "steps" if keeps_time else "rows"])),
        "metrics": draw(st.lists(st.sampled_from(metrics), max_size=2)),
        "weighted_metrics": draw(st.lists(st.sampled_from(plain), max_size=1)),
    }


@st.composite
def _optimizers(draw) -> dict:
    optimizer: dict[str, Any] = {"name": draw(st.sampled_from(["SGD", "SGD", "SGD", "Adam"]))}
    if optimizer["name"] == "SGD" and draw(st.booleans()):
        optimizer["momentum"] = 0.9
    clip = draw(st.sampled_from([None, "clipnorm", "global_clipnorm", "clipvalue"]))
    if clip:
        optimizer[clip] = 0.02
    extra = draw(st.sampled_from([None, None, "schedule", "use_ema", "weight_decay"]))
    if extra:
        optimizer[extra] = 0.01 if extra == "weight_decay" else True
    return optimizer


def arrays(description: dict) -> tuple:
    """The data: (features, labels) or (features, labels, sample weights), structures of arrays."""
    n, random = description["run"]["examples"], np.random.RandomState(3)
    features = _features(description, n, random)
    heads = description["heads"]
    time = [TIME] if keeps_time(description) else []
    labels = [_labels(head, [n, *time], random) for head in heads]
    element = (features, _structured(description, labels))
    if description["weights"] is None:
        return element
    weights = [_weights(head["weights"], n, random) for head in heads]
    if description["zero_weights"]:
        for weight in weights:
            weight[: description["run"]["batch"]] = 0
    if description["weights"] == "one":
        return (*element, weights[0])
    return (*element, _structured(description, weights))


def weighed_by_class(element: tuple) -> tuple:
    """The same data with the weights of the labels' classes, for one head."""
    features, labels, *weights = element
    numbers = labels.argmax(-1) if labels.shape[-1:] == (CLASSES,) else labels.reshape([-1])
    found = np.array([_CLASS_WEIGHT.get(int(c), 1.0) for c in numbers], "float32")
    if weights:
        found = weights[0] * found.reshape([-1] + [1] * (weights[0].ndim - 1))
    return features, labels, found


def class_weight() -> dict[int, float]:
    return dict(_CLASS_WEIGHT)


def keeps_time(description: dict) -> bool:
    """Whether outputs and labels have a time dimension."""
    return description["features"] in SERIES and description["pool"] is None


def _features(description: dict, n: int, random) -> Any:
    kind = description["features"]
    if kind == "vector":
        return random.randn(n, 4).astype("float32")
    if kind == "integers":
        return random.randint(-2, 3, [n, 4]).astype("int32")
    if kind.startswith("pair"):
        pair = [random.randn(n, size).astype("float32") for size in (3, 2)]
        return dict(zip("ba", pair, strict=True)) if kind == "pair_dict" else tuple(pair)
    x = random.randint(1, VOCABULARY, [n, TIME])
    ends = random.randint(1, TIME + 1, n)
    if description["all_masked"]:
        ends[: description["run"]["batch"]] = 0
    for row, end in enumerate(ends):
        x[row, end:] = 0
    if kind == "tokens":
        return x.astype("int32")
    return (x[..., None] * np.array([0.3, -0.2])).astype("float32")


def _labels(head: dict, shape: list[int], random) -> np.ndarray:
    if head["labels"] == "numbers":
        return random.randn(*shape, 2).astype("float32")
    if head["labels"] == "binary":
        y = random.randint(0, 2, shape).astype("float32")
        return y[..., None] if head["column"] else y
    y = random.randint(0, CLASSES, shape).astype("int32")
    if head["labels"] == "one_hot":
        return np.eye(CLASSES, dtype="float32")[y]
    return y[..., None] if head["column"] else y


def _weights(kind: str, n: int, random) -> np.ndarray:
    shape = {"rows": [n], "column": [n, 1], "steps": [n, TIME]}[kind]
    weights = random.uniform(0, 3, shape).astype("float32")
    weights[::4] = 0
    return weights


def _structured(description: dict, values: list) -> Any:
    kind = description["outputs"]
    if kind == "single":
        return values[0]
    return dict(zip(_names(values), values, strict=True)) if kind == "dict" else tuple(values)


def _names(values: list) -> list[str]:
    return ["z", "y"][: len(values)]  # not in the order of the alphabet


class OwnMetrics(keras.Model):
    """A model with its own compute_metrics."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.size = keras.metrics.Mean(name="size")

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.size.update_state(keras.ops.abs(keras.tree.flatten(y_pred)[0]))
        return super().compute_metrics(x, y, y_pred, sample_weight)


def build(description: dict, reduction: str | None = "its own") -> keras.Model:
    """A compiled model, always with the same weights.

    Args:
        description: of `descriptions`.
        reduction: of all losses, in the place of their own.
    """
    keras.utils.set_random_seed(1)
    inputs, x = _inputs(description)
    for name in description["layers"]:
        make = {**parts.LAYERS, **parts.SERIES_LAYERS, **parts.MIXING_LAYERS}[name]
        x = make()(x)
    if description["pool"]:
        x = parts.POOLS[description["pool"]]()(x)
    heads = description["heads"]
    outputs = [
        layers.Dense(
            _UNITS[head["labels"]],
            activation="sigmoid" if head["labels"] == "binary" else None,
            name=name,
        )(x)
        for name, head in zip(_names(heads), heads, strict=True)
    ]
    kind = OwnMetrics if description["own_metrics"] else keras.Model
    structured = _structured(description, outputs)
    model = kind(inputs, list(structured) if isinstance(structured, tuple) else structured)

    def of_heads(field, listed=False):
        values = [field(head) for head in heads]
        if all(value in (None, []) for value in values):
            return None
        values = _structured(description, values)
        return list(values) if isinstance(values, tuple) else values

    model.compile(
        parts.optimizer(description["optimizer"]),
        of_heads(
            lambda head: parts.LOSSES[head["labels"]][head["loss"]](
                head["reduction"] if reduction == "its own" else reduction
            )
        ),
        loss_weights=of_heads(lambda head: head["loss_weight"])
        if len(heads) == 1 or all(head["loss_weight"] for head in heads)
        else None,
        metrics=of_heads(lambda head: [_metric(head, name) for name in head["metrics"]]),
        weighted_metrics=of_heads(
            lambda head: [_metric(head, name) for name in head["weighted_metrics"]]
        ),
    )
    return model


def _metric(head: dict, name: str) -> Any:
    return {**parts.PLAIN[head["labels"]], **parts.METRICS[head["labels"]]}[name]()


def _inputs(description: dict) -> tuple[Any, Any]:
    """The model's inputs, and what its first layer is given."""
    kind = description["features"]
    if kind.startswith("pair"):
        inputs = {name: keras.Input((size,), name=name) for name, size in (("b", 3), ("a", 2))}
        x = layers.Concatenate()(list(inputs.values()))
        return (inputs if kind == "pair_dict" else list(inputs.values())), x
    if kind == "tokens":
        inputs = keras.Input((TIME,), dtype="int32")
        return inputs, layers.Embedding(VOCABULARY, 3, mask_zero=description["mask"])(inputs)
    shape = (TIME, 2) if kind == "series" else (4,)
    inputs = keras.Input(shape, dtype="int32" if kind == "integers" else "float32")
    if kind == "integers":
        return inputs, layers.Rescaling(0.5)(inputs)
    return inputs, layers.Masking(0.0)(inputs) if description["mask"] else inputs
