"""Fine-tunes a saved .h5 network, which knows the digits 0 to 4, on 20 examples each of 5 to 9.

Its layers are kept, and its head is new. For comparison, a new network of the same shape is trained
on the same few examples, for the same number of steps.

$ python examples/fine_tune_h5.py
$ python examples/fine_tune_h5.py --examples_per_class=5 --max_steps=50 --freeze=backbone
"""

import logging
import os
import sys

import tfbig
from absl import app, flags
from tfbig.datasets import digits
from tfbig.models import cnn

_PRETRAINED = flags.DEFINE_string(
    "pretrained", "runs/digits_0_to_4.h5", "The saved model; made if it is missing."
)
_EXAMPLES = flags.DEFINE_integer("examples_per_class", 20, "Examples of each new class.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", 100, "Steps on the new classes.")
_FREEZE = flags.DEFINE_string("freeze", None, "backbone, or a pattern of layers' names.")
_STRATEGY = flags.DEFINE_string("strategy", "auto", "auto, one_device or mirrored.")
_DEVICES = flags.DEFINE_integer("devices", None, "Number of devices; None: all GPUs or the CPU.")

SEEDED = tfbig.RunConfig(tf_random_seed=0, eval_every_steps=20)


def pretrain(path: str) -> None:
    """Trains on the digits 0 to 4, with dropout for more general features, and saves the model."""
    data = {"classes": range(5)}
    result = tfbig.train_distributed(
        cnn.build,
        digits.input_fn,
        params={"num_classes": 5, "dropout": 0.5, "data": data},
        max_steps=400,
        config=SEEDED,
    )
    plain = cnn.build({"num_classes": 5})  # the saved model has no dropout
    plain.set_weights(result.model.get_weights())
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    plain.save(path)


def show_what_is_trained() -> None:
    """Prints what tfbig logs, including the table of layers."""
    log = logging.getLogger("tfbig")
    log.addHandler(logging.StreamHandler(sys.stdout))
    log.setLevel(logging.INFO)
    log.propagate = False


def main(argv: list[str]) -> None:
    del argv
    show_what_is_trained()
    if not os.path.exists(_PRETRAINED.value):
        pretrain(_PRETRAINED.value)
    data = {"classes": range(5, 10), "examples_per_class": _EXAMPLES.value, "batch_size": 25}
    run = {
        "eval_input_fn": digits.input_fn,  # all held-out examples of the new classes
        "params": {"num_classes": 5, "data": data},
        "max_steps": _MAX_STEPS.value,
        "strategy": _STRATEGY.value,
        "devices": _DEVICES.value,
        "config": SEEDED,
    }
    recipe = tfbig.Recipe(head=5, freeze=_FREEZE.value, learning_rate=3e-3, optimizer="adam")
    tuned = tfbig.fine_tune(_PRETRAINED.value, digits.input_fn, recipe=recipe, **run)
    scratch = tfbig.train_distributed(cnn.build, digits.input_fn, **run)
    print(
        f"step {tuned.global_step}: held-out accuracy {tuned.metrics['accuracy']:.4f}, "
        f"from scratch {scratch.metrics['accuracy']:.4f}"
    )


if __name__ == "__main__":
    app.run(main)
