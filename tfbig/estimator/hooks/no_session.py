"""What hooks are given in the place of a tf.compat.v1.Session."""

from typing import Any, NoReturn

from tfbig.errors import UserError


class NoSession:
    """Answers every use with an error: there is no session on TensorFlow 2.

    Args:
        who: asks, in words for the message.
    """

    def __init__(self, who: str):
        object.__setattr__(self, "_who", who)

    def __getattr__(self, name: str) -> NoReturn:
        raise UserError(
            f"{object.__getattribute__(self, '_who')} uses session.{name}, and there is no session "
            "on TensorFlow 2. Values of a step come by before_run: return "
            "tf.compat.v1.train.SessionRunArgs(tensors of the spec, or their names); variables by "
            "estimator.get_variable_value(name); what is done at the end of training by a "
            "tfbig.callbacks.LoopCallback."
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        self.__getattr__(name)
