"""A small convolutional network that classifies images."""

from typing import Any

import keras

from tfbig.params import read_params

_DEFAULTS = {
    "input_shape": (8, 8, 1),
    "filters": (32, 64),
    "hidden_units": (128,),
    "num_classes": 10,
    "dropout": 0.0,
}


def build(params: Any = None) -> keras.Model:
    """Builds a compiled network of 3x3 convolutions and 2x2 pooling; logits [batch, classes].

    Example:

        model = tfbig.models.cnn.build({"input_shape": (28, 28, 1), "dropout": 0.2})

    Args:
        params: `input_shape`, height, width and channels of an image (default (8, 8, 1));
            `filters`, the channels of each convolution (default (32, 64)); `hidden_units`, the
            width of each dense layer after them (default (128,)); `num_classes` (default 10);
            `dropout`, the rate before each dense layer (default 0).

    Returns:
        A keras.Model compiled with Adam, sparse categorical cross-entropy and accuracy.

    Raises:
        UserError: params has an unknown name.
    """
    p = read_params(params, _DEFAULTS, owner="tfbig.models.cnn.build", ignore=("data",))
    model = keras.Sequential([keras.Input(tuple(p["input_shape"]))], name="cnn")
    for filters in p["filters"]:
        model.add(keras.layers.Conv2D(filters, 3, padding="same", activation="relu"))
        model.add(keras.layers.MaxPooling2D(2))
    model.add(keras.layers.Flatten())
    for units in p["hidden_units"]:
        if p["dropout"]:
            model.add(keras.layers.Dropout(p["dropout"]))
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
