"""Rebuilds a Keras model: the same layers, weights and compile options, but new variables."""

import sys
from typing import Any

import keras

from tfbig import _private_api
from tfbig.layers.sharded_tables import reshard_values, shard_of
from tfbig.programs.keras.adapters import copy_adapters, merged_weights, without_adapters
from tfbig.programs.keras.config_checks import check_config, check_copies
from tfbig.programs.keras.preprocessing import copy_preprocessing_state
from tfbig.programs.keras.trainable_layers import copy_trainable_flags

# Attributes of Keras that change as a model is built, compiled and trained.
_OF_KERAS = (
    "built",
    "compiled",
    "predict_function",
    "steps_per_execution",
    "stop_training",
    "test_function",
    "train_function",
)

CANNOT_BE_REBUILT = (NotImplementedError, TypeError, ValueError)


def rebuilt(
    model: keras.Model, *, merge_adapters: bool = False, policy: str = "float32"
) -> keras.Model:
    """Creates a new model from the config, weights and compile options of a compiled model.

    The optimizer is new too: its slot variables start at zero.

    Args:
        model: compiled.
        merge_adapters: replace layers with adapters (LoRA) by plain layers with equal outputs.
        policy: the dtype policy of layers that had "float32", except the output layers.

    Raises:
        CANNOT_BE_REBUILT: the model, a layer or a metric has an incomplete config.
    """
    custom = any(_private_api.overrides(model, name) for name in ("train_step", "test_step"))
    if custom and _private_api.overrides(model, "compile"):
        raise TypeError("it has a custom compile, whose arguments are unknown")
    copy = rebuilt_uncompiled(model, merge_adapters=merge_adapters, policy=policy)
    copy.compile(**_compile_arguments(model))
    if custom:
        _check_attributes(model, copy)
    return copy


def rebuilt_uncompiled(
    model: keras.Model, *, merge_adapters: bool = False, policy: str = "float32"
) -> keras.Model:
    """Creates a new model from the config and weights of another, without compiling it.

    Args:
        model: built or not.
        merge_adapters, policy: as in `rebuilt`.

    Raises:
        CANNOT_BE_REBUILT: as in `rebuilt`.
    """
    copy = _from_config(model, policy)
    _check_no_shared_layers(copy, model)
    if model.built and not copy.built:
        copy.build_from_config(model.get_build_config())
    check_copies(model, copy)
    if model.built and merge_adapters:
        _set_weights(copy, merged_weights(model), model)
    elif model.built:
        copy_adapters(model, copy)
        _set_weights(copy, model.get_weights(), model)
    if not merge_adapters:
        copy_trainable_flags(model, copy)
    if model.built:
        copy_preprocessing_state(model, copy)
    return copy


def _check_no_shared_layers(copy: keras.Model, model: keras.Model) -> None:
    """Raises a TypeError if a config contains layers themselves, with their variables."""
    originals = {id(layer) for layer in _private_api.flatten_layers(model)}
    for layer in _private_api.flatten_layers(copy):
        if id(layer) in originals and layer.variables:
            raise TypeError(
                f"a config contains the layer {layer.name!r} itself; write "
                "keras.saving.serialize_keras_object(layer) in get_config"
            )


def _check_attributes(model: keras.Model, copy: keras.Model) -> None:
    """Raises a TypeError if a copy lacks an attribute that a custom step may use."""
    attributes = vars(copy)
    for name, value in vars(model).items():
        if name.startswith("_") or name in _OF_KERAS:
            continue
        plain = value is None or isinstance(value, (bool, int, float, str))
        if name not in attributes or (plain and attributes[name] != value):
            raise TypeError(f"its get_config does not include its attribute {name!r}")


def _set_weights(copy: keras.Model, values: list, model: keras.Model) -> None:
    """Sets all weights. Tables of ShardedEmbeddings may have other shards in the copy."""
    counts = [[shard.count for v in m.weights if (shard := shard_of(v))] for m in (model, copy)]
    if counts[0] != counts[1]:
        values = reshard_values(values, model.weights, copy.weights)
    copy.set_weights(values)


def _from_config(model: keras.Model, policy: str) -> keras.Model:
    copies: dict[int, keras.layers.Layer] = {}
    outputs = _output_layers(model)

    def copy(layer):
        if id(layer) not in copies:  # a shared layer is copied once
            if type(layer) is keras.Sequential or _private_api.is_plain_functional(layer):
                new = keras.models.clone_model(layer, clone_function=copy)
            else:
                if isinstance(layer, keras.Model):
                    check_config(layer)
                config = with_preprocessor(layer, without_adapters(layer.get_config()))
                if policy != "float32" and id(layer) not in outputs:
                    config = _in_policy(config, policy)
                new = type(layer).from_config(config)
            copies[id(layer)] = new
        return copies[id(layer)]

    with _private_api.treated_as_uncompiled(model):
        return copy(model)


def _output_layers(model: keras.Model) -> set[int]:
    """The ids of the layers that compute the outputs of a Sequential or functional model."""
    if isinstance(model, keras.Sequential):
        last = model.layers[-1:]
    else:
        names = getattr(model, "output_names", None) or ()
        last = [layer for layer in model.layers if layer.name in names]
    found: set[int] = set()
    for layer in last:
        found |= _output_layers(layer) if isinstance(layer, keras.Model) else {id(layer)}
    return found


def _in_policy(config: Any, policy: str) -> Any:
    """A layer's config with another dtype policy, also for nested layers."""
    if isinstance(config, (list, tuple)):
        return type(config)(_in_policy(value, policy) for value in config)
    if not isinstance(config, dict):
        return config
    config = {key: _in_policy(value, policy) for key, value in config.items()}
    dtype = config.get("dtype")
    if isinstance(dtype, dict) and dtype.get("config") == {"name": "float32"}:
        config["dtype"] = {**dtype, "config": {"name": policy}}
    return config


def _compile_arguments(model: keras.Model) -> dict:
    """The arguments of a model's `compile`, with a new optimizer and new metrics."""
    arguments = _private_api.compile_arguments(model)
    if isinstance(arguments["optimizer"], keras.optimizers.Optimizer):
        arguments["optimizer"] = _new_optimizer(arguments["optimizer"])
    for name in ("metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(
            lambda m: _new_metric(m) if isinstance(m, keras.metrics.Metric) else m,
            arguments[name],
        )
    for name in ("steps_per_execution", "jit_compile"):
        arguments.pop(name, None)  # options of Keras's own loop
    return arguments | compile_options(model)


def _new_optimizer(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    check_config(optimizer)
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        config["inner_optimizer"] = _new_optimizer(optimizer.inner_optimizer)
        return type(optimizer)(**config)
    schedule = _private_api.learning_rate(optimizer)
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        config["learning_rate"] = schedule  # a schedule has no state
    new = type(optimizer).from_config(config)
    variables, names = _private_api.weight_decay_exclusions(optimizer)
    if variables:
        raise TypeError("exclude_from_weight_decay was given variables; give it var_names")
    if names:
        new.exclude_from_weight_decay(var_names=[names])
    return new


def _new_metric(metric: keras.metrics.Metric) -> keras.metrics.Metric:
    if type(metric) is keras.metrics.MeanMetricWrapper:  # its function has no config
        function, arguments = _private_api.metric_function(metric)
        return keras.metrics.MeanMetricWrapper(
            function, name=metric.name, dtype=metric.dtype, **arguments
        )
    check_config(metric)
    return type(metric).from_config(metric.get_config())


def is_task(model: Any) -> bool:
    """Whether a model is a KerasHub task. KerasHub is not imported for this."""
    models = getattr(sys.modules.get("keras_hub"), "models", None)
    return models is not None and isinstance(model, models.Task)


def with_preprocessor(task: keras.layers.Layer, config: dict) -> dict:
    """Puts the preprocessor itself into a task's config, as tokenizer configs lack a vocabulary.

    Args:
        task: any layer. The config of a layer that is no task is returned unchanged.
        config: the result of its get_config.
    """
    preprocessor = task.preprocessor if is_task(task) else None
    if preprocessor is None or getattr(preprocessor, "weights", None):
        return config
    return {**config, "preprocessor": preprocessor}


def compile_options(model: keras.Model) -> dict[str, Any]:
    """Arguments of `compile` that KerasHub adds: the sampler of a CausalLM."""
    sampler = getattr(model, "sampler", None) if is_task(model) else None
    return {} if sampler is None else {"sampler": sampler}
