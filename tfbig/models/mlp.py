"""A multi-layer perceptron for classification."""

from typing import Any

import keras

from tfbig.params import read_params

_DEFAULTS = {
    "input_shape": (8, 8, 1),
    "hidden_units": (128, 64),
    "num_classes": 10,
    "dropout": 0.0,
}


def build(params: Any = None) -> keras.Model:
    """Builds a compiled perceptron with ReLU and logits of shape [batch, num_classes].

    Example:

        model = tfbig.models.mlp.build({"input_shape": (64,), "hidden_units": (256, 256)})

    Args:
        params: `input_shape` of one example, flattened (default (8, 8, 1)); `hidden_units`,
            the width of each hidden layer (default (128, 64)); `num_classes` (default 10);
            `dropout`, the rate after each hidden layer (default 0).

    Returns:
        A keras.Model compiled with Adam, sparse categorical cross-entropy and accuracy.

    Raises:
        UserError: params has an unknown name.
    """
    p = read_params(params, _DEFAULTS, owner="tfbig.models.mlp.build", ignore=("data",))
    model = keras.Sequential([keras.Input(tuple(p["input_shape"]))], name="mlp")
    if len(p["input_shape"]) != 1:
        model.add(keras.layers.Flatten())
    for units in p["hidden_units"]:
        model.add(keras.layers.Dense(units, activation="relu"))
        if p["dropout"]:
            model.add(keras.layers.Dropout(p["dropout"]))
    # float32 with a mixed policy too: a softmax over rounded logits loses accuracy.
    model.add(keras.layers.Dense(p["num_classes"], dtype="float32", name="logits"))
    model.compile(
        optimizer=keras.optimizers.Adam(),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model
