"""Runs of test_lora.py: a small language model with attention, tuned by adapters."""

import functools

import keras
import numpy as np

import tfbig
from tfbig.models import transformer_lm

RECIPE = dict(lora_rank=3, lora_alpha=6, optimizer="adam", learning_rate=0.01)
SIZE = {"layers": 1, "width": 24, "heads": 2, "sequence_length": 12, "vocabulary_size": 16}


@functools.cache
def base() -> keras.Model:
    keras.utils.set_random_seed(5)
    return transformer_lm.build(SIZE)


def tokens(rows: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 16, (rows, 13)).astype("int32")


def source():
    return tfbig.data.ArraySource((tokens()[:, :-1], tokens()[:, 1:])).batch(7)


def tune(model=None, *, steps=12, recipe=None, **keywords) -> tfbig.TrainResult:
    config = tfbig.RunConfig(
        tf_random_seed=3, jit_compile=False, save_checkpoints_steps=4, keep_checkpoint_max=9
    )
    keywords = {"strategy": "one_device", "config": config, "max_steps": steps, **keywords}
    recipe = recipe or tfbig.Recipe(**RECIPE)
    return tfbig.fine_tune(model or base(), source, recipe=recipe, **keywords)


def weights_on_two_replicas(path: str) -> list:
    result = tune(path, strategy="mirrored", devices=2)
    return [weight.tolist() for weight in result.model.get_weights()]
