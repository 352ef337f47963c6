"""Checks that an optimizer can update slices of variables; others are rejected by name."""

from typing import Any

from keras import optimizers

from tfbig import _private_api
from tfbig.errors import UserError
from tfbig.layers.sharded_tables import shard_of

# Their update of an element depends only on the gradient and the slots of that element.
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
# Their update of a variable depends on all of its elements: on norms, means or products.
BY_VARIABLE = (optimizers.Adafactor, optimizers.Lamb, optimizers.Muon)


def updates_whole_variables(optimizer: Any) -> bool:
    """Whether an optimizer has to see complete variables."""
    return type(_private_api.unwrap_optimizer(optimizer)) in BY_VARIABLE


def check_optimizer(optimizer: Any, variables: list, distribution: str = "owner") -> None:
    """Checks that an optimizer can update slices, before any variable is created.

    Args:
        optimizer: a Keras optimizer.
        variables: that it will update.
        distribution: RunConfig.model_distribution, for messages.

    Raises:
        UserError: it cannot; the message says what to write instead.
    """
    inner = _private_api.unwrap_optimizer(optimizer)
    name, asked = type(inner).__name__, f'model_distribution="{distribution}"'
    known = (*ELEMENTWISE, *BY_VARIABLE)
    if type(inner) not in known and getattr(inner, "elementwise", False) is not True:
        listed = ", ".join(kind.__name__ for kind in known)
        raise UserError(
            f"{asked} updates slices of variables, and {name} is not known to "
            f"treat each element independently; use one of {listed}, write "
            'model_distribution="replicated", or declare `elementwise = True` in your own class '
            "if its update_step does."
        )
    if optimizer.built or inner.built:
        raise UserError(
            f"{asked}: the optimizer {name} has been built already, with "
            "complete slots on every replica; pass a function that builds and compiles the model, "
            "and do not call optimizer.build() or fit() in it."
        )
    if inner.gradient_accumulation_steps:
        steps = inner.gradient_accumulation_steps
        raise UserError(
            f"optimizer gradient_accumulation_steps={steps}: Keras's own accumulation fails under "
            f"tf.distribute; keep it None and write RunConfig(accumulation_steps={steps})."
        )
    for variable in variables:
        if shard_of(variable):
            raise UserError(
                f"{asked} cuts dense gradients into slices, and {variable.path!r} is a table of a "
                "ShardedEmbedding, whose gradient is that of the rows in a batch; write "
                'model_distribution="replicated", or use keras.layers.Embedding.'
            )
        if _private_api.is_overwritten_by_gradient(inner, variable):
            raise UserError(
                f"{asked}: the variable {variable.path!r} is overwritten with "
                "its gradient (float8 training), which slices cannot be; write "
                'model_distribution="replicated".'
            )


def check_slots(optimizer: Any, slots: list[list]) -> None:
    """Checks that an optimizer creates its slots in the same way as Keras's own optimizers.

    Raises:
        UserError: a variable that is not a scalar was not created by `add_optimizer_variables`.
    """
    if updates_whole_variables(optimizer):
        return  # Adafactor has its factors on each replica
    known = {id(slot) for own in slots for slot in own}
    for variable in _private_api.unwrap_optimizer(optimizer).variables:
        if id(variable) not in known and variable.shape.rank:
            raise UserError(
                f"{type(optimizer).__name__} creates the variable {variable.path!r} of shape "
                f"{tuple(variable.shape)} itself, so it cannot be sliced; create slots with "
                "self.add_optimizer_variables(variables, name) in build, one for each variable, "
                "and keep them in a list."
            )
