"""Input pipelines: tfbig's sources against tf.data, memory of a global shuffle, time to resume.

$ python benchmarks/input.py                    # all, 5 rounds
$ python benchmarks/input.py --rounds=3 --works=digits,tfrecord

The contestants take turns, each in its own process. The table shows medians, and the median of the
ratios of the rounds. No other program should run at the same time. All data comes from memory or
from files in the page cache, so this measures the work of reading and not the disk.
"""

import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import contestants
import numpy as np
from absl import app, flags

_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each contestant is measured.")
_WORKS = flags.DEFINE_list(
    "works", ["digits", "tfrecord", "text", "memory", "resume"], "Which works."
)
_MEASURE = flags.DEFINE_string("measure", None, "One measurement in this process: work,contestant.")
_FOLDER = flags.DEFINE_string("folder", None, "Where the files are; None: a new one, removed.")

_DESCRIPTIONS = {
    "digits": "1438 digits in memory, batch 64, shuffled globally: batches/s",
    "tfrecord": "200,000 examples of 16 floats and a label in 4 TFRecord files, batch 64, parsed, "
    "shuffled (tfbig: globally, tf.data: 10,000 in a buffer): examples/s",
    "text": "text of 100 MB, one byte a token, batches of 8 x 129 in a new order: MB/s of tokens",
    "memory": "10 million examples of 4 floats, 1,000 steps of 64, shuffled globally: MB above "
    "the arrays' own",
    "resume": "the same at step 1,000,000: seconds to the first batch",
}
_CONTESTANTS = {
    "digits": ("tfbig", "tf_data"),
    "tfrecord": ("tfbig", "tf_data"),
    "text": ("tfbig",),
    "memory": ("tfbig",),
    "resume": ("tfbig",),
}
# workload, opponent, direction, bound
_TARGETS = (
    ("digits", "tf_data", ">=", 5.0),
    ("tfrecord", "tf_data", ">=", 1.0),
    ("text", None, ">=", 50.0),
    ("memory", None, "<=", 50.0),
    ("resume", None, "<=", 1.0),
)
_BATCH = 64


def main(argv: list[str]) -> None:
    del argv
    if _MEASURE.value:
        work, name = _MEASURE.value.split(",")
        print(json.dumps(_MEASURES[work](name, pathlib.Path(_FOLDER.value))))
        return
    print(f"machine: {contestants.machine()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(_FOLDER.value or temporary)
        _make_files(folder, _WORKS.value)
        results = {work: _in_turns(work, folder) for work in _WORKS.value}
    for work, rounds in results.items():
        print(f"\n{_DESCRIPTIONS[work]}")
        for name in _CONTESTANTS[work]:
            print(f"{name:12}{statistics.median(r[name] for r in rounds):14.4g}")
    print("\nmedians over the rounds")
    for work, other, sign, bound in _TARGETS:
        if work in results:
            values = [r["tfbig"] / (r[other] if other else 1) for r in results[work]]
            value = statistics.median(values)
            reached = value >= bound if sign == ">=" else value <= bound
            print(
                f"{work}{f' / {other}' if other else ''}: {value:.3g}  (from {min(values):.3g} to "
                f"{max(values):.3g}; target {sign} {bound:g}: {'reached' if reached else 'missed'})"
            )


def _in_turns(work: str, folder: pathlib.Path) -> list[dict[str, float]]:
    rounds = []
    for number in range(_ROUNDS.value):
        turn = {}
        for name in _CONTESTANTS[work]:
            command = [sys.executable, __file__, f"--measure={work},{name}", f"--folder={folder}"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            if done.returncode:
                raise SystemExit(f"{work} {name} failed:\n{done.stderr}")
            turn[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"  round {number + 1}: {work} {turn}", file=sys.stderr)
        rounds.append(turn)
    return rounds


def _feed(source, batch_size: int = _BATCH):
    """Returns the feed that training reads: stacks of up to 100 batches."""
    from tfbig.data.feeds.source_feed import SourceFeed

    return SourceFeed(source.batch(batch_size), seed=1, multiple=1, steps_per_loop="auto")


def _batches_per_sec(feed, batches: int) -> float:
    """Pulls stacks one after the other; the next one is read while the last one is used."""
    full = feed.capacity
    feed.pull(0, full, read_ahead=full)
    feed.pull(full, full, read_ahead=full)
    step, start = 2 * full, time.perf_counter()
    while step < batches:
        feed.pull(step, full, read_ahead=full)
        step += full
    seconds = time.perf_counter() - start
    feed.close()
    return (step - 2 * full) / seconds


def _dataset_batches_per_sec(dataset, batches: int) -> float:
    iterator = iter(dataset.repeat())
    for _ in range(100):
        next(iterator)
    start = time.perf_counter()
    for _ in range(batches):
        next(iterator)
    return batches / (time.perf_counter() - start)


def _digits(name: str, folder: pathlib.Path) -> float:
    del folder
    import tfbig
    from tfbig.datasets.digits import digits_arrays

    arrays = digits_arrays()
    images = arrays["train_images"].astype("float32") / 16
    labels = arrays["train_labels"]
    if name == "tfbig":
        return _batches_per_sec(_feed(tfbig.data.ArraySource((images, labels))), 100_000)
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(labels))
    return _dataset_batches_per_sec(dataset.batch(_BATCH), 10_000)


_EXAMPLES, _FLOATS = 200_000, 16


def _features():
    import tensorflow as tf

    return {
        "x": tf.io.FixedLenFeature([_FLOATS], tf.float32),
        "y": tf.io.FixedLenFeature([], tf.int64),
    }


def _tfrecord(name: str, folder: pathlib.Path) -> float:
    import tfbig

    files = sorted(str(path) for path in folder.glob("*.tfrecord"))
    batches = 2 * _EXAMPLES // _BATCH
    if name == "tfbig":
        source = tfbig.data.TFRecordSource(files, _features(), labels="y")
        return _batches_per_sec(_feed(source), batches) * _BATCH
    import tensorflow as tf

    def parse(serialized):
        example = tf.io.parse_example(serialized, _features())
        return {"x": example["x"]}, example["y"]

    # num_parallel_reads makes it three times slower on two cores.
    dataset = tf.data.TFRecordDataset(files)
    dataset = dataset.shuffle(10_000).batch(_BATCH).map(parse, tf.data.AUTOTUNE)
    return _dataset_batches_per_sec(dataset.prefetch(tf.data.AUTOTUNE), batches) * _BATCH


def _text(name: str, folder: pathlib.Path) -> float:
    del name
    import tfbig

    sequences, length = 8, 129
    source = tfbig.data.TextFolderSource(folder / "text", sequence_length=length - 1)
    batches = len(source) // sequences
    return _batches_per_sec(_feed(source, sequences), batches) * sequences * length / 1e6


def _ten_million():
    import tfbig

    # write to it, so that it is in memory before the measurement starts
    arrays = np.full([10_000_000, 4], 1.0, np.float32), np.full([10_000_000], 1, np.int64)
    return tfbig.data.ArraySource(arrays)


def _memory(name: str, folder: pathlib.Path) -> float:
    del name, folder
    source = _ten_million()
    _feed(source).pull(0, 1)  # TensorFlow itself
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status_mb("VmRSS")
    _batches_per_sec(_feed(source), 1000)
    return _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) / 1024


def _resume(name: str, folder: pathlib.Path) -> float:
    del name, folder
    source = _ten_million()
    start = time.perf_counter()
    _feed(source).pull(1_000_000, 1)
    return time.perf_counter() - start


def _make_files(folder: pathlib.Path, works: list[str]) -> None:
    if "tfrecord" in works:
        subprocess.run([sys.executable, __file__, "--measure=files,tfrecord", f"--folder={folder}"],
                       check=True, stdout=subprocess.DEVNULL, timeout=600)  # fmt: skip
    if "text" in works:
        import sysconfig

        (folder / "text").mkdir(exist_ok=True)
        own = b"".join(
            p.read_bytes() for p in pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")
        )
        document = own.decode("utf-8", "ignore").encode()
        for number in range(-(-100_000_000 // len(document))):
            (folder / "text" / f"{number:03d}.txt").write_bytes(document)


def _files(name: str, folder: pathlib.Path) -> float:
    """Writes the TFRecord files; in its own process, because it imports TensorFlow."""
    del name
    import tfbig  # noqa: F401 - sets what TensorFlow reads when it is imported

    random = np.random.RandomState(0)
    import tensorflow as tf

    for number in range(4):
        with tf.io.TFRecordWriter(str(folder / f"{number}.tfrecord")) as writer:
            for _ in range(_EXAMPLES // 4):
                x = tf.train.Feature(float_list=tf.train.FloatList(value=random.rand(_FLOATS)))
                y = tf.train.Feature(int64_list=tf.train.Int64List(value=[random.randint(10)]))
                features = tf.train.Features(feature={"x": x, "y": y})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return 0.0


_MEASURES = {
    "digits": _digits,
    "tfrecord": _tfrecord,
    "text": _text,
    "memory": _memory,
    "resume": _resume,
    "files": _files,
}

if __name__ == "__main__":
    app.run(main)
