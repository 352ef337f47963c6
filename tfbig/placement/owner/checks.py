"""Which optimizers an owner can update slices with; all others are refused by name."""

from typing import Any

from keras import optimizers

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.rows import shard_of

# What they do to an element of a variable depends on that element's gradient and slots alone.
ELEMENTWISE = (
    optimizers.SGD,
    optimizers.Adam,
    optimizers.AdamW,
    optimizers.RMSprop,
    optimizers.Adagrad,
    optimizers.Adadelta,
    optimizers.Adamax,
    optimizers.Nadam,
    optimizers.Lion,
    optimizers.Ftrl,
)


def check_optimizer(optimizer: Any, variables: list) -> None:
    """Refuses what slices cannot be updated with, before anything is made.

    Raises:
        UserError: one line that says what to write instead.
    """
    inner = _private_api.unwrapped(optimizer)
    name = type(inner).__name__
    if type(inner) not in ELEMENTWISE and getattr(inner, "elementwise", False) is not True:
        listed = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise UserError(
            f'model_distribution="owner" updates slices of variables, and {name} is not known to '
            f"treat each element by itself; use one of {listed}, write "
            'model_distribution="replicated", or declare `elementwise = True` in a class of your '
            "own whose update_step does."
        )
    if optimizer.built or inner.built:
        raise UserError(
            f'model_distribution="owner": the optimizer {name} has been built already, with slots '
            "that are whole on every replica; pass a function that builds and compiles the model, "
            "and leave optimizer.build() and fit() out of it."
        )
    if inner.gradient_accumulation_steps:
        steps = inner.gradient_accumulation_steps
        raise UserError(
            f"optimizer gradient_accumulation_steps={steps}: Keras's own accumulation fails under "
            f"tf.distribute; leave it None and write RunConfig(accumulation_steps={steps})."
        )
    for variable in variables:
        if shard_of(variable):
            raise UserError(
                f'model_distribution="owner" updates slices of whole gradients, and '
                f"{variable.path!r} is a table of a ShardedEmbedding, whose gradient is never "
                "whole; write "
                'model_distribution="replicated", or use keras.layers.Embedding.'
            )
        if _private_api.is_overwritten_by_gradient(inner, variable):
            raise UserError(
                f'model_distribution="owner": the variable {variable.path!r} is overwritten with '
                "its gradient (float8 training), which is no update of slices; write "
                'model_distribution="replicated".'
            )


def check_slots(optimizer: Any, slots: list[list]) -> None:
    """Refuses an optimizer that keeps its slots in another way than Keras's own do.

    Raises:
        UserError: a variable that is no scalar was not made by `add_optimizer_variables`.
    """
    known = {id(slot) for own in slots for slot in own}
    for variable in _private_api.unwrapped(optimizer).variables:
        if id(variable) not in known and variable.shape.rank:
            raise UserError(
                f"{type(optimizer).__name__} makes the variable {variable.path!r} of shape "
                f"{tuple(variable.shape)} by itself, which an owner cannot slice; make slots with "
                "self.add_optimizer_variables(variables, name) in build, one for each variable, "
                "and keep them in a list."
            )
