"""Wide & deep (https://arxiv.org/abs/1606.07792) on a generated log of clicks.

The log is drawn from a known model, so the best AUC that any model can reach on it is known too.
It is printed beside the AUC of this one. On one device; and as a cluster on this machine, whose two
parameter servers hold the tables of a million users and a million items:

$ python examples/recommender.py --model_dir=runs/alone
$ tfbig launch --workers=2 --ps=2 --evaluator -- python examples/recommender.py
"""

import tfbig
import keras
import numpy as np
from absl import app, flags

_ROWS = flags.DEFINE_integer("rows", 2_000_000, "Rows of the log; 1 in 20 is held out.", 1000)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1024, "Rows of a step.", 1)
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "The last step; None: after one pass.", 1)
_MODEL_DIR = flags.DEFINE_string("model_dir", "runs/recommender", "Checkpoints, for all tasks.")
_STRATEGY = flags.DEFINE_string("strategy", "auto", "auto: the cluster's, or one device.")

USERS, ITEMS, CATEGORIES, TIMES = 1_000_000, 1_000_000, 1000, 24 * 7
SEEN = 5  # the user has looked at this many categories before, or fewer


def click_log(rows: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Returns the fields, the clicks and their true probabilities; the same in every task."""
    random = np.random.default_rng(20)

    def ids(count: int, *shape: int) -> np.ndarray:  # a power law: i has probability ~ 1 / (i + 1)
        return np.expm1(random.random(shape) * np.log(count + 1)).astype("int32")

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, "float32")

    user, item, seen = ids(USERS, rows), ids(ITEMS, rows), ids(CATEGORIES, rows, SEEN)
    time = random.integers(TIMES, size=rows, dtype="int32")
    category = item % CATEGORIES
    seen[np.arange(SEEN) >= random.integers(SEEN + 1, size=[rows, 1])] = -1  # padding
    topics = np.append(normal(CATEGORIES, 3), np.zeros([1, 3], "float32"), axis=0)  # [-1] is 0
    taste = topics[seen].sum(1) / np.maximum((seen >= 0).sum(1), 1)[:, np.newaxis]
    logits = (taste * topics[category]).sum(1) - 1.5
    logits += 0.5 * normal(USERS)[user] + 0.5 * normal(ITEMS)[item] + 0.4 * normal(TIMES)[time]
    probabilities = 1 / (1 + np.exp(-logits))
    clicked = (random.random(rows, "float32") < probabilities).astype("float32")
    fields = {"user": user, "item": item, "category": category, "time": time, "seen": seen}
    return fields, clicked, probabilities


def build_model() -> keras.Model:
    shapes = {"user": [], "item": [], "category": [], "time": [], "seen": [SEEN]}
    inputs = {name: keras.Input(shape, dtype="int32", name=name) for name, shape in shapes.items()}

    def rows_of(name: str, ids: int, width: int, **keywords) -> keras.KerasTensor:
        return tfbig.layers.ShardedEmbedding(ids, width, **keywords)(inputs[name])

    wide = [  # a number for each id
        rows_of(name, ids, 1, embeddings_initializer="zeros")
        for name, ids in (("user", USERS), ("item", ITEMS), ("time", TIMES))
    ]
    x = keras.layers.Concatenate()(
        [
            rows_of("user", USERS, 8),
            rows_of("item", ITEMS, 8),
            rows_of("category", CATEGORIES, 16),
            rows_of("seen", CATEGORIES, 16, combiner="mean", mask_value=-1),
        ]
    )
    for units in (128, 64):
        x = keras.layers.Dense(units, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Add()([*wide, keras.layers.Dense(1)(x)]))
    model.compile(
        # A row's gradient is that of a few examples, divided by the batch: far below Keras's 0.1.
        keras.optimizers.Adagrad(0.05, initial_accumulator_value=1e-8),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )
    return model


def main(argv: list[str]) -> None:
    del argv
    fields, clicked, probabilities = click_log(_ROWS.value)
    training, held_out = np.split(np.arange(_ROWS.value), [_ROWS.value * 19 // 20])
    log = tfbig.data.ArraySource((fields, clicked[:, None])).batch(_BATCH_SIZE.value)
    steps = _MAX_STEPS.value or -(-len(training) // _BATCH_SIZE.value)
    a_quarter = -(-steps // 4)
    result = tfbig.train_distributed(
        build_model,
        lambda: log.select(training),
        eval_input_fn=lambda: log.select(held_out),
        strategy=_STRATEGY.value,
        model_dir=_MODEL_DIR.value,
        max_steps=steps,
        config=tfbig.RunConfig(
            save_checkpoints_steps=a_quarter,  # an evaluator evaluates each checkpoint
            eval_every_steps=a_quarter,
            keep_checkpoint_max=2,
            tf_random_seed=1,
        ),
    )
    if result.model is None:
        return  # a worker, ps or evaluator: the chief prints the result
    best = keras.metrics.AUC()
    best.update_state(clicked[held_out], probabilities[held_out])
    print(f"The log is generated: {_ROWS.value} rows, {clicked.mean():.0%} of them clicks.")
    print(
        f"step {result.global_step}: held-out AUC {result.metrics['auc']:.4f}, "
        f"best possible {float(best.result()):.4f}"
    )


if __name__ == "__main__":
    app.run(main)
