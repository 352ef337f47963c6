"""One measurement: one contestant runs one workload, in this process.

$ python benchmarks/contestants.py mlp tfbig
$ python benchmarks/contestants.py mlp tfbig '{"steps_per_loop": 1}'

The last argument depends on the contestant. tfbig, and model_fn, canned and canned_tf1 (tfbig with
the model as a TF1 model_fn, and as the DNNClassifier of tfbig.estimator and of
tfbig.compat.v1.estimator), take fields of RunConfig, `strategy`, `devices` and `batch`. tune takes
fields of Recipe, and fit takes {"freeze": "backbone"} or nothing.
Prints one JSON object: steps_per_sec, ms_per_step, first_step_sec (from the call to the end of
the first step, building the model included), peak_mib of the whole process.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time

DESCRIPTIONS = {
    "mlp": "digits MLP 64-128-10, Adam, batch 64, 23 steps per epoch",
    "mlp_long": "the same on the digits twenty times over, 450 steps per epoch",
    "lm": "Transformer LM, 3.3 M parameters, 8 x 128 tokens, Adam",
    "cnn": "digits CNN, 3x3x32 and 3x3x64, Adam, batch 64",
}
# (steps to measure, steps before that)
_STEPS = {
    ("mlp", "tfbig"): (20_000, 1_000),
    ("mlp", "model_fn"): (20_000, 1_000),
    ("mlp", "canned"): (20_000, 1_000),
    ("mlp", "canned_tf1"): (20_000, 1_000),
    ("mlp", "fit"): (1_150, 46),
    ("mlp", "fit_32"): (1_150, 46),
    ("mlp", "xla_loop"): (20_000, 100),
    ("mlp_long", "tfbig"): (20_000, 1_000),
    ("mlp_long", "fit"): (1_800, 450),
    ("mlp_long", "fit_32"): (5_400, 450),
    ("mlp_long", "xla_loop"): (20_000, 100),
    ("cnn", "tfbig"): (900, 100),
    ("cnn", "fit"): (920, 46),
    ("lm", "tfbig"): (60, 6),
    ("lm", "fit"): (60, 6),
    ("cnn", "tune"): (900, 100),
    ("lm", "tune"): (60, 6),
}


def main(work: str, name: str, options: str = "{}") -> None:
    import tfbig  # noqa: F401 - sets what TensorFlow reads when it is imported

    arrays, build, batch = _WORKS[work]()
    steps, warm_up = _STEPS[work, name]
    options = json.loads(options)
    if name == "model_fn":
        import mlp_model_fn

        from tfbig.compat import v1

        build = mlp_model_fn.build(v1)
    if name.startswith("canned"):
        arrays, build = ({"x": arrays[0]}, arrays[1]), _canned(tf1=name == "canned_tf1")
    if name in ("tfbig", "model_fn", "canned", "canned_tf1"):
        result = _tfbig(arrays, build, steps, warm_up, **{"batch": batch, **options})
    elif name == "tune":
        result = _tune(arrays, build, batch, steps, warm_up, **options)
    elif name == "xla_loop":
        result = _xla_loop(arrays, build, batch, steps)
    else:
        build = _frozen(build) if options.get("freeze") else build
        result = _fit(arrays, build, batch, steps, warm_up, together=32 if name == "fit_32" else 1)
    result["ms_per_step"] = 1e3 / result["steps_per_sec"]
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def measure(work: str, name: str, **options) -> dict[str, float]:
    """Runs a measurement in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, work, name, *([json.dumps(options)] if options else [])],
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"{work} {name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> str:
    """Describes the machine in a few words, for the head of a table."""
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    return f"{os.cpu_count()} cores, {names[0]}, Python {platform.python_version()}"


def mlp(times=1):
    """The workload "mlp": its arrays, the builder of its compiled model, and its batch size."""
    from tfbig.models import mlp

    images, labels = _digits(times)
    params = {"input_shape": (64,), "hidden_units": (128,)}
    return (images.reshape(-1, 64), labels), lambda: mlp.build(params), 64


def _canned(tf1):
    """The model_fn of a DNNClassifier that is the MLP."""
    import tempfile

    import keras
    import tensorflow as tf

    from tfbig import estimator
    from tfbig.compat.v1 import estimator as old

    columns = [tf.feature_column.numeric_column("x", shape=[64])]
    adam = tf.compat.v1.train.AdamOptimizer if tf1 else keras.optimizers.Adam
    mean = tf.compat.v1.losses.Reduction.SUM_OVER_BATCH_SIZE
    made = (old if tf1 else estimator).DNNClassifier(
        [128], columns, tempfile.mkdtemp(), n_classes=10, optimizer=lambda: adam(1e-3),
        loss_reduction=mean,
    )  # fmt: skip
    return made.given_model_fn


def _cnn():
    from tfbig.models import cnn

    return _digits(), cnn.build, 64


def _digits(times=1):
    import numpy as np

    from tfbig.datasets import digits

    arrays = digits.digits_arrays()
    images = np.tile(arrays["train_images"], [times, 1, 1, 1]).astype("float32") / 16
    return images, np.tile(arrays["train_labels"], times).astype("int32")


def _lm():
    import numpy as np

    from tfbig.datasets import text
    from tfbig.models import transformer_lm

    source = text.text_source(max_bytes=2_000_000)
    return source.read(np.arange(len(source))), transformer_lm.build, 8


def _tfbig(arrays, build, steps, warm_up, *, batch, strategy="auto", devices=None, **fields):
    import tfbig
    from tfbig.callbacks import LoopCallback, Throughput

    class FirstStep(LoopCallback):
        seconds = None

        def on_calls(self, step, logs):
            if self.seconds is None:
                self.seconds = time.perf_counter() - start

    first, throughput = FirstStep(), Throughput(skip_steps=warm_up)
    start = time.perf_counter()
    tfbig.train_distributed(
        build,
        lambda: tfbig.data.ArraySource(arrays).batch(batch),
        strategy=strategy,
        devices=devices,
        max_steps=steps + warm_up,
        config=tfbig.RunConfig(**fields) if fields else None,
        callbacks=[first, throughput],
    )
    return {"steps_per_sec": throughput.steps_per_sec, "first_step_sec": first.seconds}


def _tune(arrays, build, batch, steps, warm_up, **recipe):
    import tfbig
    from tfbig.callbacks import Throughput

    throughput = Throughput(skip_steps=warm_up)
    tfbig.fine_tune(
        build(),
        lambda: tfbig.data.ArraySource(arrays).batch(batch),
        recipe=tfbig.Recipe(optimizer="adam", learning_rate=1e-3, **recipe),
        max_steps=steps + warm_up,
        callbacks=[throughput],
    )
    return {"steps_per_sec": throughput.steps_per_sec}


def _frozen(build):
    """Freezes all layers with weights except the last, like Recipe(freeze="backbone")."""

    def frozen():
        model = build()
        for layer in [layer for layer in model.layers if layer.weights][:-1]:
            layer.trainable = False
        return model

    return frozen


def _fit(arrays, build, batch, steps, warm_up, together):
    import keras

    class Clock(keras.callbacks.Callback):
        first = None

        def on_train_batch_end(self, batch, logs=None):
            if self.first is None:
                self.first = time.perf_counter() - start

    clock = Clock()
    start = time.perf_counter()
    model = build()
    if together > 1:
        model.compile(
            optimizer=keras.optimizers.Adam(),
            loss=model.loss,
            metrics=["accuracy"],
            steps_per_execution=together,
        )
    x, y = (array[: steps * batch] for array in arrays)
    few = [array[: warm_up * batch] for array in arrays]
    per_epoch = -(-len(x) // batch)
    model.fit(*few, batch_size=batch, verbose=0, callbacks=[clock])
    begin = time.perf_counter()
    model.fit(x, y, batch_size=batch, epochs=steps // per_epoch)  # with the progress bar
    return {
        "steps_per_sec": steps / (time.perf_counter() - begin),
        "first_step_sec": clock.first,
    }


def _xla_loop(arrays, build, batch, steps):
    """An upper bound: a compiled loop over batches that are constants of the graph."""
    import keras
    import tensorflow as tf

    start = time.perf_counter()
    model = build()
    optimizer, loss_fn = model.optimizer, keras.losses.get(model.loss)
    optimizer.build(model.trainable_variables)
    many = len(arrays[0]) // batch
    x, y = (tf.constant(a[: many * batch].reshape(many, batch, *a.shape[1:])) for a in arrays)

    @tf.function(jit_compile=True, autograph=False)
    def run(steps):
        def body(i, total):
            with tf.GradientTape() as tape:
                loss = loss_fn(y[i % many], model(x[i % many], training=True))
            weights = model.trainable_variables
            optimizer.apply(tape.gradient(loss, weights), weights)
            return i + 1, total + loss

        return tf.while_loop(lambda i, _: i < steps, body, (tf.constant(0), tf.constant(0.0)))[1]

    run(tf.constant(1)).numpy()
    first = time.perf_counter() - start
    begin = time.perf_counter()
    for _ in range(steps // 100):
        run(tf.constant(100)).numpy()
    return {"steps_per_sec": steps / (time.perf_counter() - begin), "first_step_sec": first}


_WORKS = {"mlp": mlp, "mlp_long": lambda: mlp(times=20), "cnn": _cnn, "lm": _lm}

if __name__ == "__main__":
    main(*sys.argv[1:])
