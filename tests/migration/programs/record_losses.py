"""Records the losses of images.py.old and tagger.py.old on TF 2.15, where they run as they are.

$ python3.11 -m venv /tmp/tf215
$ /tmp/tf215/bin/pip install 'tensorflow-cpu==2.15.*' 'tensorflow-estimator==2.15.*' scikit-learn
$ /tmp/tf215/bin/python tests/migration/programs/record_losses.py images
$ /tmp/tf215/bin/python tests/migration/programs/record_losses.py tagger

It leaves `<name>.json` beside this file: `variables`, the shapes of the trainable variables;
`losses` of the first STEPS steps from `initial_values`; and `evaluation`, what evaluate() returns
then. test_programs.py calls the functions for both sides.
"""

import importlib.util
import json
import pathlib
import re
import sys
import tempfile
import types
import zlib

import numpy as np
import tensorflow as tf

STEPS = 20
PARAMS = {
    "images": {"learning_rate": 0.05, "dropout_rate": 0.0},
    "tagger": {"units": 24, "learning_rate": 0.01},
}
_HERE = pathlib.Path(__file__).resolve().parent
_OTHERS = re.compile(r"global_step|/Adam|/Momentum|beta\d_power|moving_")


def load(path: pathlib.Path) -> types.ModuleType:
    """Imports a program, whose name ends in .py, without running its main."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def input_fns(name: str, program: types.ModuleType, folder: pathlib.Path) -> tuple:
    """The input functions of training and evaluation, whose data is always in the same order."""
    if name == "tagger":
        paths = [folder / "train.tfrecord", folder / "test.tfrecord"]
        for seed, path in enumerate(paths, 1):
            program.write_sentences(str(path), 640 // seed, seed)  # 640 and 320
        return tuple(lambda p=p: program.input_fn(str(p), 32, False) for p in paths)

    def read(split):
        images, labels = program.load(split)
        data = tf.data.Dataset.from_tensor_slices(({"image": images / 16}, labels))
        # Of equal batches: "loss" of evaluate() was a mean over batches, and is one over examples.
        return data.take(640 if split == "train" else 288).batch(32)

    return lambda: read("train"), lambda: read("test")


def params(name: str, folder: pathlib.Path) -> dict | types.SimpleNamespace:
    """The params of model_fn, for one run in a folder."""
    found = {**PARAMS[name], "summary_dir": str(folder / "summaries")}
    return types.SimpleNamespace(**found) if name == "tagger" else found


def initial_values(variables: dict[str, list[int]], folder: pathlib.Path) -> str:
    """Writes a checkpoint with the same values for variables of these shapes everywhere."""
    prefix = str(folder / "initial/model.ckpt-0")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, shape in variables.items():
            value = np.random.RandomState(zlib.crc32(name.encode())).uniform(-0.2, 0.2, shape)
            value += name.endswith("gamma")
            tf.compat.v1.get_variable(name, initializer=value.astype("float32"))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, prefix)
    return prefix


class _Losses(tf.compat.v1.train.SessionRunHook):
    def __init__(self):
        self.values = []

    def begin(self):
        # Estimator adds the spec's loss to those that tf.losses has put there.
        self._loss = tf.compat.v1.get_collection(tf.compat.v1.GraphKeys.LOSSES)[-1]

    def before_run(self, run_context):
        return tf.compat.v1.train.SessionRunArgs(self._loss)

    def after_run(self, run_context, run_values):
        self.values.append(float(run_values.results))


def record(name: str, folder: pathlib.Path) -> dict:
    """Runs a program on TF 2.15; returns what its JSON file holds."""
    v1 = tf.compat.v1
    v1.contrib = types.SimpleNamespace(  # those of its names that the programs need to start
        layers=types.SimpleNamespace(
            xavier_initializer=v1.glorot_uniform_initializer,
            l2_regularizer=lambda scale: tf.keras.regularizers.L2(scale / 2),
        )
    )
    code = (_HERE / f"{name}.py.old").read_text()
    path = folder / f"{name}.py"
    path.write_text(
        re.sub("^import tensorflow as tf$", "import tensorflow.compat.v1 as tf", code, flags=re.M)
    )
    program = load(path)
    train, test = input_fns(name, program, folder)

    def trained(subfolder, steps, **keywords):
        losses = _Losses()
        estimator = v1.estimator.Estimator(
            program.model_fn, str(folder / subfolder), params=params(name, folder), **keywords
        )
        return estimator.train(train, steps=steps, hooks=[losses]), losses.values

    reader = tf.train.load_checkpoint(trained("one", 1)[0].latest_checkpoint())
    shapes = reader.get_variable_to_shape_map()
    variables = {key: shapes[key] for key in sorted(shapes) if not _OTHERS.search(key)}
    initial = initial_values(variables, folder)
    estimator, losses = trained("run", STEPS, warm_start_from=initial)
    evaluation = {key: float(value) for key, value in estimator.evaluate(test).items()}
    return {"variables": variables, "losses": losses, "evaluation": evaluation}


def main() -> None:
    if not tf.__version__.startswith("2.15."):
        raise SystemExit(f"this is TensorFlow {tf.__version__}; the records are those of 2.15.")
    tf.compat.v1.disable_v2_behavior()
    with tempfile.TemporaryDirectory() as folder:
        found = record(sys.argv[1], pathlib.Path(folder))
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
    (_HERE / f"{sys.argv[1]}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
