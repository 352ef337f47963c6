"""Automatic names are renumbered from 0. Names that a user chose stay unchanged.

These tests guard snake_case of tfbig._private_api.
"""

import keras
import numpy as np
import pytest
from keras import layers

import tfbig
from tests.programs.batches import keras_program, x
from tfbig.errors import CheckpointError, UserError
from tfbig.finetuning.partial import load_weights
from tfbig.programs.keras import keras_program as programs
from tfbig.programs.keras.renumbering import Renumbering, automatic_names, format_1_names
from tfbig.training.checkpoints import checkpoints


def towers(*names: str, optimizer="adam") -> keras.Model:
    """Layers of equal shapes, each with another bias."""
    inputs = outputs = keras.Input((4,))
    for name in names:
        outputs = layers.Dense(4, name=name)(outputs)
    model = keras.Model(inputs, outputs, name="towers")
    for i, layer in enumerate(model.layers[1:]):
        layer.bias.assign(np.full(4, i + 1.0))
    model.compile(optimizer, "mse")
    return model


def data():
    return tfbig.data.ArraySource((x(4), x(4))).batch(3)


def trained(names, folder, steps: int, **arguments) -> keras.Model:
    """With a rate of zero, so that the weights stay what they were at first."""
    return tfbig.train_distributed(
        lambda: towers(*names, optimizer=keras.optimizers.SGD(0.0, momentum=0.9), **arguments),
        data,
        strategy="one_device",
        max_steps=steps,
        model_dir=str(folder),
        config=tfbig.RunConfig(jit_compile=False),
    ).model


def biases(model) -> dict[str, float]:
    return {layer.name: float(layer.bias[0]) for layer in model.layers if layer.weights}


SAVED = ("tower_1", "tower_2", "tower_3")
VALUES = {"tower_1": 1.0, "tower_2": 2.0, "tower_3": 3.0}


def as_earlier_code(monkeypatch) -> None:
    """Checkpoints are written as before names that users chose were told from Keras's."""
    monkeypatch.setattr(programs, "automatic_names", lambda model: None)
    monkeypatch.setattr(checkpoints, "FORMAT", 1)


def test_a_resumed_run_gives_each_weight_to_the_layer_of_its_name(tmp_path):
    assert biases(trained(SAVED, tmp_path, 1)) == VALUES
    assert biases(trained(["tower_2", "tower_1", "tower_3"], tmp_path, 2)) == VALUES
    with pytest.raises(CheckpointError, match="model/tower_1/bias is .* absent here"):
        trained(["tower_2", "tower_3", "tower_4"], tmp_path, 3)


@pytest.mark.parametrize("names", [SAVED, ("block_2", "block_0", "block_1"), ("t_9", "t", "t_1")])
def test_a_checkpoint_of_earlier_code_goes_on(tmp_path, monkeypatch, names):
    with monkeypatch.context() as earlier:
        as_earlier_code(earlier)
        saved = biases(trained(names, tmp_path, 1))
    assert sorted(saved.values()) == [1.0, 2.0, 3.0]
    assert biases(trained(names, tmp_path, 2)) == saved
    assert biases(trained(reversed(names), tmp_path, 3)) == saved  # has been written anew


@pytest.mark.parametrize("earlier", [False, True])
def test_a_file_s_weights_come_to_the_layers_of_their_names(tmp_path, monkeypatch, earlier):
    with monkeypatch.context() as patch:
        if earlier:
            as_earlier_code(patch)
        trained(SAVED, tmp_path, 1)
    same = towers(*SAVED)
    same.set_weights([np.zeros_like(w) for w in same.get_weights()])
    assert len(load_weights(same, tmp_path).loaded) == 6
    assert biases(same) == VALUES
    load_weights(same, tmp_path, by="exact")
    assert biases(same) == VALUES
    if not earlier:
        other = towers("tower_3", "tower_4", "tower_1")
        assert len(load_weights(other, tmp_path).loaded) == 4
        assert biases(other) == {"tower_3": 3.0, "tower_4": 2.0, "tower_1": 1.0}
        with pytest.raises(UserError, match="is of another model"):
            load_weights(other, tmp_path, by="exact")


class Tower(layers.Dense):
    """Has automatic names: tower, tower_1."""


def of_many_names() -> keras.Model:
    inputs = keras.Input((3, 4))
    hidden = layers.Bidirectional(layers.LSTM(2))(inputs)
    hidden = layers.Bidirectional(layers.LSTM(2, name="own_7"))(inputs) + hidden
    for layer in (Tower(4), Tower(4), layers.Dense(4), layers.Dense(4, name="block_1")):
        hidden = layers.Dropout(0.5)(layer(hidden))
    hidden = keras.Sequential([layers.Dense(4, name="block_4"), layers.Dense(4)])(hidden)
    hidden = layers.Dense(4, name="block_0")(hidden)
    model = keras.Model(inputs, hidden)
    twice = keras.metrics.MeanAbsoluteError()
    model.compile(
        "adam", "mse", metrics=["mae", "mae", twice, keras.metrics.MeanSquaredError(name="mean_5")]
    )
    return model


def named() -> list[str]:
    return list(keras_program(of_many_names(), x(3, 4), x(4)).named_variables())


@pytest.mark.slow
def test_automatic_names_are_the_same_for_a_second_model_and_others_are_kept():
    names = named()
    assert named() == names
    paths = {name.partition("/")[2].rpartition("/")[0] for name in names}
    assert {"tower", "tower_1", "dense"} <= paths
    assert {"block_1", "block_0"} <= paths
    assert {"sequential/block_4", "sequential/dense"} <= paths
    assert "bidirectional_1/forward_lstm/lstm_cell" in paths
    assert "bidirectional/backward_own_7/lstm_cell" in paths
    assert "optimizer/adam/block_0_kernel_momentum" in names


@pytest.mark.slow
def test_earlier_names_are_those_that_were_given_before(monkeypatch):
    found = format_1_names(named())
    as_earlier_code(monkeypatch)
    assert found == named()
    assert "model/block_1/kernel" in found  # of block_0
    assert "model/block/kernel" in found  # of block_1
    copies = ["metrics/mean_1/total", "metrics/mean_1/total@replica_1", "metrics/mean_1/total#1"]
    assert format_1_names(copies) == [name.replace("mean_1", "mean") for name in copies]


def test_a_name_that_a_layer_makes_from_its_own_is_automatic_too():
    class Pre(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(2, name=f"inner_{self.name}")

    automatic = automatic_names(keras.Sequential([Pre()]))
    assert {"pre", "dense", "sequential"} <= automatic
    assert "inner" not in automatic
    renumber = Renumbering(automatic)
    assert renumber("pre_4/inner_pre_4/kernel") == "pre/inner_pre/kernel"
    assert renumber("pre_6/inner_pre_6/kernel_2") == "pre_1/inner_pre/kernel_2"


def test_a_class_whose_name_ends_in_a_number_has_the_same_names_for_a_second_model():
    for first, second in (("stage_2", "stage_2_1"), ("stage_2_4", "stage_2_5")):
        renumber = Renumbering({"stage_2"})
        assert [renumber(name) for name in (first, second)] == ["stage_2", "stage_2_1"]
