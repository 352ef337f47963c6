"""The variables in one of tfbig's checkpoints, of whichever kind it is."""

import json
import os

import numpy as np
import tensorflow as tf

from tfbig.training.checkpoints.state import is_named, key_of, own_name


def saved_values(folder) -> dict[str, np.ndarray]:
    """All of them by the names that a program gives them, group first.

    Args:
        folder: `<model_dir>/checkpoints/ckpt-…`.
    """
    with open(os.path.join(folder, "metadata.json")) as file:
        names = json.load(file)["variables"]
    reader = tf.train.load_checkpoint(os.path.join(folder, "state"))
    key = own_name if is_named(str(folder)) else key_of
    return {name: reader.get_tensor(key(name)) for name in sorted(names)}
