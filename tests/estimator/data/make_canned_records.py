"""Records what TF 2.15's canned estimators do with the works in canned_works.py.

$ /tmp/tf215/bin/python tests/estimator/data/make_canned_records.py

The environment is that of make_records.py. It leaves canned.npz beside this file, with, for each
work under `v1/<work>/` (tf.compat.v1.estimator) and `v2/<work>/` (tf.estimator): `losses` of the
training steps; `initial/<name>` and `final/<name>`, all variables before and after them;
`evaluation/<name>` and `predictions/<name>`. The tests read the file; nothing imports this one.
"""

import pathlib
import sys
import tempfile

import canned_works as works
import numpy as np
import tensorflow as tf
from make_records import Losses, variables

_HERE = pathlib.Path(__file__).resolve().parent
_V1 = {
    "Adagrad": tf.compat.v1.train.AdagradOptimizer,
    "Adam": tf.compat.v1.train.AdamOptimizer,
    "SGD": tf.compat.v1.train.GradientDescentOptimizer,
}
_V2 = {name: getattr(tf.keras.optimizers.legacy, name) for name in ("Adagrad", "Adam", "SGD")}


def main() -> None:
    if not tf.__version__.startswith("2.15."):
        raise SystemExit(f"this is TensorFlow {tf.__version__}; the records are those of 2.15.")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    found: dict[str, np.ndarray] = {}
    sides = (
        ("v1", tf.compat.v1.estimator, _V1, works.WORKS),
        ("v2", tf.estimator, _V2, works.WORKS | works.HEADS),
    )
    for side, module, optimizers, todo in sides:
        for name, work in todo.items():
            tf.keras.utils.set_random_seed(1)
            make = works.optimizer_maker(optimizers, summed=side == "v1")
            with tempfile.TemporaryDirectory() as folder:
                one = record(work.make(module, make, {"model_dir": folder}), work, folder)
            found |= {f"{side}/{name}/{key}": value for key, value in one.items()}
            print(side, name, one["losses"][[0, -1]], file=sys.stderr)
    np.savez_compressed(_HERE / "canned.npz", **found)


def record(estimator, work: works.Work, folder: str) -> dict[str, np.ndarray]:
    """Trains, evaluates and predicts."""
    losses = Losses()
    estimator.train(works.train_input_fn(work), steps=works.STEPS, hooks=[losses])
    evaluation = estimator.evaluate(works.eval_input_fn(work))
    predicted = list(estimator.predict(works.predict_input_fn(work)))
    return {
        "losses": np.array(losses.values),
        **{f"initial/{key}": value for key, value in variables(folder, 0).items()},
        **{f"final/{key}": value for key, value in variables(folder, works.STEPS).items()},
        **{f"evaluation/{key}": value for key, value in evaluation.items()},
        **{
            f"predictions/{name_of(key)}": plain(np.stack([p[key] for p in predicted]))
            for key in predicted[0]
        },
    }


def name_of(key) -> str:
    """The name of a prediction; with several heads the key is (head, name)."""
    return key if isinstance(key, str) else ".".join(key)


def plain(array: np.ndarray) -> np.ndarray:
    """Strings as bytes of one length, which load without pickle."""
    return array.astype(np.bytes_) if array.dtype == object else array


if __name__ == "__main__":
    main()
