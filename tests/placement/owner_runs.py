"""Small trainings, replicated and with owners, that cover all cases of the sliced update."""

import functools
import json
import os
import pathlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers

import tfbig
from tfbig.placement.owner import layout as owner_layout
from tfbig.placement.owner.slices import SlicedVariable
from tfbig.programs.keras.trainable_layers import Tuning, attach

ROWS, STEPS = 100, 20


class Signed(optimizers.Optimizer):
    """A user-defined optimizer with a slot that starts at a constant, and a scalar."""

    elementwise = True

    def build(self, variables):
        if not self.built:
            super().build(variables)
            start = keras.initializers.Constant(0.5)
            self.sizes = self.add_optimizer_variables(variables, "size", initializer=start)
            self.updates = self.add_variable((), name="updates")

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        self.assign_add(self.updates, 1.0)
        super()._backend_update_step(grads, trainable_variables, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        size = self.sizes[self._get_variable_index(variable)]
        self.assign(size, 0.9 * size + 0.1 * keras.ops.abs(gradient))
        self.assign_sub(variable, learning_rate * gradient / (size + self.updates))


def _excluding(**names) -> optimizers.Optimizer:
    optimizer = optimizers.AdamW(1e-2, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(**names)
    return optimizer


def _build(optimizer: Callable, *, unused: bool = False, tune: Callable | None = None):
    """Builds an MLP; with `unused`, it has a second head without a loss, so without a gradient."""
    layers = keras.layers
    inputs = keras.Input((8,))
    hidden = layers.Dense(13, "tanh", name="first", bias_constraint="non_neg")(inputs)
    hidden = layers.Dense(7, "tanh", name="second")(hidden)
    outputs = {"value": layers.Dense(2, name="value")(hidden)}
    if unused:
        outputs["unused"] = layers.Dense(3, name="unused", kernel_constraint="non_neg")(hidden)
    model = keras.Model(inputs, outputs if unused else outputs["value"])
    model.compile(optimizer(), {"value": "mse"} if unused else "mse")
    if tune is not None:
        attach(model, tune(model))
    return model


def _joining(model: keras.Model) -> Tuning:
    return Tuning(unfreeze=[(0, model.layers[2:]), (6, [model.layers[1]])])


def _slower(model: keras.Model) -> Tuning:
    return Tuning(rates={v.path: 0.1 for v in model.layers[1].variables})


def _scaled(inner: optimizers.Optimizer, scale: float) -> optimizers.Optimizer:
    return optimizers.LossScaleOptimizer(inner, initial_scale=scale, dynamic_growth_steps=7)


p = functools.partial
_KINDS = {
    "sgd": p(optimizers.SGD, 0.1),
    "momentum": p(optimizers.SGD, 0.1, momentum=0.9),
    "nesterov": p(optimizers.SGD, 0.1, momentum=0.9, nesterov=True),
    "adam": p(optimizers.Adam, 1e-2),
    "amsgrad": p(optimizers.Adam, 1e-2, amsgrad=True),
    "adamw": p(optimizers.AdamW, 1e-2, weight_decay=0.5),
    "adamw_by_name": p(_excluding, var_names=["bias"]),
    "rmsprop": p(optimizers.RMSprop, 1e-3),
    "rmsprop_centered": p(optimizers.RMSprop, 1e-3, momentum=0.5, centered=True),
    "adagrad": p(optimizers.Adagrad, 0.1),
    "adadelta": p(optimizers.Adadelta, 1.0),
    "adamax": p(optimizers.Adamax, 1e-2),
    "nadam": p(optimizers.Nadam, 1e-2),
    "lion": p(optimizers.Lion, 1e-3, weight_decay=0.1),
    "ftrl": p(
        optimizers.Ftrl,
        0.1,
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.01,
        beta=0.1,
        l2_shrinkage_regularization_strength=0.01,
    ),
    "signed": p(Signed, 1e-2),
    "loss_scaled": lambda: _scaled(optimizers.RMSprop(1e-3), 100.0),
    "clipped": p(optimizers.Adam, 1e-2, global_clipnorm=0.05),
    "loss_scaled_clipped": lambda: _scaled(optimizers.Nadam(1e-2, clipnorm=0.1), 96.0),
    "loss_scaled_ema": lambda: _scaled(
        optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3), 64.0
    ),
    # Rules of complete variables.
    "lamb": p(optimizers.Lamb, 1e-2, weight_decay=0.1),
    "muon": p(
        optimizers.Muon, 1e-2, weight_decay=0.1, adam_weight_decay=0.3, exclude_layers=["second"]
    ),
    "adafactor": p(optimizers.Adafactor, 1e-2),
    "adafactor_scaled_ema": lambda: _scaled(
        optimizers.Adafactor(1e-2, clipnorm=0.1, use_ema=True, ema_momentum=0.8), 64.0
    ),
}
_AVERAGED = p(
    optimizers.AdamW, 1e-2, weight_decay=0.2, use_ema=True, ema_momentum=0.7,
    ema_overwrite_frequency=4,
)  # fmt: skip
BUILDS = {
    **{name: p(_build, optimizer) for name, optimizer in _KINDS.items()},
    "no_gradient": p(_build, p(optimizers.AdamW, 1e-2, weight_decay=0.2), unused=True),
    "no_gradient_ema": p(_build, _AVERAGED, unused=True),
    "joining": p(_build, _AVERAGED, tune=_joining),
    "rates": p(_build, p(optimizers.Adam, 1e-2, clipvalue=0.01), tune=_slower),
}


def arrays(unused: bool = False) -> tuple:
    random = np.random.default_rng(3)
    x = random.normal(size=(ROWS, 8)).astype("float32")
    y = np.tanh(x @ random.normal(size=(8, 2))).astype("float32")
    return x, {"value": y} if unused else y


def train(name: str, replicas: int | None, jit: bool, model_dir: str | None = None, **config):
    """Trains one of BUILDS on one device or with several owners; None: those of the cluster."""
    x, y = arrays(name.startswith("no_gradient"))
    return tfbig.train_distributed(
        BUILDS[name],
        lambda: tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat(),
        strategy={None: "multi_worker", 1: "one_device"}.get(replicas, "mirrored"),
        devices=replicas,
        max_steps=STEPS,
        model_dir=model_dir,
        config=tfbig.RunConfig(
            **{
                "model_distribution": "replicated" if replicas == 1 else "owner",
                "jit_compile": jit,
                "tf_random_seed": 5,
                **config,
            }
        ),
    )


def train_all(
    folder: str,
    names: list[str],
    replicas: int | None,
    jit: bool,
    bucket: int | None = None,
    distribution: str | None = None,
) -> None:
    """Trains some of BUILDS and writes their final variables to `<task>/<name>.npz`.

    Args:
        bucket: the bytes of a bucket; variables of at least that size are cut by rows.
        distribution: RunConfig.model_distribution; None: "owner", or "replicated" on one device.
    """
    if bucket is not None:
        owner_layout._LARGE_BYTES = bucket
        owner_layout._BUCKET_BYTES = owner_layout._GATHER_BYTES = bucket
    index = 0 if replicas else json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    pathlib.Path(folder, str(index)).mkdir()
    for name in names:
        config = {} if distribution is None else {"model_distribution": distribution}
        state = _state(train(name, replicas, jit, **config).model)
        np.savez(pathlib.Path(folder, str(index), f"{name}.npz"), **state)


def _state(model: keras.Model) -> dict[str, np.ndarray]:
    variables = [*model.variables, *model.optimizer.variables]
    return {f"{i:03d}": np.asarray(v.numpy()) for i, v in enumerate(variables)}


def load(model_dir: str, replicas: int, distribution: str) -> dict[str, list]:
    """Resumes from the checkpoint of a finished run; returns shapes and flat values by index."""
    config = {"model_distribution": distribution}
    model = train("loss_scaled_ema", replicas, False, model_dir, **config).model
    values = [np.asarray(v.numpy()) for v in model.optimizer.variables]
    return {
        "shapes": [list(v.shape) for v in values],
        "values": [v.ravel().tolist() for v in values],
        "sliced": sum(isinstance(v.value, SlicedVariable) for v in model.optimizer.variables),
    }


def save_whole_model(folder: str) -> bool:
    """Whether a model trained by owners is saved with the complete state of its optimizer."""
    model = train("adam", 2, False).model
    model.save(f"{folder}/model.keras")
    loaded = keras.models.load_model(f"{folder}/model.keras")
    pairs = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)


def slot_bytes(replicas: int) -> dict[str, float]:
    """The bytes of Adam's slots for the digits MLP: on each replica, and of the complete slots."""
    result = tfbig.train_distributed(
        lambda: tfbig.models.mlp.build({"input_shape": (64,)}),
        lambda: tf.data.Dataset.from_tensors((np.zeros((8, 64), "f4"), np.zeros(8, "i4"))),
        strategy="mirrored",
        devices=replicas,
        max_steps=1,
        config=tfbig.RunConfig(model_distribution="owner", tf_random_seed=0),
    )
    slots = [
        v.value for v in result.model.optimizer.variables if isinstance(v.value, SlicedVariable)
    ]
    stored = {id(part.store): part.store.variable for slot in slots for part in slot.parts}
    held = [0] * replicas
    for variable in stored.values():
        for replica, own in enumerate(variable.values):
            held[replica] += own.numpy().nbytes
    return {"held": held, "whole": sum(slot.numpy().nbytes for slot in slots)}
