"""Optimizers and learning-rate schedules by name, as a config file writes them."""

import inspect
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras.optimizers import schedules
from keras.optimizers.schedules import LearningRateSchedule
from typing_extensions import override

from tfbig.errors import UserError

# Made from other optimizers, which a config of numbers cannot hold.
_WRAPPERS = ("LossScaleOptimizer", "MultiOptimizer", "OptimizerMap")
_RATE = "optimizer.learning_rate"


def build_optimizer(config: Any, total_steps: int | None = None) -> keras.optimizers.Optimizer:
    """Builds a Keras optimizer from its name and arguments.

    Example:

        build_optimizer({"name": "adam", "learning_rate": 1e-3, "clipnorm": 1.0})
        build_optimizer(
            {
                "name": "adamw",
                "weight_decay": 0.01,
                "learning_rate": {"schedule": "cosine", "peak": 3e-4, "warmup_steps": 100},
            },
            total_steps=2000,
        )

    Args:
        config: dict or ConfigDict. `name`: any optimizer of keras.optimizers, in any case (adam,
            adamw, adagrad, rmsprop, lion, …), "gradient_descent" (SGD) or "momentum" (SGD with
            momentum 0.9). `learning_rate`: a number, or what `build_schedule` takes. The rest
            are the optimizer's own arguments (https://keras.io/api/optimizers/): clipnorm,
            global_clipnorm, weight_decay, use_ema, ema_momentum, …
        total_steps: the last step of the run, for schedules that end with it; None: not known.

    Returns:
        A new keras.optimizers.Optimizer.

    Raises:
        UserError: a name or an argument is unknown, the message lists the known ones; or an
            argument has a value it cannot have.
    """
    arguments = _arguments(config, "optimizer", {"name": "adam", "learning_rate": 1e-3})
    name = arguments.pop("name", None)
    optimizers = _optimizers()
    make = _by_name(name, optimizers)
    if make is None:
        raise UserError(f"optimizer.name={name!r}: expected one of {', '.join(optimizers)}.")
    if "learning_rate" in arguments:
        rate = arguments["learning_rate"]
        if hasattr(rate, "items"):
            arguments["learning_rate"] = build_schedule(rate, total_steps)
        else:
            _check_number(_RATE, rate)
            arguments["learning_rate"] = float(rate)  # Keras takes no integer
    if _plain(name) == "momentum":
        arguments.setdefault("momentum", 0.9)
    return _call(make, arguments, "optimizer", name)


def build_schedule(config: Any, total_steps: int | None = None) -> LearningRateSchedule:
    """Builds a learning-rate schedule from its name and arguments.

    Example:

        build_schedule({"schedule": "cosine", "peak": 1e-3, "warmup_steps": 100}, total_steps=2000)
        build_schedule({"schedule": "step", "peak": 0.1, "boundaries": [500, 800], "factor": 0.1})

    Args:
        config: dict or ConfigDict. `schedule` is one of

            - "constant": `peak`.
            - "cosine", "linear": from `peak` to `end` (default 0) over `decay_steps` (default:
              the steps from the end of the warm-up to total_steps).
            - "step": `peak`, multiplied by `factor` (default 0.1) at each of the steps
              `boundaries`.
            - "exponential": `peak`, multiplied by `decay_rate` every `decay_steps`, smoothly or,
              with `staircase`, at once.

            each with `warmup_steps` (default 0): the rate rises from 0 to `peak` over so many
            steps, and the decay begins after them. Or a class of keras.optimizers.schedules
            with its own arguments.
        total_steps: the last step of the run, or None: not known.

    Returns:
        A function of the step, serializable like Keras's.

    Raises:
        UserError: a name or an argument is unknown; the length of the decay is neither given
            nor known; or an argument has a value it cannot have.
    """
    arguments = _arguments(config, _RATE, {"schedule": "cosine", "peak": 1e-3})
    name = arguments.pop("schedule", None)
    make = _by_name(name, _SCHEDULES)
    if make is None:
        keras_schedules = _classes(schedules, LearningRateSchedule)
        make = _by_name(name, keras_schedules)
        if make is None:
            listed = ", ".join([*_SCHEDULES, *keras_schedules])
            raise UserError(f"{_RATE}.schedule={name!r}: expected one of {listed}.")
        return _call(make, arguments, _RATE, name)
    for key in ("peak", "end", "factor", "decay_rate"):
        if key in arguments:
            _check_number(f"{_RATE}.{key}", arguments[key])
    for key, least in (("warmup_steps", 0), ("decay_steps", 1)):
        value = arguments.get(key)
        if value is not None and (not isinstance(value, int) or value < least):
            raise UserError(f"{_RATE}.{key}={value!r}: expected an integer of {least} or more.")
    if make in (_cosine, _linear) and arguments.get("decay_steps") is None:
        arguments["decay_steps"] = _steps_left(arguments.get("warmup_steps", 0), total_steps)
    return _call(make, arguments, _RATE, name)


@keras.saving.register_keras_serializable("tfbig")
class WarmUp(LearningRateSchedule):
    """Rises linearly from 0 to a schedule's first rate, then follows the schedule from its start.

    Example: `WarmUp(keras.optimizers.schedules.ExponentialDecay(0.1, 100, 0.5), warmup_steps=10)`.

    Args:
        schedule: a Keras schedule; its step 0 is `warmup_steps` here.
        warmup_steps: 1 or more.
    """

    def __init__(self, schedule: LearningRateSchedule, warmup_steps: int):
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    @override
    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        risen = keras.ops.minimum(step / self.warmup_steps, 1.0)
        return risen * self.schedule(keras.ops.maximum(step - self.warmup_steps, 0.0))

    @override
    def get_config(self) -> dict:
        schedule = schedules.serialize(self.schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    @override
    def from_config(cls, config: dict) -> "WarmUp":
        schedule = schedules.deserialize(config["schedule"])
        return cls(schedule, config["warmup_steps"])


def _constant(peak: float, warmup_steps: int = 0) -> LearningRateSchedule:
    # Keras has no constant schedule, but one of two equal pieces is one.
    constant = schedules.PiecewiseConstantDecay([1], [float(peak)] * 2)
    return _warmed(constant, warmup_steps)


def _cosine(
    peak: float, decay_steps: int, end: float = 0.0, warmup_steps: int = 0
) -> LearningRateSchedule:
    alpha = end / peak if peak else 0.0
    if not warmup_steps:
        return schedules.CosineDecay(float(peak), decay_steps, alpha)
    # Keras's own warm-up: a model saved with it is loaded where tfbig is not installed.
    return schedules.CosineDecay(
        0.0, decay_steps, alpha, warmup_target=float(peak), warmup_steps=warmup_steps
    )


def _linear(
    peak: float, decay_steps: int, end: float = 0.0, warmup_steps: int = 0
) -> LearningRateSchedule:
    linear = schedules.PolynomialDecay(float(peak), decay_steps, float(end))
    return _warmed(linear, warmup_steps)


def _step(
    peak: float, boundaries: Sequence[int], factor: float = 0.1, warmup_steps: int = 0
) -> LearningRateSchedule:
    boundaries = list(boundaries)
    if not boundaries or [warmup_steps, *boundaries] != sorted({warmup_steps, *boundaries}):
        raise UserError(
            f"{_RATE}.boundaries={boundaries}: expected increasing steps above {warmup_steps}, "
            f"such as {[warmup_steps + 500, warmup_steps + 800]}."
        )
    values = [float(peak) * factor**i for i in range(len(boundaries) + 1)]
    # Keras changes the rate after a boundary, here it is the first step of the new rate.
    steps = schedules.PiecewiseConstantDecay([b - warmup_steps - 1 for b in boundaries], values)
    return _warmed(steps, warmup_steps)


def _exponential(
    peak: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
    warmup_steps: int = 0,
) -> LearningRateSchedule:
    decay = schedules.ExponentialDecay(float(peak), decay_steps, decay_rate, staircase)
    return _warmed(decay, warmup_steps)


_SCHEDULES: dict[str, Callable] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "exponential": _exponential,
}


def _warmed(schedule: LearningRateSchedule, warmup_steps: int) -> LearningRateSchedule:
    return WarmUp(schedule, warmup_steps) if warmup_steps else schedule


def _steps_left(warmup_steps: int, total_steps: int | None) -> int:
    if total_steps is None:
        raise UserError(
            f"{_RATE}: decay_steps is not given, and the last step of the run is not known; "
            "write decay_steps=<steps>, or max_steps."
        )
    if warmup_steps >= total_steps:
        raise UserError(
            f"{_RATE}.warmup_steps={warmup_steps}, but the run ends at step {total_steps}; "
            "write fewer, or decay_steps=<steps>."
        )
    return total_steps - warmup_steps


def _optimizers() -> dict[str, type]:
    """All optimizers by the name that a config gives them."""
    found = {"gradient_descent": keras.optimizers.SGD, "momentum": keras.optimizers.SGD}
    for name, cls in _classes(keras.optimizers, keras.optimizers.Optimizer).items():
        if name not in _WRAPPERS:
            found[name.lower()] = cls
    return dict(sorted(found.items()))


def _classes(module: Any, base: type) -> dict[str, type]:
    """A module's subclasses of `base` by name."""
    return {
        name: cls
        for name, cls in sorted(vars(module).items())
        if inspect.isclass(cls) and issubclass(cls, base) and cls is not base
    }


def _plain(name: Any) -> str:
    return str(name).lower().replace("_", "")


def _by_name(name: Any, known: Mapping[str, Callable]) -> Callable | None:
    """Finds a name in any case, with or without underscores."""
    return {_plain(key): value for key, value in known.items()}.get(_plain(name))


def _arguments(config: Any, owner: str, example: dict) -> dict[str, Any]:
    if not hasattr(config, "items"):  # a ConfigDict has it too, but is no Mapping
        raise UserError(
            f"{owner}={config!r}: expected a dict or a ConfigDict, for example {example}."
        )
    return dict(config.items())


def _check_number(name: str, value: Any) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise UserError(f"{name}={value!r}: expected a number of 0 or more.")


def _call(make: Callable, arguments: dict[str, Any], owner: str, name: str) -> Any:
    """Calls `make`, naming the arguments that it does not know or lacks."""
    parameters = {
        key: parameter
        for key, parameter in inspect.signature(make).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and key != "name"
    }
    unknown = [key for key in arguments if key not in parameters]
    if unknown:
        raise UserError(
            f"{owner} {name!r} has no {', '.join(map(repr, unknown))}; its arguments are: "
            f"{', '.join(parameters)}."
        )
    lacking = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty and key not in arguments
    ]
    if lacking:
        raise UserError(f"{owner} {name!r} needs {', '.join(lacking)}; write {lacking[0]}=….")
    try:
        return make(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{owner} {name!r} with {arguments}: {reason}") from error
