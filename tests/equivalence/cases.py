"""All cases of the numbers contract, by name, and the placements that each is run on."""

import dataclasses

from tests.equivalence.keras_cases import KERAS_CASES
from tests.equivalence.model_fn_cases import MODEL_FN_CASES

CASES = KERAS_CASES | MODEL_FN_CASES

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

# Every case of "owner", with gradients or weights in slices too.
CASES |= {
    f"{name}_{distribution}": dataclasses.replace(
        CASES[f"{name}_owner"],
        config={**CASES[name].config, "model_distribution": distribution},
    )
    for name in _OWNED
    for distribution in ("owner_gradients", "owner_full")
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
_ON_TWO_WORKERS += tuple(
    f"{name.removesuffix('_owner')}_{distribution}"
    for name in _ON_TWO_WORKERS
    for distribution in ("owner_gradients", "owner_full")
    if f"{name.removesuffix('_owner')}_{distribution}" in CASES and name.endswith("_owner")
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
    "uneven_owner_full",
    "float16_infinite_gradient_owner_full",
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
