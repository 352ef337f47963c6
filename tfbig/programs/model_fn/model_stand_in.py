"""What callbacks see where there is no keras.Model."""

from typing import Any


class ModelStandIn:
    """What callbacks see of a model_fn: `optimizer` and `stop_training`."""

    def __init__(self, program: Any):
        self._program = program
        self.stop_training = False

    @property
    def optimizer(self) -> Any:
        return self._program.optimizer

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a callback asked for model.{name}, but an estimator-style model_fn has no "
            "keras.Model; such callbacks need a Keras builder. There are model.optimizer and "
            "model.stop_training."
        )
