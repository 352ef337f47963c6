"""A table in CSV files: split by class, cleaned by statistics of the training part, trained on.

Scikit-learn's breast-cancer data are written to several files first, with one cell in fifty
left empty, as in real tables. The files are converted once, and any row is then read by its index.
So neither the shuffle nor the split copies data.

$ python examples/csv_tabular.py
$ python examples/csv_tabular.py --folder=/tmp/cancer_csv
"""

import os
import tempfile

import tfbig
import keras
import numpy as np
from absl import app, flags
from sklearn.datasets import load_breast_cancer
from tfbig.data import cleaning, splitting

_FOLDER = flags.DEFINE_string("folder", None, "Where the files are; None: a temporary folder.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 300, "The step at which to stop.")
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and shuffles.")


def write_files(folder: str) -> None:
    """Writes four files, sorted by class, so that only a global shuffle mixes the classes."""
    os.makedirs(folder, exist_ok=True)
    table = load_breast_cancer(as_frame=True).frame.sort_values("target")
    measured = table.drop(columns="target")
    table[measured.columns] = measured.mask(np.random.default_rng(0).random(measured.shape) < 0.02)
    for shard, rows in enumerate(np.array_split(np.arange(len(table)), 4)):
        table.iloc[rows].to_csv(os.path.join(folder, f"cancer-{shard}.csv"), index=False)


def stacked(batch):
    """The feature columns side by side: [n, 30]."""
    features, label = batch
    return np.stack(list(features.values()), axis=1), label


def train(folder: str) -> tfbig.TrainResult:
    if not os.path.exists(os.path.join(folder, "cancer-0.csv")):
        write_files(folder)
    source = tfbig.data.CsvSource(os.path.join(folder, "cancer-*.csv"), label="target")
    split = splitting.stratified(source.column("target"), (0.8, 0.2), seed=0)
    cleaner = cleaning.Cleaning([cleaning.FillMissing(), cleaning.ClipOutliers(factor=3.0)])
    training = cleaner.fit(source.select(split.train)).map(stacked)
    test = cleaner.apply(source.select(split.test)).map(stacked)
    print(cleaner.report)
    rows, _ = training.read(np.arange(len(training)))

    def build_model() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((rows.shape[1],)),
                keras.layers.Normalization(mean=rows.mean(0), variance=rows.var(0)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(1),
            ]
        )
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)  # of logits
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=[accuracy])
        return model

    return tfbig.train_distributed(
        build_model,
        lambda: training.batch(32),
        eval_input_fn=lambda: test.batch(32),
        max_steps=_MAX_STEPS.value,
        config=tfbig.RunConfig(tf_random_seed=_SEED.value),
    )


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        result = train(_FOLDER.value or temporary)
    print(f"step {result.global_step}: held-out accuracy {result.metrics['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
