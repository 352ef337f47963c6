"""The program of test_server_kills.py, as every task of a launched cluster with ps.

`python -m tests.cluster.server_kill_runs <folder> <steps> <kills as JSON> [table]`: in the order
of the kills, [task, step, signal], the chief's callback sends a task a signal once the step is
reached. A task that is stopped wakes up 3 seconds later, or after as many as a fourth item says.
With `table` the model has a large one, and signals are sent while that is written.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

import keras

import tfbig
from tests.cluster.parameter_server_runs import build, data


class Kills(keras.callbacks.Callback):
    """Sends the signals, each one once, however often the chief is started."""

    def __init__(self, folder: pathlib.Path, kills: list, writing: bool):
        super().__init__()
        self._folder, self._kills, self._writing = folder, kills, writing

    def on_train_batch_end(self, batch, logs=None):
        for number, (task, step, name, *seconds) in enumerate(self._kills):
            mark = self._folder / f"kill{number}"
            if batch + 1 < step or mark.exists():
                continue
            if self._writing and not list(self._folder.glob("run/checkpoints/.tmp-*/parts")):
                continue
            victims = ("worker 0", "worker 1") if task == "workers" else (task,)
            pids = [int((self._folder / victim).read_text()) for victim in victims]
            if not all(pathlib.Path(f"/proc/{pid}").exists() for pid in pids):
                continue  # one is being started again
            mark.touch()
            print(f"step {batch + 1}: {name} to {task}", flush=True)
            for pid in pids:
                if name == "SIGSTOP":  # woken from outside: it may be this process
                    wake = f"sleep {seconds[0] if seconds else 3}; kill -CONT {pid}"
                    subprocess.Popen(["sh", "-c", wake], start_new_session=True)
                os.kill(pid, getattr(signal, name))
            return


def with_table() -> keras.Model:
    """A row of the table for each place and brightness of a pixel; 512 MB with Adagrad's slots."""
    images = keras.Input((64,))
    ids = keras.ops.cast(images * 16, "int32") + 17 * keras.ops.arange(64, dtype="int32")
    table = tfbig.layers.ShardedEmbedding(2_000_000, 32, combiner="sum")
    model = keras.Model(images, keras.layers.Dense(10)(table(ids)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adagrad(0.05), loss, metrics=["accuracy"])
    return model


def main(folder: pathlib.Path, steps: int, kills: list, model: str = "") -> None:
    task = json.loads(os.environ["TF_CONFIG"])["task"]
    alone = task["type"] in ("chief", "evaluator")
    name = task["type"] if alone else f"{task['type']} {task['index']}"
    (folder / name).write_text(str(os.getpid()))
    training, held_out = data()
    result = tfbig.train_distributed(
        with_table if model == "table" else build,
        lambda: tfbig.data.ArraySource(training).batch(64),
        eval_input_fn=lambda: tfbig.data.ArraySource(held_out).batch(100),
        strategy="parameter_server",
        model_dir=str(folder / "run"),
        max_steps=steps,
        callbacks=[Kills(folder, kills, model == "table")],
        config=tfbig.RunConfig(
            tf_random_seed=1,
            save_checkpoints_steps=50,
            log_step_count_steps=50,
            eval_every_steps=1000,
        ),
    )
    accuracy = result.metrics["accuracy"]
    print(f"finished at step {result.global_step}, accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), *sys.argv[4:])
