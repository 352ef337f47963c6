"""Cases of Keras models; nothing here starts TensorFlow."""

from functools import partial

import keras
from keras.optimizers import SGD, Adam, AdamW, schedules

import tfbig
from tests.equivalence import models
from tests.equivalence.case import Case

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


KERAS_CASES = {
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
