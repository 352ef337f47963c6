"""Tiny KerasHub tasks, pretrained, saved as presets and tuned: the runs of test_keras_hub.py."""

import os

import keras
import keras_hub
import numpy as np
import tensorflow as tf

import tfbig
from tfbig.finetuning import load_model

VOCABULARY = 40
ROWS = 10  # batches of 4: the last one has 2
IDS = np.random.default_rng(0).integers(1, VOCABULARY, (ROWS, 6), "int32")
IMAGES = np.random.default_rng(1).random((ROWS, 16, 16, 3)).astype("float32")


def tokens() -> dict[str, np.ndarray]:
    return {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}


def segmented() -> dict[str, np.ndarray]:
    return {**tokens(), "segment_ids": np.zeros_like(IDS)}


def bert() -> keras.Model:
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
        dropout=0.0,
    )
    return keras_hub.models.BertTextClassifier(
        backbone=backbone, num_classes=3, dropout=0.0, preprocessor=None
    )


def gpt2(preprocessor=None) -> keras.Model:
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
        dropout=0.0,
    )
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)


def vit() -> keras.Model:
    backbone = keras_hub.models.ViTBackbone(
        image_shape=(16, 16, 3),
        patch_size=8,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        mlp_dim=16,
        dropout_rate=0.0,
        attention_dropout=0.0,
    )
    return keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=3, preprocessor=None)


def llama() -> keras.Model:
    return _decoder(keras_hub.models.LlamaBackbone, keras_hub.models.LlamaCausalLM)


def gemma() -> keras.Model:
    return _decoder(keras_hub.models.GemmaBackbone, keras_hub.models.GemmaCausalLM, head_dim=4)


def _decoder(backbone_class, task_class, **arguments) -> keras.Model:
    backbone = backbone_class(
        vocabulary_size=VOCABULARY,
        num_layers=1,
        num_query_heads=2,
        num_key_value_heads=1,
        hidden_dim=8,
        intermediate_dim=16,
        **arguments,
    )
    return task_class(backbone=backbone, preprocessor=None)


BUILDERS = {"bert": bert, "gpt2": gpt2, "vit": vit, "llama": llama, "gemma": gemma}


def batches(name: str):
    if name == "vit":
        data = (IMAGES, np.arange(ROWS) % 3)
    elif name == "bert":
        data = (segmented(), np.arange(ROWS) % 3)
    else:
        data = (tokens(), np.roll(IDS, -1, axis=1))
    return tf.data.Dataset.from_tensor_slices(data).batch(4)


def two_devices() -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


PLACES = {
    "one": {"strategy": "one_device"},
    "two": {"strategy": "mirrored", "devices": 2},
}


def tune(model, name: str, place: str, **recipe) -> tfbig.TrainResult:
    recipe = {"lora_rank": 2, "learning_rate": 1e-2, "optimizer": "adam", **recipe}
    return tfbig.fine_tune(
        model,
        lambda: batches(name),
        recipe=tfbig.Recipe(**recipe),
        max_steps=5,
        config=tfbig.RunConfig(jit_compile=False, tf_random_seed=3),
        **PLACES[place],
    )


def apart(ours, theirs) -> float:
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(ours, theirs, strict=True))


def state(model: keras.Model) -> list:
    """What must not change in a caller's model, but for its weights."""
    optimizer = model.optimizer
    return [
        [(w.path, w.trainable) for w in model.weights],
        [layer.trainable for layer in model.layers],
        [id(optimizer), optimizer.built, type(model.loss).__name__],
    ]


def learned(tuned: keras.Model, model: keras.Model) -> float:
    """How far the outputs have moved."""
    outputs = [each(tokens(), training=False) for each in (tuned, model)]
    return apart(outputs[:1], outputs[1:])


def lora(names: list[str]) -> dict[str, dict]:
    """Models in memory, tuned on one device and on two."""
    two_devices()
    found = {}
    for name in names:
        keras.utils.set_random_seed(1)
        model = BUILDERS[name]()
        weights, before = model.get_weights(), state(model)
        results = {}
        for place in PLACES:
            keras.utils.set_random_seed(2)
            results[place] = tune(model, name, place)
        ours, theirs = (result.model.get_weights() for result in results.values())
        found[name] = {
            "apart": apart(ours, theirs),
            "losses": [float(result.loss) for result in results.values()],
            "changed": apart(weights, model.get_weights()) > 0 or state(model) != before,
            "same object": any(result.model is model for result in results.values()),
            "class": type(results["two"].model).__name__,
            "learned": learned(results["two"].model, model),
        }
    return found


def from_scratch_to_served(name: str, folder: str) -> dict:
    """Pretrained, saved as a preset, tuned from the folder, evaluated, exported, saved again."""
    two_devices()
    keras.utils.set_random_seed(1)
    config = tfbig.RunConfig(jit_compile=False, tf_random_seed=3)
    source = lambda: batches(name)  # noqa: E731
    base = tfbig.train_distributed(
        BUILDERS[name], source, max_steps=3, config=config, strategy="one_device"
    ).model
    preset, found = os.path.join(folder, "preset"), {}
    base.save_to_preset(preset)
    loaded = load_model(preset)
    found["class"] = type(loaded).__name__
    found["loaded"] = apart(loaded.get_weights(), base.get_weights())

    results = {}
    for place in PLACES:
        keras.utils.set_random_seed(2)
        results[place] = tune(preset, name, place)
    tuned = results["two"].model
    found["apart"] = apart(tuned.get_weights(), results["one"].model.get_weights())
    found["tuned class"] = type(tuned).__name__

    features, labels = next(iter(batches(name).unbatch().batch(ROWS)))
    expected = np.asarray(tuned(features, training=False))
    found["moved"] = float(np.abs(expected - base(features, training=False)).max())
    predicted = np.stack(list(tfbig.predict(tuned, source, **PLACES["two"])))
    found["predict"] = apart([predicted], [expected])
    figures = tfbig.evaluate(tuned, source, metrics=[], **PLACES["two"])
    losses = keras.losses.sparse_categorical_crossentropy(labels, expected, from_logits=True)
    found["evaluate"] = abs(figures["loss"] - float(np.mean(losses)))

    exported = tf.saved_model.load(tfbig.export(tuned, os.path.join(folder, "export")))
    found["export"] = apart([exported.serve(features)], [expected])
    tuned.save(os.path.join(folder, "tuned.keras"))
    tuned.save_to_preset(os.path.join(folder, "again"))
    for saved in ("tuned.keras", "again"):
        model = load_model(os.path.join(folder, saved))
        found[saved] = apart([model(features, training=False)], [expected])
        found[saved + " class"] = type(model).__name__
    if name != "gpt2":
        head = tune(preset, name, "two", head=5)
        found["head"] = list(head.model(features, training=False).shape)
    return found
