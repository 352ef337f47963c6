"""One measurement: a work done by one contestant, in this process.

    python benchmarks/contestants.py mlp tfbig

Prints one JSON object: steps_per_sec, ms_per_step, first_step_sec (from the call to the end of
the first step, building the model included), peak_mib of the whole process.
"""

import json
import resource
import sys
import time

DESCRIPTIONS = {
    "mlp": "digits MLP 64-128-10, Adam, batch 64",
    "lm": "Transformer LM, 3.3 M parameters, 8 x 128 tokens, Adam",
}
_STEPS = {"mlp": {"tfbig": 20_000, "fit": 1_800, "fit_32": 5_400, "xla_loop": 20_000}}
_LM_STEPS, _LM_WARM_UP = 60, 6


def main(work: str, name: str) -> None:
    import tfbig  # noqa: F401 - sets what TensorFlow reads when it is imported

    arrays, build, batch = _mlp() if work == "mlp" else _lm()
    if name == "tfbig":
        result = _tfbig(work, arrays, build, batch)
    elif name == "xla_loop":
        result = _xla_loop(arrays, build, batch, _STEPS["mlp"]["xla_loop"])
    else:
        result = _fit(work, name, arrays, build, batch)
    result["ms_per_step"] = 1e3 / result["steps_per_sec"]
    result["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


def _mlp():
    import numpy as np

    from tfbig.datasets import digits

    from tfbig.models import mlp

    arrays = digits.digits_arrays()
    # Twenty times over: with 23 steps to an epoch, fit would mostly begin and end epochs.
    images = np.tile(arrays["train_images"].reshape(-1, 64), [20, 1]).astype("float32") / 16
    labels = np.tile(arrays["train_labels"], 20).astype("int32")

    params = {"input_shape": (64,), "hidden_units": (128,)}
    return (images, labels), lambda: mlp.build(params), 64


def _lm():
    import numpy as np

    from tfbig.datasets import text
    from tfbig.models import transformer_lm

    source = text.text_source(max_bytes=2_000_000)
    return source.read(np.arange(len(source))), transformer_lm.build, 8


def _tfbig(work, arrays, build, batch):
    import tfbig
    from tfbig.callbacks import LoopCallback, Throughput

    class FirstStep(LoopCallback):
        seconds = None

        def on_calls(self, step, logs):
            if self.seconds is None:
                self.seconds = time.perf_counter() - start

    steps, warm_up = _LM_STEPS, _LM_WARM_UP
    if work == "mlp":
        steps, warm_up = _STEPS["mlp"]["tfbig"], 1_000
    first, throughput = FirstStep(), Throughput(skip_steps=warm_up)
    start = time.perf_counter()
    tfbig.train_distributed(
        build,
        lambda: tfbig.data.ArraySource(arrays).batch(batch),
        max_steps=steps + warm_up,
        callbacks=[first, throughput],
    )
    return {"steps_per_sec": throughput.steps_per_sec, "first_step_sec": first.seconds}


def _fit(work, name, arrays, build, batch):
    import keras

    class Clock(keras.callbacks.Callback):
        first = None

        def on_train_batch_end(self, batch, logs=None):
            if self.first is None:
                self.first = time.perf_counter() - start

    clock = Clock()
    start = time.perf_counter()
    model = build()
    if name == "fit_32":
        arguments = {"optimizer": keras.optimizers.Adam(), "loss": model.loss}
        model.compile(**arguments, metrics=["accuracy"], steps_per_execution=32)
    if work == "lm":
        x, y = arrays
        few = _LM_WARM_UP * batch
        model.fit(x[:few], y[:few], batch_size=batch, verbose=0, callbacks=[clock])
        x, y = x[: _LM_STEPS * batch], y[: _LM_STEPS * batch]
        epochs, steps = 1, _LM_STEPS
    else:
        x, y = arrays
        per_epoch = len(x) // batch
        x, y = x[: per_epoch * batch], y[: per_epoch * batch]
        model.fit(x, y, batch_size=batch, verbose=0, callbacks=[clock])
        epochs = _STEPS["mlp"][name] // per_epoch
        steps = epochs * per_epoch
    begin = time.perf_counter()
    model.fit(x, y, batch_size=batch, epochs=epochs)  # its own progress bar, as by default
    return {
        "steps_per_sec": steps / (time.perf_counter() - begin),
        "first_step_sec": clock.first,
    }


def _xla_loop(arrays, build, batch, steps):
    """The bound: a compiled loop over batches that are in the graph, with nothing around it."""
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


if __name__ == "__main__":
    main(*sys.argv[1:])
