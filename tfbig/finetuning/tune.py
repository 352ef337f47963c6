"""Applies a recipe to a loaded model: head, freezing, adapters, compilation, learning rates."""

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.finetuning.head import with_head
from tfbig.finetuning.layers import matching, weighted_layers
from tfbig.finetuning.lora import add_adapters, freeze
from tfbig.finetuning.recipe import BACKBONE, REGRESSION, Recipe
from tfbig.programs.keras.adapters import adapted_layers
from tfbig.programs.keras.builder import referenced_layers
from tfbig.programs.keras.rebuilding import (
    CANNOT_BE_REBUILT,
    compile_options,
    rebuilt,
    rebuilt_uncompiled,
)
from tfbig.programs.keras.trainable_layers import Tuning, attach
from tfbig.training.step.optimizers import build_optimizer

log = logging.getLogger("tfbig")


def apply_recipe(
    model: keras.Model, recipe: Recipe, compiled: keras.Model, total_steps: int | None
) -> keras.Model:
    """Adds a head to a model, freezes layers, compiles it, and attaches its Tuning.

    Args:
        model: changed in place, unless it gets a new head; created in the scope of the training.
        recipe: the recipe.
        compiled: the model whose loss and metrics are used if the recipe has none.
        total_steps: the last step, for schedules; None: not known.

    Returns:
        The compiled model.

    Raises:
        UserError: the recipe cannot be applied to the model.
    """
    if recipe.head is not None:
        model = with_head(model, recipe.head)
    for layer in _private_api.flatten_layers(model):
        layer.trainable = True  # undoes earlier freezing, because the recipe decides about all
    layers = weighted_layers(model)
    if not layers:
        raise UserError(f"the model {model.name!r} has no layer with weights to tune.")
    frozen = _frozen(layers, recipe)
    unfreeze = []
    for step in sorted(recipe.unfreeze):
        these = matching(frozen, recipe.unfreeze[step], f"Recipe.unfreeze[{step}]")
        unfreeze.append((step, these))
    if recipe.lora_rank is not None:
        add_adapters(frozen, recipe.lora_rank, recipe.lora_alpha, recipe.lora_layers)
    for layer in frozen:
        freeze(layer)
    model.compile(**_compile_arguments(recipe, compiled, total_steps), **compile_options(model))
    rates = _rates(layers, recipe.rate_decay)
    attach(model, Tuning(rates, unfreeze))
    log.info("%s", table(layers, unfreeze, rates))
    return model


def tuning_builder(
    base: keras.Model,
    model_fn: Callable | None,
    recipe: Recipe | None,
    total_steps: Callable[[], int | None],
    *,
    keep: bool = True,
) -> Callable[..., keras.Model]:
    """Returns a Keras builder for train_distributed that builds the model in the current scope.

    Args:
        base: the loaded model.
        model_fn: `model_fn(loaded_model, params)`, or None.
        recipe: a recipe, or None; without model_fn and recipe, the model keeps its compile state.
        total_steps: returns the last step of the run, or None; called when the model is built.
        keep: whether the base belongs to the caller and must not change.

    Raises:
        UserError: raised by the builder: the base must not change, but cannot be rebuilt.
    """

    def build(params: Any = None) -> keras.Model:
        policy = keras.config.dtype_policy().name  # RunConfig.precision
        try:
            # With a recipe, existing adapters of the base are merged into its weights.
            rebuild = rebuilt if base.compiled else rebuilt_uncompiled
            copy = rebuild(base, merge_adapters=recipe is not None, policy=policy)
        except CANNOT_BE_REBUILT as error:
            if keep:
                reason = " ".join(str(error).split()).split(". ")[0]
                raise UserError(
                    f"fine_tune: {type(base).__name__} cannot be rebuilt from its get_config "
                    f"({reason}), and the model that you passed must not change; write a "
                    "get_config that returns all of its arguments, or save it and pass the path."
                ) from error
            copy = base  # it stays on the one device where it was loaded
        types = {layer.compute_dtype for layer in weighted_layers(copy)}
        if policy != "float32" and types == {"float32"}:
            raise UserError(
                f"precision={policy!r}, but {base.name!r} can only compute in float32 (as the "
                'graph of a SavedModel, or an output layer); use RunConfig.precision="float32".'
            )
        if recipe is not None:
            return apply_recipe(copy, recipe, copy, total_steps())
        if model_fn is None:
            return copy
        return model_fn(copy, params)

    # Models that model_fn references, such as those in its closure, must not be changed.
    build.referenced_layers = referenced_layers(model_fn) if model_fn else set()  # type: ignore[attr-defined]
    if keep:
        build.referenced_layers |= referenced_layers(lambda: base)  # type: ignore[attr-defined]
    return build


def table(
    layers: list[keras.layers.Layer],
    unfreeze: list[tuple[int, list[keras.layers.Layer]]],
    rates: Mapping[str, float],
) -> str:
    """A table of the layers: parameters, trained parameters, first step, learning rate factor."""
    start = {id(layer): step for step, these in unfreeze for layer in reversed(these)}
    width = max(len(layer.name) for layer in layers)
    lines = [f"{'layer':{width}}  {'parameters':>12}  {'trained':>12}"]
    for layer in layers:
        trained, note = _trained(layer), ""
        if id(layer) in start:
            note = f"all from step {start[id(layer)]} on"
        elif adapted_layers(layer):
            note = f"adapters of rank {adapted_layers(layer)[0].lora_rank}"
        path = next((v.path for v in layer.variables if v.path in rates), None)
        if path is not None and (trained or note):
            note = ", ".join(filter(None, [note, f"at {rates[path]:.3g} of the rate"]))
        line = f"{layer.name:{width}}  {layer.count_params():12,}  {trained:12,}  {note}"
        lines.append(line.rstrip())
    total, trained = sum(x.count_params() for x in layers), sum(map(_trained, layers))
    lines.append(f"{'all':{width}}  {total:12,}  {trained:12,}  from the first step on")
    return "\n".join(lines)


def _trained(layer: keras.layers.Layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)


def _frozen(layers: list[keras.layers.Layer], recipe: Recipe) -> list[keras.layers.Layer]:
    if recipe.freeze is None:
        new_head = recipe.head is not None
        return [] if recipe.lora_rank is None else layers[: len(layers) - new_head]
    if recipe.freeze == BACKBONE:
        return layers[:-1]
    if isinstance(recipe.freeze, int):
        if recipe.freeze >= len(layers):
            raise UserError(
                f"Recipe.freeze={recipe.freeze}, but the model has {len(layers)} layers with "
                "weights; at least one of them must be trained."
            )
        return layers[: recipe.freeze]
    found = matching(layers, recipe.freeze, "Recipe.freeze")
    if len(found) == len(layers) and not recipe.unfreeze:
        raise UserError(f"Recipe.freeze={recipe.freeze!r} freezes every layer of the model.")
    return [layer for layer in layers if layer in found]


def _rates(layers: list[keras.layers.Layer], decay: float) -> dict[str, float]:
    if decay == 1:
        return {}
    return {
        variable.path: decay**distance
        for distance, layer in enumerate(reversed(layers))
        for variable in layer.variables
        if distance
    }


def _compile_arguments(recipe: Recipe, compiled: keras.Model, total_steps: int | None) -> dict:
    optimizer = recipe.optimizer
    named = dict(optimizer) if hasattr(optimizer, "items") else {"name": optimizer}
    arguments: dict[str, Any] = {
        "optimizer": build_optimizer({"learning_rate": recipe.learning_rate, **named}, total_steps)
    }
    if recipe.head == REGRESSION:
        arguments |= {"loss": keras.losses.MeanSquaredError(), "metrics": ["mae"]}
    elif recipe.head is not None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        arguments |= {"loss": loss, "metrics": ["accuracy"]}
    elif compiled.compiled:
        kept = _private_api.compile_arguments(compiled)
        names = ("loss", "loss_weights", "metrics", "weighted_metrics")
        arguments |= {name: kept[name] for name in names if kept.get(name) is not None}
    for name in ("loss", "metrics"):
        if getattr(recipe, name) is not None:
            arguments[name] = getattr(recipe, name)
    if "loss" not in arguments:
        raise UserError(
            "the loaded model is not compiled; pass Recipe(loss=…), or a model_fn that compiles it."
        )
    return arguments
