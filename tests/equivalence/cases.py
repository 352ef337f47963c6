"""All cases of the numbers contract, by name; nothing here starts TensorFlow."""

import dataclasses
from functools import partial

import keras
from keras.optimizers import SGD, Adam, AdamW, schedules

import tfbig
from tests.equivalence import models, tf1_model_fns, tf1_reference
from tests.equivalence.case import Case
from tests.equivalence.model_fns import ModelFn
from tests.equivalence.tf1_model_fns import TF1ModelFn

# 230 examples in batches of 64: the last has 38, which 4 replicas cannot share evenly.
UNEVEN = partial(models.digits, 230)

adam = partial(Adam, 1e-2)
sgd = partial(SGD, 0.1, momentum=0.9)
# Adam divides by the gradient's size, rounding included; 1e-3 keeps that out of the way.
mild_adam = partial(Adam, 1e-2, epsilon=1e-3)


def _metrics() -> list:
    return [
        keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
        keras.metrics.SparseTopKCategoricalAccuracy(k=3, name="top3"),
    ]


def _with_metrics() -> keras.Model:
    return models.mlp(adam, metrics=_metrics())


def _with_weighted_metrics() -> keras.Model:
    return models.mlp(adam, weighted_metrics=_metrics())


def _mlp(optimizer=adam, **arguments):
    return partial(models.mlp, optimizer, **arguments)


def _binary(optimizer) -> keras.Model:
    """Odd or even, with metrics that are more than one sum."""
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1, activation="sigmoid")])
    precision = keras.metrics.Precision(name="precision")
    hits = keras.metrics.TruePositives(name="hits")  # a count, where others are ratios
    model.compile(
        optimizer(),
        "binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(name="auc"), precision, hits],
        weighted_metrics=[
            keras.metrics.AUC(name="weighted_auc"),
            keras.metrics.MeanSquaredError(name="weighted_mse"),
        ],
    )
    return model


def _odd_or_even() -> tuple:
    x, y, weight = models.weighted_digits(230)
    return x, (y % 2).astype("float32")[:, None], weight


def _without_weights(data):
    return data.map(lambda x, y, weight: (x, y))


def _with_class_weight(data):
    return tfbig.data.with_class_weight(_without_weights(data), models.WEIGHTED_CLASSES)


def _loss_scaled() -> keras.optimizers.Optimizer:
    return keras.optimizers.LossScaleOptimizer(SGD(0.1, momentum=0.9))


def _tf1(optimizer, rate: float, *, data=UNEVEN, model_fn=None, **fields) -> Case:
    """A case of a model_fn of TensorFlow 1 code, against TensorFlow 1 itself."""
    return Case(
        None,
        data,
        model_fn=TF1ModelFn(optimizer, rate, **(model_fn or {})),
        reference=tf1_reference.train,
        evaluates=True,
        **fields,
    )


def _mlp_reduced_by(optimizer, reduction: str, **arguments) -> keras.Model:
    return models.mlp(optimizer, loss=models.crossentropy(reduction=reduction), **arguments)


def _regularized_and_reduced_by(optimizer, reduction: str) -> keras.Model:
    hidden = {"kernel_regularizer": keras.regularizers.L2(0.01)}
    return _mlp_reduced_by(optimizer, reduction, hidden=hidden)


def _regularized() -> keras.Model:
    hidden = {
        "kernel_regularizer": keras.regularizers.L2(0.05),
        "bias_regularizer": keras.regularizers.L1(0.01),
        "activity_regularizer": keras.regularizers.L2(0.01),
    }
    return models.mlp(adam, hidden=hidden)


def _constrained() -> keras.Model:
    hidden = {"kernel_constraint": keras.constraints.MaxNorm(0.9)}
    return models.mlp(partial(AdamW, 1e-2, weight_decay=0.1, global_clipnorm=1.0), hidden=hidden)


def _constrained_average() -> keras.Model:
    hidden = {"kernel_constraint": keras.constraints.MaxNorm(0.9)}
    optimizer = partial(Adam, 1e-2, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3)
    return models.mlp(optimizer, hidden=hidden)


CASES = {
    # How the global batch is cut.
    "even": Case(_mlp(), partial(models.digits, 256)),
    "uneven": Case(_with_metrics, UNEVEN),
    "last_batch_of_one": Case(_mlp(), partial(models.digits, 193)),
    "last_batch_of_three": Case(_mlp(), partial(models.digits, 195)),
    "batch_not_divisible": Case(_mlp(), partial(models.digits, 100), batch_size=30),
    "steps_per_loop_7": Case(
        _mlp(), UNEVEN, epochs=5, config={"steps_per_loop": 7, "log_step_count_steps": 100}
    ),
    # What weighs the examples.
    "sample_weights": Case(_with_weighted_metrics, partial(models.weighted_digits, 230)),
    "mean_with_sample_weight": Case(
        partial(_mlp_reduced_by, adam, "mean_with_sample_weight"),
        partial(models.weighted_digits, 193),
    ),
    "class_weights": Case(
        _mlp(), partial(models.class_weighted_digits, 230), read=_with_class_weight
    ),
    "summed_loss": Case(partial(_mlp_reduced_by, partial(SGD, 1e-3), "sum"), UNEVEN),
    "gradient_aggregation_sum": Case(
        partial(_regularized_and_reduced_by, partial(SGD, 1e-3), "sum_over_batch_size"),
        UNEVEN,
        config={"gradient_aggregation": "sum"},
        reference_build=partial(_regularized_and_reduced_by, partial(SGD, 1e-3), "sum"),
    ),
    # What else is in the loss.
    "regularizers": Case(_regularized, UNEVEN),
    "add_loss": Case(partial(models.adds_loss, adam), UNEVEN),
    "unlabelled": Case(partial(models.autoencoder, adam), partial(models.unlabelled, 193)),
    "own_compute_loss": Case(partial(models.own_loss, adam), UNEVEN),
    "loss_over_the_batch": Case(
        partial(models.dice, sgd), partial(models.one_hot_digits, 100), batch_size=30, parts=True
    ),
    # What the optimizer does with the gradient.
    "clipnorm": Case(_mlp(partial(SGD, 0.5, clipnorm=0.02)), UNEVEN),
    "clipvalue": Case(_mlp(partial(SGD, 0.5, clipvalue=2e-3)), UNEVEN),
    "global_clipnorm": Case(
        _mlp(partial(Adam, 1e-2, global_clipnorm=0.05)), partial(models.digits, 193)
    ),
    "loss_scale_factor": Case(_mlp(partial(SGD, 0.1, loss_scale_factor=64.0)), UNEVEN),
    "ema": Case(_mlp(partial(SGD, 0.1, use_ema=True, ema_momentum=0.8)), UNEVEN),
    "ema_overwriting": Case(
        _mlp(partial(SGD, 0.1, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=5)),
        UNEVEN,
    ),
    "schedule": Case(
        _mlp(lambda: SGD(schedules.CosineDecay(0.0, 8, warmup_target=0.3, warmup_steps=3))),
        UNEVEN,
    ),
    "adamw_and_constraint": Case(_constrained, UNEVEN),
    "ema_overwriting_constrained": Case(_constrained_average, UNEVEN),
    "partly_trained": Case(partial(models.partly_trained, adam), UNEVEN),
    # Batches worked through in micro-batches.
    "accumulation_2": Case(_with_metrics, UNEVEN, config={"accumulation_steps": 2}),
    "accumulation_3_clipped": Case(
        _mlp(partial(SGD, 0.5, global_clipnorm=0.05)),
        partial(models.digits, 193),
        config={"accumulation_steps": 3},
    ),
    "accumulation_2_add_loss": Case(
        partial(models.adds_loss, adam),
        partial(models.digits, 195),
        config={"accumulation_steps": 2},
    ),
    "accumulation_2_batch_norm": Case(
        partial(models.batch_norm, sgd, synchronized=False),
        UNEVEN,
        config={"accumulation_steps": 2},
        parts=True,
    ),
    # Layers that mix the examples of a batch.
    "synchronized_batch_norm": Case(
        partial(models.batch_norm, sgd, synchronized=True), UNEVEN, evaluates=True
    ),
    "synchronized_batch_norm_last_of_one": Case(
        partial(models.batch_norm, sgd, synchronized=True), partial(models.digits, 193)
    ),
    "batch_norm": Case(partial(models.batch_norm, sgd, synchronized=False), UNEVEN, parts=True),
    "batch_norm_last_of_one": Case(
        partial(models.batch_norm, sgd, synchronized=False),
        partial(models.digits, 193),
        parts=True,
        evaluates=True,
    ),
    # Structures and masks.
    "two_inputs_two_losses": Case(
        partial(models.two_heads, adam), partial(models.two_inputs, 230), evaluates=True
    ),
    "masked_tokens": Case(partial(models.tagger, adam), partial(models.tokens, 105), batch_size=30),
    "masked_mean": Case(
        partial(models.sentence_classifier, adam), partial(models.sentences, 97), batch_size=32
    ),
    "masked_values": Case(
        partial(models.masked_regressor, adam), partial(models.sequences, 97), batch_size=32
    ),
    "masked_weighted_tokens": Case(
        partial(models.tagger, adam, "mean_with_sample_weight"),
        partial(models.weighted_tokens, 105),
        batch_size=30,
        config={"accumulation_steps": 2},
    ),
    "batches_of_other_lengths": Case(
        partial(models.tagger, adam),
        partial(models.tokens, 105),
        batch_size=30,
        read=models.without_common_padding,
    ),
    "random_state": Case(
        partial(models.hardly_random, sgd), UNEVEN, config={"accumulation_steps": 2}
    ),
    # tfbig's Dropout: the mask is the example's, wherever it is computed.
    "dropout": Case(partial(models.dropped_out, sgd), UNEVEN, epochs=4),
    "dropout_accumulated": Case(
        partial(models.dropped_out, sgd), UNEVEN, epochs=4, config={"accumulation_steps": 3}
    ),
    "counting_layer": Case(
        partial(models.counts_updates, sgd), UNEVEN, config={"accumulation_steps": 2}
    ),
    # Metrics are those of one pass over all examples.
    "metrics": Case(partial(_binary, sgd), _odd_or_even, evaluates=True),
    # Estimator-style model_fns.
    "model_fn": Case(None, UNEVEN, model_fn=ModelFn(adam), evaluates=True),
    "model_fn_scalar_loss": Case(
        None, partial(models.digits, 193), model_fn=ModelFn(adam, scalar=True), evaluates=True
    ),
    "model_fn_batch_norm": Case(
        None, UNEVEN, model_fn=ModelFn(sgd, normalize=True), parts=True, evaluates=True
    ),
    "model_fn_batch_norm_last_of_one": Case(
        None, partial(models.digits, 193), model_fn=ModelFn(sgd, normalize=True), parts=True
    ),
    "model_fn_accumulation_2_clipped": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(partial(SGD, 0.5, global_clipnorm=0.05)),
        config={"accumulation_steps": 2},
    ),
    "model_fn_ema": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(partial(SGD, 0.1, use_ema=True, ema_momentum=0.8)),
    ),
    "model_fn_float16": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(sgd),
        config={"precision": "mixed_float16"},
        weights=2e-2,
        losses=1e-2,
    ),
    # Of TensorFlow 1 code.
    "tf1_momentum": _tf1(tf1_model_fns.momentum, 0.1),
    "tf1_adam_last_of_one": _tf1(tf1_model_fns.adam, 0.01, data=partial(models.digits, 193)),
    "tf1_ftrl_accumulation_2": _tf1(tf1_model_fns.ftrl, 0.1, config={"accumulation_steps": 2}),
    "tf1_clipped": _tf1(tf1_model_fns.momentum, 0.5, model_fn={"clip": 0.05}),
    "tf1_clipped_accumulation_2": _tf1(
        tf1_model_fns.adam, 0.01, model_fn={"clip": 0.05}, config={"accumulation_steps": 2}
    ),
    "tf1_batch_norm": _tf1(tf1_model_fns.momentum, 0.1, model_fn={"normalize": True}, parts=True),
    "tf1_batch_norm_accumulation_2": _tf1(
        tf1_model_fns.momentum,
        0.1,
        data=partial(models.digits, 193),
        model_fn={"normalize": True},
        parts=True,
        config={"accumulation_steps": 2},
    ),
    # Both dialects at length: 20 passes of 15 batches, the last of 6.
    "model_fn_300_steps": Case(
        None,
        UNEVEN,
        batch_size=16,
        epochs=20,
        model_fn=ModelFn(adam),
        config={"log_step_count_steps": 50},
        evaluates=True,
    ),
    "tf1_300_steps": _tf1(
        tf1_model_fns.adam,
        0.01,
        batch_size=16,
        epochs=20,
        config={"log_step_count_steps": 50},
    ),
    # Precision.
    "bfloat16": Case(
        _mlp(sgd), UNEVEN, config={"precision": "mixed_bfloat16"}, weights=5e-3, losses=1e-2
    ),
    "float16": Case(
        _mlp(sgd), UNEVEN, config={"precision": "mixed_float16"}, weights=2e-2, losses=1e-2
    ),
    # The huge example is in the second batch, where the last replica has it.
    "float16_infinite_gradient": Case(
        _mlp(_loss_scaled),
        partial(models.digits_with_one_huge, 230, 125),
        config={"precision": "mixed_float16"},
        weights=2e-2,
        losses=1e-2,
    ),
    # The models of the contract, at its length.
    "mlp_100_steps": Case(
        lambda: tfbig.models.mlp.build({"input_shape": (64,)}),
        partial(models.digits, 1230),
        epochs=5,
        config={"log_step_count_steps": 50},
    ),
    "cnn_100_steps": Case(
        partial(models.cnn, partial(Adam, 1e-3)),
        partial(models.images, 620),
        epochs=10,
        config={"log_step_count_steps": 50},
    ),
}

_COMPILED = (
    "dropout",
    "uneven",
    "last_batch_of_one",
    "clipnorm",
    "ema",
    "accumulation_2",
    "batch_norm_last_of_one",
    "masked_tokens",
    "masked_mean",
    "metrics",
    "float16_infinite_gradient",
    "cnn_100_steps",
)
CASES |= {
    f"{name}_jit": dataclasses.replace(
        CASES[name], config={**CASES[name].config, "jit_compile": True}
    )
    for name in _COMPILED
}

# XLA compiles a model_fn for one device alone.
CASES |= {
    f"{name}_jit": dataclasses.replace(
        CASES[name], config={**CASES[name].config, "jit_compile": True}, replicas=(1,)
    )
    for name in (
        *("tf1_momentum", "tf1_clipped_accumulation_2", "tf1_300_steps"),
        *("model_fn_300_steps", "model_fn_batch_norm_last_of_one"),
    )
}

# Activations recomputed by block. Masks, seeds, statistics and added losses are what could differ.
_RECOMPUTED = (
    "add_loss",
    "dropout_accumulated",
    "dropout_jit",
    "random_state",
    "synchronized_batch_norm",
    "masked_tokens",
    "partly_trained",
    "float16_infinite_gradient",
)
CASES |= {
    f"{name}_remat": dataclasses.replace(CASES[name], config={**CASES[name].config, "remat": True})
    for name in _RECOMPUTED
}

# The optimizer's state in slices, one for each replica.
_OWNED = (
    "even",
    "uneven",
    "last_batch_of_one",
    "last_batch_of_three",
    "regularizers",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "ema",
    "ema_overwriting",
    "ema_overwriting_constrained",
    "schedule",
    "adamw_and_constraint",
    "partly_trained",
    "accumulation_3_clipped",
    "synchronized_batch_norm",
    "masked_mean",
    "metrics",
    "model_fn",
    "model_fn_batch_norm",
    "model_fn_accumulation_2_clipped",
    "model_fn_ema",
    "model_fn_float16",
    "bfloat16",
    "float16_infinite_gradient",
    "mlp_100_steps",
    "cnn_100_steps",
    "clipnorm_jit",
    "ema_jit",
    "float16_infinite_gradient_jit",
    "cnn_100_steps_jit",
)
_OWNED_BY_FOUR = (
    "uneven",
    "last_batch_of_three",
    "clipnorm",
    "ema_overwriting_constrained",
    "model_fn_float16",
    "float16_infinite_gradient_jit",
    "mlp_100_steps",
)
CASES |= {
    f"{name}_owner": dataclasses.replace(
        CASES[name],
        config={**CASES[name].config, "model_distribution": "owner"},
        replicas=(2, 4) if name in _OWNED_BY_FOUR else (2,),
    )
    for name in _OWNED
}

# Four replicas run what more replicas could change: how batches are cut, and what is reduced.
_ON_FOUR = (
    "even",
    "uneven",
    "last_batch_of_one",
    "last_batch_of_three",
    "dropout",
    "dropout_accumulated",
    "batch_not_divisible",
    "steps_per_loop_7",
    "sample_weights",
    "regularizers",
    "clipnorm",
    "global_clipnorm",
    "ema",
    "schedule",
    "accumulation_2",
    "accumulation_3_clipped",
    "synchronized_batch_norm",
    "synchronized_batch_norm_last_of_one",
    "batch_norm",
    "batch_norm_last_of_one",
    "masked_tokens",
    "metrics",
    "bfloat16",
    "float16_infinite_gradient",
    "model_fn_batch_norm_last_of_one",
    "mlp_100_steps",
    "cnn_100_steps",
    "uneven_jit",
)
CASES |= {name: dataclasses.replace(CASES[name], replicas=(1, 2, 4)) for name in _ON_FOUR}

# Workers are replicas in processes of their own, each with its share of the data.
_ON_TWO_WORKERS = (
    "even",
    "uneven",
    "last_batch_of_one",
    "batch_not_divisible",
    "steps_per_loop_7",
    "sample_weights",
    "mean_with_sample_weight",
    "gradient_aggregation_sum",
    "regularizers",
    "clipnorm",
    "global_clipnorm",
    "ema_overwriting",
    "schedule",
    "partly_trained",
    "accumulation_2",
    "accumulation_3_clipped",
    "accumulation_2_batch_norm",
    "synchronized_batch_norm",
    "synchronized_batch_norm_last_of_one",
    "batch_norm_last_of_one",
    "two_inputs_two_losses",
    "masked_tokens",
    "masked_mean",
    "batches_of_other_lengths",
    "random_state",
    "dropout_accumulated",
    "counting_layer",
    "metrics",
    "model_fn",
    "model_fn_batch_norm_last_of_one",
    "model_fn_float16",
    "tf1_momentum",
    "tf1_adam_last_of_one",
    "tf1_clipped_accumulation_2",
    "tf1_batch_norm",
    "model_fn_300_steps",
    "tf1_300_steps",
    "bfloat16",
    "float16_infinite_gradient",
    "mlp_100_steps",
    "cnn_100_steps",
    "uneven_jit",
    "synchronized_batch_norm_remat",
    "dropout_accumulated_remat",
    "even_owner",
    "uneven_owner",
    "last_batch_of_one_owner",
    "clipnorm_owner",
    "global_clipnorm_owner",
    "ema_overwriting_constrained_owner",
    "accumulation_3_clipped_owner",
    "synchronized_batch_norm_owner",
    "metrics_owner",
    "model_fn_owner",
    "bfloat16_owner",
    "float16_infinite_gradient_owner",
    "mlp_100_steps_owner",
    "cnn_100_steps_jit_owner",
)
_ON_THREE_WORKERS = (
    "even",
    "uneven",
    "last_batch_of_one",
    "last_batch_of_three",
    "sample_weights",
    "clipnorm",
    "global_clipnorm",
    "accumulation_2",
    "synchronized_batch_norm_last_of_one",
    "batch_norm_last_of_one",
    "masked_tokens",
    "dropout",
    "metrics",
    "model_fn",
    "bfloat16",
    "float16_infinite_gradient",
    "mlp_100_steps",
    "uneven_owner",
    "float16_infinite_gradient_jit_owner",
)
for _workers, _names in ((2, _ON_TWO_WORKERS), (3, _ON_THREE_WORKERS)):
    CASES |= {
        name: dataclasses.replace(CASES[name], workers=(*CASES[name].workers, _workers))
        for name in _names
    }

# Synchronous parameter servers, which compile nothing and have no slices.
_ON_SERVERS = [
    name
    for name, case in CASES.items()
    if "synchronized" not in name and not {"jit_compile", "model_distribution"} & set(case.config)
]
for name in _ON_SERVERS:
    three = name in ("uneven", "last_batch_of_one", "accumulation_3_clipped")
    CASES[name] = dataclasses.replace(CASES[name], servers=(2, 3) if three else (2,))
