"""Trains a random model by tfbig and by a loop written by hand, and says where they differ."""

import json
import logging
import math
from typing import Any, NamedTuple

import hypothesis
import keras
import numpy as np
import tensorflow as tf

import tfbig
from tests.equivalence import random_models as models, random_parts as parts
from tfbig.errors import UserError
from tfbig.layers.batch_position import batch_position_scope

_AT_ONCE = 10
_RATES = ("steps_per_sec", "examples_per_sec", "learning_rate", "step")


class Ran(NamedTuple):
    """What a training leaves.

    Attributes:
        weights, optimizer: the variables' values.
        history: loss and metrics of each log point.
        epochs: what callbacks are told at the end of each epoch.
        evaluation: the last evaluation.
        warnings: the lines of tfbig's log that warn.
    """

    weights: list[np.ndarray]
    optimizer: list[np.ndarray]
    history: list[dict[str, float]]
    epochs: list[dict[str, float]]
    evaluation: dict[str, float]
    warnings: list[str] = []


class Impossible(Exception):
    """Keras itself cannot train the model that a description asks for."""


class Search:
    """Tries random models in this process, with one number of replicas.

    Args:
        replicas: of the mirrored ones; the process shows as many CPU devices.
        shrinking: how many more models may be tried once one is wrong.
    """

    def __init__(self, replicas: int, shrinking: int = 40):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
        self._replicas, self._left = replicas, shrinking
        self._known: dict[str, list[str]] = {}
        self._wrong, self.impossible = False, 0

    @property
    def tried(self) -> int:
        """How many models were trained both ways."""
        return len(self._known) - self.impossible

    def run(self, examples: int, seed: int) -> None:
        """Draws descriptions and checks each.

        Raises:
            AssertionError: as `check`, of the simplest model that hypothesis finds.
        """
        for start in range(0, examples, _AT_ONCE):  # those of one run resemble each other
            hypothesis.seed(seed + start)(self._property(min(_AT_ONCE, examples - start)))()

    def _property(self, examples: int):
        @hypothesis.settings(
            max_examples=examples,
            database=None,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(models.descriptions(self._replicas))
        def holds(description):
            self.check(description)

        return holds

    def check(self, description: dict) -> None:
        """Compares the two trainings of a model; each model once.

        Raises:
            AssertionError: they differ, or tfbig refuses what it may not refuse; the message has
                all differences and the description as JSON.
        """
        text = json.dumps(description)
        if text not in self._known and self._left > 0:
            self._left -= self._wrong
            try:
                self._known[text] = differences(description)
            except Impossible:
                self._known[text], self.impossible = [], self.impossible + 1
            self._wrong = self._wrong or bool(self._known[text])
        found = self._known.get(text, [])
        if any("ollective ops is aborted" in line for line in found):
            self._left = 0  # the strategy of this process is of no more use
        assert not found, "\n".join([*found, f"description: {text}"])


def search(replicas: int, examples: int, seed: int, descriptions: list[dict]) -> dict:
    """Checks descriptions that are given, then random ones.

    Returns:
        "failure": what is wrong, or ""; "tried" and "impossible": how many models.
    """
    keras.utils.set_random_seed(1)
    logging.getLogger("absl").setLevel(logging.ERROR)
    searching, failure = Search(replicas), ""
    try:
        for description in descriptions:
            searching.check(description)
        searching.run(examples, seed)
    except AssertionError as error:
        failure = str(error)
    return {
        "failure": failure,
        "tried": searching.tried,
        "impossible": searching.impossible,
    }


def differences(description: dict) -> list[str]:
    """In what the trainings of a model differ, or [].

    Raises:
        Impossible: there is nothing to compare with.
    """
    try:
        expected = by_hand(description)
    except Exception as error:
        raise Impossible(str(error)) from error
    if not np.isfinite([at["loss"] for at in expected.history]).all():
        raise Impossible("the loss is not finite")
    excused = _excused(description)
    try:
        got = by_tfbig(description)
    except UserError as error:
        if any(name in str(error) for name in excused):
            return []
        return [f"tfbig refuses: {error}"]
    except Exception as error:
        return [f"tfbig fails: {type(error).__name__}: {str(error)[-600:]}"]
    if any(name in line for name in excused for line in got.warnings):
        return []
    try:
        return _compared(expected, got, 1e-2 if "bfloat16" in description["layers"] else 1e-5)
    except AssertionError as error:  # not even the numbers of entries agree
        return [str(error)]


def _excused(description: dict) -> list[str]:
    """The names of what is no sum over examples, which tfbig may refuse or warn about."""
    names = [
        parts.NAMES.get(metric, metric)
        for head in description["heads"]
        for metric in head["metrics"]
        if metric in parts.NO_SUMS
    ]
    if description["run"]["replicas"] * description["run"]["accumulation"] == 1:
        return names
    names += [
        parts.NAMES[head["loss"]]
        for head in description["heads"]
        if head["loss"] in parts.BATCH_LOSSES
    ]
    return names + ["add_loss" for layer in description["layers"] if layer in parts.BATCH_LAYERS]


def _compared(expected: Ran, got: Ran, allowed: float) -> list[str]:
    found = []
    for what in ("weights", "optimizer"):
        pairs = list(zip(getattr(expected, what), getattr(got, what), strict=True))
        largest = max((_distance(a, b) for a, b in pairs), default=0.0)
        if not largest <= allowed:
            found.append(f"{what} differ by {largest:.2g}")
    logs = [(f"log point {i}", *pair) for i, pair in enumerate(_pairs(expected, got, "history"))]
    logs += [(f"epoch {i}", *pair) for i, pair in enumerate(_pairs(expected, got, "epochs"))]
    logs.append(("evaluation", expected.evaluation, got.evaluation))
    for where, right, mine in logs:
        if set(right) != set(mine):
            found.append(f"{where} has {sorted(mine)}, not {sorted(right)}")
        found += [
            f"{where}: {name} is {mine[name]:.7g}, not {value:.7g}"
            for name, value in right.items()
            if name in mine
            and not math.isclose(mine[name], value, rel_tol=allowed, abs_tol=allowed)
        ]
    return found


def _pairs(expected: Ran, got: Ran, what: str) -> list[tuple[dict, dict]]:
    right, mine = getattr(expected, what), getattr(got, what)
    assert len(right) == len(mine), f"{len(mine)} entries of {what}, not {len(right)}"
    return list(zip(right, mine, strict=True))


def _distance(right: np.ndarray, mine: np.ndarray) -> float:
    assert right.shape == mine.shape
    return float(np.max(np.abs(right.astype(float) - mine), initial=0))


def by_tfbig(description: dict) -> Ran:
    """Trains by train_distributed."""
    element, run, seen = models.arrays(description), description["run"], []

    class Logs(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append({k: float(v) for k, v in logs.items() if k not in _RATES})

    def input_fn():
        if run["data"] == "source":
            data = tfbig.data.ArraySource(element).batch(run["batch"])
        else:
            data = tf.data.Dataset.from_tensor_slices(element).batch(run["batch"])
        if description["class_weight"]:
            data = tfbig.data.with_class_weight(data, models.class_weight())
        return data

    with _warnings() as warnings:
        result = tfbig.train_distributed(
            lambda: models.build(description),
            input_fn,
            eval_input_fn=input_fn,
            strategy="mirrored" if run["replicas"] > 1 else "one_device",
            devices=run["replicas"],
            epochs=run["epochs"],
            callbacks=[Logs()],
            config=tfbig.RunConfig(
                data_distribution="none",
                accumulation_steps=run["accumulation"],
                gradient_aggregation=run["aggregation"],
                jit_compile=run["jit"],
                log_step_count_steps=run["log"],
                tf_random_seed=1,
            ),
        )
    return Ran(
        [v.numpy() for v in result.model.variables],
        [v.numpy() for v in result.model.optimizer.variables],
        [_numbers_of(at) for at in result.history if "loss" in at],
        seen,
        _numbers_of(result.metrics),
        warnings,
    )


class _warnings(logging.Handler):
    """Collects what tfbig's log warns of inside the block."""

    def __enter__(self) -> list[str]:
        self._lines: list[str] = []
        logging.getLogger("tfbig").addHandler(self)
        return self._lines

    def __exit__(self, *error) -> None:
        logging.getLogger("tfbig").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self._lines.append(record.getMessage())


def _numbers_of(logs: dict) -> dict[str, float]:
    return {k: v for k, v in logs.items() if k not in _RATES and not k.startswith("val_")}


def by_hand(description: dict) -> Ran:
    """Trains by a loop of Keras's public functions that takes each global batch whole."""
    run, summed = description["run"], description["run"]["aggregation"] == "sum"
    model = models.build(description, "sum") if summed else models.build(description)
    # Metrics and the losses of single outputs are as they are compiled.
    judge = models.build(description) if summed else model
    element = models.arrays(description)
    if description["class_weight"]:
        element = models.weighed_by_class(element)
    batches = _batches(element, run["batch"])
    epochs, history, step, steps = [], [], 0, len(batches) * run["epochs"]
    span: list[_Step] = []
    for _ in range(run["epochs"]):
        epoch = []
        for batch, count in batches:
            done = _step(model, batch, count, step)
            step += 1
            epoch.append(done)
            span.append(done)
            if step % run["log"] == 0 or step == steps:
                history.append(_results(judge, span))
                span = []
        evaluation = _results(judge, [_evaluated(model, *batch) for batch in batches])
        values = {f"val_{name}": value for name, value in evaluation.items()}
        epochs.append({**_results(judge, epoch), **values})
    optimizer = [v.numpy() for v in model.optimizer.variables]
    if description["optimizer"].get("use_ema"):
        model.optimizer.finalize_variable_values(model.trainable_variables)
    weights = [v.numpy() for v in model.variables]
    return Ran(weights, optimizer, history, epochs, evaluation)


class _Step(NamedTuple):
    batch: tuple
    outputs: Any
    loss: float
    count: int


def _batches(element: tuple, size: int) -> list[tuple[tuple, int]]:
    n = len(tf.nest.flatten(element)[0])
    found = []
    for start in range(0, n, size):
        x, y, *weights = tf.nest.map_structure(
            lambda a: tf.constant(a[start : start + size]),  # noqa: B023
            element,
        )
        found.append(((x, y, weights[0] if weights else None), min(size, n - start)))
    return found


def _step(model: keras.Model, batch: tuple, count: int, step: int) -> _Step:
    x, y, weights = batch
    with tf.GradientTape() as tape:
        with batch_position_scope(tf.constant(step, tf.int64), tf.constant(0)):
            outputs = model(x, training=True)
        loss = tf.reduce_sum(model.compute_loss(x, y, outputs, weights))
    gradients = [  # an embedding's as a whole: Keras's Adam treats slices otherwise
        g if g is None else tf.convert_to_tensor(g)
        for g in tape.gradient(loss, model.trainable_variables)
    ]
    model.optimizer.apply(gradients, model.trainable_variables)
    return _Step(batch, outputs, float(loss), count)


def _evaluated(model: keras.Model, batch: tuple, count: int) -> _Step:
    x, y, weights = batch
    outputs = model(x, training=False)
    loss = tf.reduce_sum(model.compute_loss(x, y, outputs, weights, training=False))
    return _Step(batch, outputs, float(loss), count)


def _results(judge: keras.Model, steps: list[_Step]) -> dict[str, float]:
    """Loss and metrics over steps, each batch taken whole."""
    for metric in judge.metrics:
        metric.reset_state()
    for done in steps:
        x, y, weights = done.batch
        judge.compute_loss(x, y, done.outputs, weights)  # the losses of single outputs
        judge.compute_metrics(x, y, done.outputs, weights)
    results = {"loss": sum(s.loss * s.count for s in steps) / sum(s.count for s in steps)}
    for name, value in judge.get_metrics_result().items():
        value = np.asarray(value)
        if name == "loss":
            continue
        if value.ndim:
            results.update({f"{name}_{i}": float(v) for i, v in enumerate(value.ravel())})
        else:
            results[name] = float(value)
    return results
