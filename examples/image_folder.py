"""A folder of images with a sub-folder for each class: split, augmented and trained on.

Without --folder it is scikit-learn's handwritten digits, written as PNG files first. The held-out
fifth has the same shares of the classes, and is never augmented.

$ python examples/image_folder.py
$ python examples/image_folder.py --folder=flowers --image_size=64 --max_steps=3000
"""

import os
import tempfile

import tfbig
import keras
from absl import app, flags
from tfbig.data import splitting

_FOLDER = flags.DEFINE_string("folder", None, "Has a sub-folder per class; None: the digits.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 8, "Side in pixels; others are resized.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 600, "The step at which to stop.")

AUGMENTATION = [
    {"name": "RandomTranslation", "height_factor": 0.06, "width_factor": 0.06},
    {"name": "RandomRotation", "factor": 0.02},
]


def write_digits(folder: str) -> None:
    """Writes folder/0/….png to folder/9/….png."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        os.makedirs(f"{folder}/{label}", exist_ok=True)
        pixels = (image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(f"{folder}/{label}/{number:04d}.png")


def build_model(classes: int, size: int, steps: int) -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((size, size, 1)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(classes),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as temporary:
        folder = _FOLDER.value
        if folder is None:
            folder = os.path.join(temporary, "digits")
            write_digits(folder)
        size = _IMAGE_SIZE.value
        source = tfbig.data.ImageFolderSource(folder, image_size=size, channels=1)
        split = splitting.stratified(source.labels, (0.8, 0.2), seed=0)
        train = source.select(split.train).augment(AUGMENTATION).batch(64)
        test = source.select(split.test).batch(64)
        result = tfbig.train_distributed(
            lambda: build_model(len(source.class_names), size, _MAX_STEPS.value),
            lambda: train,
            eval_input_fn=lambda: test,
            max_steps=_MAX_STEPS.value,
            config=tfbig.RunConfig(tf_random_seed=0, eval_every_steps=200),
        )
    print(f"step {result.global_step}: held-out accuracy {result.metrics['accuracy']:.4f}")


if __name__ == "__main__":
    app.run(main)
