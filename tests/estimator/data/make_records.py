"""Records what TF 2.15's tf.estimator does with the model_fns in model_fns.py.

tfbig runs on a TensorFlow that has no tf.estimator any more. What the old one computed was
therefore recorded once, with an environment of its own:

$ python3.11 -m venv /tmp/tf215
$ /tmp/tf215/bin/pip install 'tensorflow-cpu==2.15.*' 'tensorflow-estimator==2.15.*' scikit-learn
$ /tmp/tf215/bin/python tests/estimator/data/make_records.py

For each work it leaves, beside this file,

- `<work>.npz`: `losses` of the training steps; `initial/<name>` and `final/<name>`, all
  variables before and after them by their TF1 names; `evaluation/<name>` and
  `predictions/<name>`, what evaluate() and predict() return after them; `more_losses` of the
  steps that another train() call makes after that, and `more_evaluation/<name>` after those;
- `<work>_model_dir/`: the checkpoint after the training steps, as tf.estimator wrote it, without
  its graph.

The tests read these files; nothing in the project imports this one.
"""

import pathlib
import shutil
import tempfile

import model_fns
import numpy as np
import tensorflow as tf

_HERE = pathlib.Path(__file__).resolve().parent


class Losses(tf.compat.v1.train.SessionRunHook):
    """Keeps the loss of each step."""

    def __init__(self):
        self.values = []

    def begin(self):
        # Estimator adds the spec's loss to those that tf.losses has put there.
        self._loss = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.LOSSES)[-1]

    def before_run(self, run_context):
        return tf.compat.v1.train.SessionRunArgs(self._loss)

    def after_run(self, run_context, run_values):
        self.values.append(run_values.results)


def main() -> None:
    if not tf.__version__.startswith("2.15."):
        raise SystemExit(f"this is TensorFlow {tf.__version__}; the records are those of 2.15.")
    tf.config.threading.set_intra_op_parallelism_threads(1)  # sums in one order, on any machine
    for name, work in model_fns.WORKS.items():
        tf.keras.utils.set_random_seed(1)  # which the initializers of tf.layers follow in 2.15
        with tempfile.TemporaryDirectory() as folder:
            record(name, work, folder)


def record(name: str, work: model_fns.Work, folder: str) -> None:
    """Trains, evaluates and trains on; writes the work's files."""
    estimator = tf.estimator.Estimator(
        work.model_fn(tf.compat.v1),
        model_dir=folder,
        params=work.params(),
    )
    losses, more_losses = Losses(), Losses()
    estimator.train(work.train_input_fn, steps=model_fns.STEPS, hooks=[losses])
    keep_checkpoint(folder, _HERE / f"{name}_model_dir")
    evaluation = estimator.evaluate(work.eval_input_fn)
    predicted = list(estimator.predict(work.predict_input_fn))
    final = variables(folder, model_fns.STEPS)
    estimator.train(work.one_batch_input_fn, steps=model_fns.MORE_STEPS, hooks=[more_losses])
    more_evaluation = estimator.evaluate(work.eval_input_fn)
    np.savez_compressed(
        _HERE / f"{name}.npz",
        losses=np.array(losses.values),
        more_losses=np.array(more_losses.values),
        **{f"initial/{key}": value for key, value in variables(folder, 0).items()},
        **{f"final/{key}": value for key, value in final.items()},
        **{f"evaluation/{key}": value for key, value in evaluation.items()},
        **{f"more_evaluation/{key}": value for key, value in more_evaluation.items()},
        **{f"predictions/{key}": np.stack([p[key] for p in predicted]) for key in predicted[0]},
    )


def variables(folder: str, step: int) -> dict[str, np.ndarray]:
    """All variables of the checkpoint of a step."""
    reader = tf.train.load_checkpoint(f"{folder}/model.ckpt-{step}")
    return {key: reader.get_tensor(key) for key in sorted(reader.get_variable_to_shape_map())}


def keep_checkpoint(folder: str, kept: pathlib.Path) -> None:
    """Copies the newest checkpoint and the file that names it."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    prefix = pathlib.Path(tf.train.latest_checkpoint(folder))
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        if path.suffix != ".meta":
            shutil.copy(path, kept / path.name)
    (kept / "checkpoint").write_text(
        f'model_checkpoint_path: "{prefix.name}"\nall_model_checkpoint_paths: "{prefix.name}"\n'
    )


if __name__ == "__main__":
    main()
