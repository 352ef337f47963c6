"""Wide & deep (https://arxiv.org/abs/1606.07792) on a log of clicks that is generated, not real.

Because the log is drawn from a known model, the best AUC that any model can reach on it is known
too, and is printed beside what this one reaches. Alone, and as a cluster on this machine, whose two
parameter servers hold the tables of a million users and a million items:

$ python examples/recommender.py
$ tfbig launch --workers=2 --ps=2 --evaluator -- python examples/recommender.py

A model_dir that has a finished run in it is not trained again: give another one.
"""

import tfbig
import keras
import numpy as np
from absl import app, flags

_ROWS = flags.DEFINE_integer("rows", 2_000_000, "Rows of the log; 1 in 20 is held out.", 20)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1024, "Rows of a step.", 1)
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "The last step; None: one pass.")
_MODEL_DIR = flags.DEFINE_string("model_dir", "runs/recommender", "Checkpoints; all tasks share it.")
_STRATEGY = flags.DEFINE_string("strategy", "auto", "auto: the cluster's, else one device.")

USERS, ITEMS, CATEGORIES, HOURS, DEVICES = 1_000_000, 1_000_000, 1000, 24, 4
SEEN = 5  # at most so many categories that the user has looked at before


def click_log(rows: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The same log in every task: its fields, who clicked, and the true probability of that."""
    random = np.random.default_rng(20)

    def power_law(ids: int, *shape: int) -> np.ndarray:  # id i comes with probability ~ 1 / (i + 1)
        return np.expm1(random.random(shape) * np.log(ids + 1)).astype("int32")

    def effects(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, "float32")

    item = power_law(ITEMS, rows)
    seen = power_law(CATEGORIES, rows, SEEN)
    seen[np.arange(SEEN) >= random.integers(SEEN + 1, size=(rows, 1))] = -1  # fewer: padded
    fields = {
        "user": power_law(USERS, rows),
        "item": item,
        "category": item % CATEGORIES,
        "hour_and_device": random.integers(HOURS * DEVICES, size=rows, dtype="int32"),
        "seen": seen,
    }
    topics = np.concatenate([effects(CATEGORIES, 3), np.zeros([1, 3], "float32")])  # [-1]: none
    taste = sum(topics[seen[:, i]] for i in range(SEEN)) / np.maximum((seen >= 0).sum(1), 1)[:, None]
    logits = (
        -1.5
        + 0.7 * effects(USERS)[fields["user"]]
        + 0.7 * effects(ITEMS)[item]
        + 0.4 * effects(HOURS * DEVICES)[fields["hour_and_device"]]
        + 0.7 * (taste * topics[fields["category"]]).sum(1)
    )
    probabilities = 1 / (1 + np.exp(-logits))
    clicked = (random.random(rows, "float32") < probabilities).astype("float32")
    return fields, clicked, probabilities


def build_model() -> keras.Model:
    inputs = {
        name: keras.Input([SEEN] if name == "seen" else [], dtype="int32", name=name)
        for name in ("user", "item", "category", "hour_and_device", "seen")
    }

    def rows(name: str, ids: int, width: int, **keywords) -> keras.KerasTensor:
        table = tfbig.layers.ShardedEmbedding(ids, width, **keywords)
        return table(inputs[name])

    wide = [
        rows(name, ids, 1, embeddings_initializer="zeros")
        for name, ids in (("user", USERS), ("item", ITEMS), ("hour_and_device", HOURS * DEVICES))
    ]
    deep = [
        rows("user", USERS, 8),
        rows("item", ITEMS, 8),
        rows("category", CATEGORIES, 16),
        rows("seen", CATEGORIES, 16, combiner="mean", mask_value=-1),
    ]
    x = keras.layers.Concatenate()(deep)
    for units in (128, 64):
        x = keras.layers.Dense(units, "relu")(x)
    logits = keras.layers.Add()([*wide, keras.layers.Dense(1)(x)])
    model = keras.Model(inputs, logits)
    # A row's first gradients are small: that of an example, divided by the size of the batch.
    optimizer = keras.optimizers.Adagrad(LR, initial_accumulator_value=1e-8)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=[keras.metrics.AUC(from_logits=True, name="auc")])
    return model

import os
LR = float(os.environ.get("LR", "0.1"))

def main(argv: list[str]) -> None:
    del argv
    fields, clicked, probabilities = click_log(_ROWS.value)
    training, held_out = np.split(np.arange(_ROWS.value), [_ROWS.value * 19 // 20])
    log = tfbig.data.ArraySource((fields, clicked[:, None])).batch(_BATCH_SIZE.value)
    result = tfbig.train_distributed(
        build_model,
        lambda: log.select(training),
        eval_input_fn=lambda: log.select(held_out),
        strategy=_STRATEGY.value,
        model_dir=_MODEL_DIR.value,
        max_steps=_MAX_STEPS.value,
        epochs=None if _MAX_STEPS.value else 1,
    )
    if result.model is None:
        return  # one of the chief's helpers in a cluster
    best = keras.metrics.AUC()
    best.update_state(clicked[held_out], probabilities[held_out])
    print(f"a generated log of {_ROWS.value} rows, {clicked.mean():.1%} of them clicked")
    print(
        f"step {result.global_step}: held-out AUC {result.metrics['auc']:.4f}, "
        f"best possible {float(best.result()):.4f}"
    )


if __name__ == "__main__":
    app.run(main)
