"""KerasHub tasks and presets: tuned on any placement, loaded from folders and by handles.

These tests guard preset_file and unsafe_deserialization of tfbig._private_api.
"""

import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
import requests
import tensorflow as tf

import tfbig
from tfbig.errors import UserError
from tfbig.finetuning import load_model

# The test extra brings keras_hub; these tests say nothing on a machine where it does not import.
keras_hub = pytest.importorskip("keras_hub", exc_type=ImportError)

from tests.finetuning import hub_runs  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize("names", [["GPT2"], ["Llama", "Gemma"]], ids="-".join)
def test_a_causal_lm_is_tuned_with_lora_on_two_replicas_as_on_one_device(in_process, names):
    found = in_process(hub_runs.lora, [name.lower() for name in names], timeout=300)
    for name, told in zip(names, found.values(), strict=True):
        assert told["apart"] < 1e-5, name
        assert told["losses"][0] == pytest.approx(told["losses"][1], abs=1e-5)
        assert not told["changed"], name
        assert not told["same object"], name
        assert told["learned"] > 0.01, name
        assert told["class"] == f"{name}CausalLM"


# GPT2 and ViT take the same way as BERT, with other features and heads: the long runs try them.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(each, marks=pytest.mark.long) for each in ("gpt2", "vit"))]
)
def test_a_task_goes_from_pretraining_through_a_preset_to_an_export(in_process, tmp_path, name):
    (tmp_path / "files").mkdir()
    found = in_process(hub_runs.from_scratch_to_served, name, str(tmp_path / "files"), timeout=300)
    kinds = {"bert": "BertTextClassifier", "gpt2": "GPT2CausalLM", "vit": "ViTImageClassifier"}
    for which in ("class", "tuned class", "tuned.keras class", "again class"):
        assert found[which] == kinds[name]
    assert found["loaded"] == 0
    assert found["moved"] > 1e-3
    for which in ("apart", "predict", "evaluate", "export", "tuned.keras", "again"):
        assert found[which] < 1e-5, which
    assert found.get("head") == (None if name == "gpt2" else [hub_runs.ROWS, 5])


# Presets in folders.


@pytest.fixture(scope="module")
def task():
    model = hub_runs.bert()
    for weight in model.weights:
        weight.assign(np.random.RandomState(3).normal(size=weight.shape))
    return model


@pytest.fixture(scope="module")
def saved(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "bert"
    task.save_to_preset(str(folder))
    return folder


@pytest.fixture
def preset(saved, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(saved, tmp_path / "copy")


def assert_same(model: keras.Model, other: keras.Model) -> None:
    assert type(model) is type(other)
    assert model is not other
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_preset_is_loaded_as_the_class_that_was_saved(task, saved, tmp_path, monkeypatch):
    assert_same(load_model(saved), task)
    task.backbone.save_to_preset(str(tmp_path / "backbone"))
    assert_same(load_model(tmp_path / "backbone"), task.backbone)
    task.save_to_preset(str(tmp_path / "sharded"), max_shard_size=2e-6)
    assert len(list((tmp_path / "sharded").glob("model_*.weights.h5"))) > 1
    assert_same(load_model(tmp_path / "sharded"), task)
    # A folder is meant where there is one, also where it has the name of a built-in preset.
    shutil.copytree(saved, tmp_path / "bert_tiny_en_uncased")
    monkeypatch.chdir(tmp_path)
    assert_same(load_model("bert_tiny_en_uncased"), task)
    assert_same(load_model("hub:bert_tiny_en_uncased"), task)


def test_new_layers_of_a_task_without_saved_weights_are_told(preset, caplog):
    (preset / "task.weights.h5").unlink()
    load_model(preset)
    assert "has no task.weights.h5: the layers of the task are new" in caplog.text


def rewrite(folder, name: str, change) -> None:
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))


FOREIGN = {"module": "os", "class_name": "system", "config": {}, "registered_name": None}
LAMBDA = {
    "module": "keras.layers",
    "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": ""}}},
    "registered_name": None,
}
HARMFUL = {
    "is refused: its task.json needs os.system": (
        "task.json",
        lambda config: config["config"].update(preprocessor=FOREIGN),
    ),
    "is refused: its tokenizer.json needs os.system": (
        "tokenizer.json",
        lambda config: config.update(FOREIGN),
    ),
    "Python bytecode": (
        "task.json",
        lambda config: config["config"].update(preprocessor=LAMBDA),
    ),
    "is of the class 'keras_hub>BertBackbone', which is no Task": (
        "task.json",
        lambda config: config.update(
            class_name="BertBackbone", registered_name="keras_hub>BertBackbone"
        ),
    ),
    "'../other.weights.h5' in its model.weights.json leads out": (
        "model.weights.json",
        lambda config: config.update(weight_map={"/vars": ["../other.weights.h5"]}),
    ),
    "would take over": (
        "task.json",
        lambda config: config["config"]["backbone"]["config"].update(vocabulary_size=10**10),
    ),
    "If it is a checkpoint of Transformers": (
        "config.json",
        lambda config: (config.clear(), config.update(model_type="bert")),
    ),
}


@pytest.mark.parametrize("said", HARMFUL)
def test_a_preset_that_could_do_harm_or_is_none_is_refused_with_its_cause(preset, said):
    name, change = HARMFUL[said]
    if not (preset / name).exists():
        (preset / name).write_text("{}")
    rewrite(preset, name, change)
    with pytest.raises(UserError) as raised:
        load_model(preset)
    assert said in str(raised.value)
    assert str(preset) in str(raised.value)


def test_a_damaged_preset_is_an_error_that_names_it(preset):
    weights = preset / "model.weights.h5"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(UserError, match="model.weights.h5 is damaged"):
        load_model(preset)
    weights.unlink()
    with pytest.raises(UserError, match="copy holds no weights"):
        load_model(preset)
    (preset / "task.json").write_text("{")
    with pytest.raises(UserError, match="its task.json is not JSON"):
        load_model(preset)


@keras.saving.register_keras_serializable("tests")
class OwnBackbone(keras_hub.models.Backbone):
    """Of the program's own."""

    def __init__(self, width=4, **keywords):
        inputs = keras.Input((4,))
        super().__init__(inputs, keras.layers.Dense(width)(inputs), **keywords)
        self.width = width

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def test_a_preset_may_be_of_a_class_that_the_program_has_registered(tmp_path):
    model = OwnBackbone(3)
    model.save_to_preset(str(tmp_path))
    assert_same(load_model(tmp_path), model)


# Handles.


@pytest.fixture
def hubs(saved, monkeypatch):
    """A preset on Kaggle and on the Hugging Face Hub; returns the handles that were asked for."""
    import huggingface_hub
    import kagglehub

    asked = []

    def file_of(handle, name):
        asked.append(handle)
        path = saved / name
        if not path.exists():
            raise FileNotFoundError(name)
        return str(path)

    monkeypatch.setattr(kagglehub, "model_download", file_of)
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo_id, filename: file_of(repo_id, filename)
    )
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: None)
    return asked


@pytest.mark.slow
def test_handles_are_those_of_keras_hub(hubs, task):
    handles = {
        "hub:bert_tiny_en_uncased": "keras/bert/keras/bert_tiny_en_uncased",
        "kaggle://ann/bert/keras/tiny": "ann/bert/keras/tiny",
        "hub:kaggle://ann/bert/keras/tiny": "ann/bert/keras/tiny",
        "hf://ann/tiny": "ann/tiny",
    }
    for handle, expected in handles.items():
        hubs.clear()
        assert_same(load_model(handle), task)
        assert {asked[: len(expected)] for asked in hubs} == {expected}
    features = next(iter(hub_runs.batches("bert")))[0]
    predicted = list(tfbig.predict("hf://ann/tiny", lambda: hub_runs.batches("bert")))
    np.testing.assert_allclose(predicted[:4], task(features, training=False), atol=1e-5)
    figures = tfbig.evaluate("hf://ann/tiny", lambda: hub_runs.batches("bert"), metrics=[])
    assert figures["loss"] > 0


def test_a_preset_that_cannot_be_downloaded_is_one_sentence_at_once(monkeypatch):
    import huggingface_hub
    import kagglehub

    def unreachable(*arguments, **keywords):
        raise requests.exceptions.ConnectionError(
            "HTTPSConnectionPool(host='api.kaggle.com', port=443): Max retries exceeded with url: "
            "/v1/get (Caused by NameResolutionError(\"HTTPSConnection(host='api.kaggle.com', "
            "port=443): Failed to resolve 'api.kaggle.com' ([Errno -2] not known)\"))"
        )

    monkeypatch.setattr(kagglehub, "model_download", unreachable)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    # It would ask six times, with pauses in between.
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    for handle in ("hub:bert_tiny_en_uncased", "kaggle://a/bert/keras/b", "hf://ann/absent"):
        with pytest.raises(UserError) as raised:
            load_model(handle)
        assert str(raised.value).startswith(
            f"{handle} cannot be downloaded: Failed to resolve 'api.kaggle.com' ([Errno -2] not "
            "known). Pass the folder of a preset"
        )
    with pytest.raises(UserError, match="has no built-in preset of this name.*hf://user/name"):
        load_model("hub:bert_of_my_own")
    with pytest.raises(UserError, match="should have the form kaggle://{org}"):
        load_model("kaggle://a/b")


def test_without_keras_hub_a_preset_needs_the_hub_extra(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    for path in (saved, "hub:bert_tiny_en_uncased", "hf://ann/tiny"):
        with pytest.raises(UserError, match=r"not installed; write pip install 'tfbig\[hub\]'"):
            load_model(path)


# What a task has besides layers.


@pytest.mark.slow
def test_a_tuned_task_keeps_its_tokenizer_and_its_sampler(tmp_path):
    words = {"<|endoftext|>": 0, "a": 1, "b": 2, "Ġ": 3, "Ġa": 4, "Ġb": 5}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=words, merges=["Ġ a", "Ġ b"])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=6)
    hub_runs.gpt2(preprocessor).save_to_preset(str(tmp_path / "preset"))
    model = load_model(tmp_path / "preset")
    assert model.preprocessor.tokenizer.vocabulary_size() == 6
    model.compile(loss="sparse_categorical_crossentropy", sampler="greedy")
    texts = tf.data.Dataset.from_tensor_slices(["a b", "b a b", "a a"])
    tuned = tfbig.fine_tune(
        model,
        lambda: texts.batch(2).map(preprocessor),
        recipe=tfbig.Recipe(lora_rank=2),
        max_steps=1,
        strategy="one_device",
        config=tfbig.RunConfig(jit_compile=False),
    ).model
    assert tuned is not model
    assert tuned.preprocessor is model.preprocessor
    assert type(tuned.sampler) is keras_hub.samplers.GreedySampler
    tuned.save_to_preset(str(tmp_path / "tuned"))
    again = load_model(tmp_path / "tuned")
    assert again.preprocessor.tokenizer.get_vocabulary() == tokenizer.get_vocabulary()
    assert_same(load_model(tfbig_keras(tuned, tmp_path)), again)


def tfbig_keras(model: keras.Model, folder) -> str:
    path = os.path.join(folder, "model.keras")
    model.save(path)
    return path


@pytest.mark.slow
def test_a_task_in_a_keras_file_is_compiled_as_it_was(tmp_path, recwarn):
    model = hub_runs.bert()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), loss, metrics=["accuracy"])
    model.fit(hub_runs.batches("bert"), verbose=0)
    loaded = load_model(tfbig_keras(model, tmp_path))
    assert_same(loaded, model)
    assert type(loaded.optimizer) is keras.optimizers.SGD
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    data = hub_runs.batches("bert")
    expected = model.evaluate(data, verbose=0, return_dict=True)
    assert loaded.evaluate(data, verbose=0, return_dict=True) == pytest.approx(expected)
    assert not [w for w in recwarn if "compile()" in str(w.message) or "Skip" in str(w.message)]
