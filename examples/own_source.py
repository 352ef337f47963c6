"""Your own data with random access: a Source that computes its examples from their indices.

The library chooses the indices: a new permutation of all of them in every pass, with no shuffle
buffer. A restarted run continues with the next batch.

$ python examples/own_source.py
"""

import tfbig
import keras
import numpy as np
from absl import app, flags

_MAX_STEPS = flags.DEFINE_integer("max_steps", 1000, "The step at which to stop.")


class Spirals(tfbig.data.Source):
    """Points of two spirals, labelled with their spiral."""

    def __len__(self) -> int:
        return 1_000_000

    def read(self, indices: np.ndarray):
        spiral = indices % 2
        turn = indices / len(self) * 3 * np.pi
        x, y = turn * np.cos(turn + np.pi * spiral), turn * np.sin(turn + np.pi * spiral)
        return np.stack([x, y], -1).astype(np.float32), spiral.astype(np.int32)


def build_model() -> keras.Model:
    layers = [keras.layers.Dense(64, activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((2,)), *layers, keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


def main(argv: list[str]) -> None:
    del argv
    source = Spirals().map(lambda batch: (batch[0] / 10, batch[1]))
    result = tfbig.train_distributed(
        build_model, lambda: source.batch(256), max_steps=_MAX_STEPS.value
    )
    print(f"step {result.global_step}: accuracy {result.history[-1]['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
