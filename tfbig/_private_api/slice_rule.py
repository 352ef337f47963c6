"""The update rule of a Keras optimizer as a pure function of one slice or variable."""

from collections.abc import Sequence
from typing import Any

import keras
from keras.src.backend.tensorflow.optimizer import TFOptimizer
from keras.src.optimizers.base_optimizer import BaseOptimizer

from tfbig._private_api.slices import shape_only_variable, unwrap_optimizer


class _Pure(TFOptimizer):
    """Overrides TFOptimizer's methods with Keras's backend-independent ones."""

    assign = BaseOptimizer.assign
    assign_add = BaseOptimizer.assign_add
    assign_sub = BaseOptimizer.assign_sub
    _apply_weight_decay = BaseOptimizer._apply_weight_decay
    _backend_update_step = BaseOptimizer._backend_update_step
    _var_key = BaseOptimizer._var_key


class SliceRule:
    """The update rule of an optimizer for one slice or one variable, as a pure function.

    It does not include clipping, loss scaling and averages, which depend on more than the slice.

    Reason: Keras disables `stateless_apply` for TensorFlow, because of TFOptimizer's assignments,
    and it would update all variables at once.
    Guard: tests/private_api/test_slices.py.

    Args:
        optimizer: built by `build_without_slots`.
        slots: the result of `build_without_slots`.
        member: the index of the variable that the slice belongs to.
        shape: of the slice, or of the complete variable.
        dtype: of the variable.
        decays: whether weight decay applies to the variable.
        path: of the complete variable; None: the rule is one for slices.

    Attributes:
        factors: the optimizer's variables for this variable that are no slots, such as the
            factors of Adafactor.
        scalars: the optimizer's other variables.
        average_index: of the slot with the average of use_ema; None: there is none.
    """

    def __init__(
        self,
        optimizer,
        slots: list[list],
        *,
        member: int,
        shape: Sequence[int],
        dtype: str,
        decays: bool,
        path: str | None = None,
    ):
        inner = unwrap_optimizer(optimizer)
        self._variable = shape_only_variable(shape, dtype)
        own = {id(slot): shape_only_variable(shape, slot.dtype) for slot in slots[member]}
        known = {id(slot) for group in slots for slot in group}
        self._slots = list(own.values())
        by_variable = {} if path is None else _lists_by_variable(inner, len(slots))
        others = {id(v) for those in by_variable.values() for v in those} - known
        mine = {id(those[member]) for those in by_variable.values()} & others
        self.factors = [v for v in inner.variables if v.shape.rank and id(v) in mine]
        self.average_index = None  # among the slots
        if inner.use_ema:
            average = inner._model_variables_moving_average[member]
            self.average_index = list(own).index(id(average))
        # Inside a LossScaleOptimizer, Keras does not list all of them (Nadam's product).
        attributes = [v for v in inner.__dict__.values() if isinstance(v, keras.Variable)]
        scalars = {id(v): v for v in [*inner.variables, *attributes] if id(v) not in known | others}
        self.scalars = list(scalars.values())
        kind = type(type(inner).__name__, (type(inner), _Pure), {})
        self._optimizer = object.__new__(kind)
        for name, value in inner.__dict__.items():
            if name in by_variable:
                value = [own.get(id(value[member]), value[member])]
            elif isinstance(value, (list, tuple)) and any(id(v) in known for v in value):
                value = [own[id(v)] for v in value if id(v) in own]
            self._optimizer.__dict__[name] = value
        self._optimizer.__dict__.update(
            _trainable_variables=[self._variable],
            _trainable_variables_indices={id(self._variable): 0},
            weight_decay=inner.weight_decay if decays else None,
            adam_weight_decay=getattr(inner, "adam_weight_decay", None) if decays else None,
            _exclude_from_weight_decay=set(),
            _exclude_from_weight_decay_pattern=None,
            _exclude_from_weight_decay_cache={},
            clipnorm=None,
            global_clipnorm=None,
            clipvalue=None,
            loss_scale_factor=None,
            use_ema=False,
        )
        if path is not None:  # Muon looks for names in it
            self._variable._path = path
        self._slots += self.factors

    def update(self, weights, gradient, slots: list, scalars: list) -> tuple[Any, list, list]:
        """Returns the new weights, slots and scalars after one update of the slice.

        The factors follow the slots.
        """
        with self._scope(weights, slots, scalars) as scope:
            self._optimizer.apply([gradient], [self._variable])
        new = scope.get_current_value
        return new(self._variable), [*map(new, self._slots)], [*map(new, self.scalars)]

    def average(self, weights, slots: list, scalars: list) -> list:
        """Returns the slots with the new average of use_ema.

        `scalars` are the values before the update.
        """
        with self._scope(weights, slots, scalars) as scope:
            self._optimizer.__dict__["use_ema"] = True
            self._optimizer._update_model_variables_moving_average([self._variable])
            self._optimizer.__dict__["use_ema"] = False
        return [scope.get_current_value(slot) for slot in self._slots]

    def _scope(self, weights, slots: list, scalars: list) -> keras.StatelessScope:
        variables = [self._variable, *self._slots, *self.scalars]
        values = [weights, *slots, *scalars]
        return keras.StatelessScope(zip(variables, values, strict=True), initialize_variables=False)


def _lists_by_variable(optimizer: BaseOptimizer, count: int) -> dict[str, list]:
    """The attributes of an optimizer that have an entry for each variable that it trains."""
    kept = ("_variables", "_trainable_variables")
    return {
        name: value
        for name, value in optimizer.__dict__.items()
        if isinstance(value, (list, tuple)) and len(value) == count and name not in kept
        if all(v is None or isinstance(v, keras.Variable) for v in value)
    }
