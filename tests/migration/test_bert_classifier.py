"""A program in the shape of BERT's run_classifier: migrated, trained, evaluated, and it predicts.

programs/bert_classifier.py.old is TensorFlow 1.15: a transformer made by get_variable, an optimizer
of its own, an initial checkpoint with an assignment map, and TPUEstimator.
"""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.migration.follow import followed

OLD = (pathlib.Path(__file__).parent / "programs/bert_classifier.py.old").read_text()
CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "initializer_range": 0.02,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
}
SHAPES = {
    "bert/embeddings/word_embeddings": [40, 16],
    "bert/embeddings/LayerNorm/gamma": [16],
    "bert/encoder/layer_1/output/LayerNorm/beta": [16],
    "bert/pooler/dense/kernel": [16, 16],
}
EXAMPLES = {"train": 512, "eval": 61, "predict": 21}


@pytest.fixture(scope="module")
def program() -> str:
    text, by_hand = followed(OLD)
    assert by_hand == 0
    return text


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> pathlib.Path:
    """A folder with the config, TFRecords, and a checkpoint of a part of the encoder."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    random = np.random.default_rng(0)
    for name, count in EXAMPLES.items():
        with tf.io.TFRecordWriter(str(folder / f"{name}.tf_record")) as writer:
            for _ in range(count):
                tokens, length = random.integers(2, 40, 12), random.integers(6, 13)
                mask = np.arange(12) < length
                writer.write(example(tokens * mask, mask, tokens[0] >= 21))
    np.savez(folder / "init.npz", **{k: random.normal(0, 0.3, v) for k, v in SHAPES.items()})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in initial(folder).items():
            tf.compat.v1.get_variable(name, initializer=value)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "init.ckpt"))
    return folder


def example(tokens, mask, label) -> bytes:
    values = {
        "input_ids": tokens,
        "input_mask": mask,
        "segment_ids": 0 * tokens,
        "label_ids": [label],
    }
    features = {
        name: tf.train.Feature(int64_list=tf.train.Int64List(value=[int(v) for v in value]))
        for name, value in values.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def initial(data: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(data / "init.npz") as values:
        return {name: values[name].astype("float32") for name in values.files}


def run(program: str, data: pathlib.Path, folder: pathlib.Path, *flags: str) -> dict[str, float]:
    """Runs the program in a process of its own; returns what it wrote in eval_results.txt."""
    (folder / "run_classifier.py").write_text(program)
    harness.run_forked(
        "run_classifier.py", f"--data_dir={data}", f"--bert_config_file={data}/config.json",
        "--output_dir=out", f"--init_checkpoint={data}/init.ckpt", *flags,
        folder=folder, timeout=240,
    )  # fmt: skip
    rows = (folder / "out/eval_results.txt").read_text().splitlines()
    return {name: float(value) for name, _, value in (row.partition(" = ") for row in rows)}


def trained(folder: pathlib.Path, name: str) -> np.ndarray:
    return tfbig.Estimator(lambda features: None, str(folder / "out")).get_variable_value(name)


@pytest.mark.slow
@pytest.mark.parametrize("use_tpu", [False, True])
def test_the_migrated_program_starts_from_the_initial_checkpoint(use_tpu, program, data, tmp_path):
    if use_tpu:  # model_fn's own branch for TPUs, with a scaffold_fn and CrossShardOptimizer
        old = "int(FLAGS.num_train_steps * FLAGS.warmup_proportion), FLAGS.use_tpu)"
        assert old in program
        program = program.replace(old, old.replace("FLAGS.use_tpu", "True"))
    found = run(
        program, data, tmp_path,
        "--do_train", "--do_eval", "--num_train_steps=1", "--learning_rate=0",
    )  # fmt: skip
    assert found["global_step"] == 1
    assert found["eval_loss"] == pytest.approx(found["loss"], rel=0.01)
    assert found["eval_loss"] == pytest.approx(np.log(2), abs=0.1)
    for name, value in initial(data).items():
        np.testing.assert_array_equal(trained(tmp_path, name), value)
    np.testing.assert_array_equal(trained(tmp_path, "bert/embeddings/LayerNorm/beta"), 0.0)


@pytest.mark.slow
def test_the_migrated_program_trains_evaluates_and_predicts(program, data, tmp_path):
    found = run(
        program, data, tmp_path,
        "--do_train", "--do_eval", "--do_predict", "--num_train_steps=200", "--learning_rate=3e-3",
    )  # fmt: skip
    assert found["global_step"] == 200
    assert found["eval_loss"] < 0.2  # from 0.69
    assert found["eval_accuracy"] > 0.9
    rows = np.loadtxt(tmp_path / "out/test_results.tsv")
    assert rows.shape == (EXAMPLES["predict"], 2)
    np.testing.assert_allclose(rows.sum(1), 1.0, atol=1e-5)
    assert (rows.max(1) > 0.8).mean() > 0.7
    moments = trained(tmp_path, "bert/embeddings/word_embeddings/adam_v")
    assert moments.shape == (40, 16)
    assert (moments[21:] > 0).any()
    assert not np.array_equal(
        trained(tmp_path, "bert/pooler/dense/kernel"), initial(data)["bert/pooler/dense/kernel"]
    )
