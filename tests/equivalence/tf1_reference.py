"""The reference of a TensorFlow 1 model_fn: TensorFlow 1, its graph in a session."""

from typing import Any

import numpy as np
import tensorflow as tf

from tests.equivalence.case import Case, Outcome

v1 = tf.compat.v1


class _Session:
    """One mode of a model_fn, with values of its own."""

    def __init__(self, case: Case, mode: str):
        self.graph = tf.Graph()
        with self.graph.as_default():
            v1.train.create_global_step()
            features, labels = case.arrays()
            self._fed = [v1.placeholder(a.dtype, [None, *a.shape[1:]]) for a in (features, labels)]
            self.spec = case.model_fn(*self._fed, mode)
            self._taken = v1.get_collection("taken")
            self._updates = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
            self.session = v1.Session(graph=self.graph)
            self.session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
            self.variables = {v.op.name: v for v in v1.global_variables()}
            self.moving = [n for n in self.variables if "/moving_" in n]

    def run(self, fetches: Any, batch: Any, feed: dict | None = None) -> Any:
        fed = dict(zip(self._fed, batch, strict=True))
        return self.session.run(fetches, {**fed, **(feed or {})})

    def values(self) -> dict[str, np.ndarray]:
        return self.session.run(self.variables)

    def load(self, values: dict[str, np.ndarray]) -> None:
        with self.graph.as_default():
            for name, value in values.items():
                self.variables[name].load(value, self.session)

    def step(self, batch: Any, parts: int) -> float:
        """One update; moving statistics are the parts' own, averaged by their examples."""
        n = len(batch[1])
        cuts = [(n * p // parts, n * (p + 1) // parts) for p in range(parts)]
        cuts = [(start, stop) for start, stop in cuts if start < stop]
        if len(cuts) == 1:
            return float(self.run([self.spec.loss, self.spec.train_op], batch)[0])
        return self._step_in_parts(batch, cuts, n)

    def _step_in_parts(self, batch: Any, cuts: list, n: int) -> float:
        before = {name: self.values()[name] for name in self.moving}
        loss, gradients, moving = 0.0, None, {name: 0.0 for name in self.moving}
        for start, stop in cuts:
            self.load(before)
            share, part = (stop - start) / n, [a[start:stop] for a in batch]
            value, taken, _ = self.run([self.spec.loss, self._taken, self._updates], part)
            loss += share * float(value)
            taken = [share * g for g in taken]
            so_far = gradients or [0.0] * len(taken)
            gradients = [a + b for a, b in zip(so_far, taken, strict=True)]
            moving = {k: v + share * self.values()[k] for k, v in moving.items()}
        self.run(self.spec.train_op, batch, dict(zip(self._taken, gradients, strict=True)))
        self.load(moving)
        return loss


def train(case: Case, parts: int) -> Outcome:
    """Trains on the global batches, one session.run each.

    Args:
        parts: into how many parts each batch is cut, which the model sees one after the other.
    """
    session, arrays = _Session(case, "train"), case.arrays()
    history, step, loss_sum, examples = [], 0, 0.0, 0
    size = case.batch_size
    for _ in range(case.epochs):
        for start in range(0, len(arrays[1]), size):
            batch = [a[start : start + size] for a in arrays]
            loss_sum += session.step(batch, parts) * len(batch[1])
            examples, step = examples + len(batch[1]), step + 1
            if step % case.log_every == 0 or step == case.steps:
                history.append({"step": step, "loss": loss_sum / examples})
                loss_sum, examples = 0.0, 0
    values = session.values()
    with session.graph.as_default():
        weights = {v.op.name for v in v1.trainable_variables()} | set(session.moving)
    return Outcome(
        [values[name] for name in sorted(weights)],
        [values[name] for name in sorted(set(values) - weights)],
        history,
        _evaluate(case, values, weights) if case.evaluates else {},
    )


def _evaluate(case: Case, values: dict, weights: set[str]) -> dict[str, float]:
    session, arrays = _Session(case, "eval"), case.arrays()
    session.load({name: values[name] for name in weights})
    metrics = session.spec.eval_metric_ops
    loss_sum = 0.0
    for start in range(0, len(arrays[1]), case.batch_size):
        batch = [a[start : start + case.batch_size] for a in arrays]
        loss, _ = session.run([session.spec.loss, [u for _, u in metrics.values()]], batch)
        loss_sum += float(loss) * len(batch[1])
    results = session.session.run({name: value for name, (value, _) in metrics.items()})
    return {"loss": loss_sum / len(arrays[1]), **{k: float(v) for k, v in results.items()}}
