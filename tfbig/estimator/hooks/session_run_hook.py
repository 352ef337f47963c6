"""SessionRunHookAdapter: calls a user's SessionRunHook without a session."""

import logging
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from typing_extensions import override

from tfbig.errors import UserError
from tfbig.estimator.hooks.hook import Hook, NoSession

log = logging.getLogger("tfbig")

_v1 = tf.compat.v1.train


class RunContext:
    """The argument of `before_run` and `after_run`, like tf.compat.v1.train.SessionRunContext.

    Attributes:
        original_args: without fetches; hooks cannot see the fetches of the loop.
        session: raises an error on any use.
        stop_requested: whether `request_stop` was called.
    """

    def __init__(self, session: NoSession):
        self.original_args = _v1.SessionRunArgs(None)
        self.session = session
        self.stop_requested = False

    def request_stop(self) -> None:
        """Ends training after this step."""
        self.stop_requested = True


class SessionRunHookAdapter(Hook):
    """Calls a SessionRunHook's begin, before_run, after_run and end around each step.

    Fetches are tensors of the spec, or names of tensors. The loss and the global step are taken
    from the loop. For all other tensors, the forward pass of the batch runs once more before the
    step, with the same weights.

    Args:
        hook: the user's hook.
        spec: the EstimatorSpec whose tensors the hook may fetch, or None.

    Raises:
        UserError: the hook needs a session.
    """

    def __init__(self, hook: Any, spec: Any = None):
        super().__init__()
        name = type(hook).__name__
        if type(hook).after_create_session is not _v1.SessionRunHook.after_create_session:
            raise UserError(
                f"the hook {name} has an after_create_session method, but TensorFlow 2 has no "
                "session. Use WarmStartSettings to set variables before training, the init_fn of "
                "EstimatorSpec(scaffold=…) for code that runs once, or the hook's `begin`."
            )
        log.info("the hook %s makes the loop run one step per call, which is slower", name)
        self.stop_every = 1
        self._hook, self._spec = hook, spec
        self._session = NoSession(f"the hook {name}")
        self._graph = tf.Graph()  # a hook may look up the tensor of the global step
        with self._graph.as_default():
            _v1.create_global_step()
        self._fetches: Any = None
        self._values: dict[int, Any] = {}
        self._context: RunContext | None = None

    @override
    def begin(self, step: int) -> None:
        with self._graph.as_default():
            try:
                self._hook.begin()
            except KeyError as error:
                raise UserError(
                    f"the hook {type(self._hook).__name__} looks for a tensor in begin "
                    f"({str(error)[:120]}); return its name from before_run instead: "
                    'tf.compat.v1.train.SessionRunArgs("name").'
                ) from error

    @override
    def before_run(self, step: int, fetch: Callable[[Any], Any]) -> None:
        self._context = RunContext(self._session)
        with self._graph.as_default():
            arguments = self._hook.before_run(self._context)
        if arguments is not None and not isinstance(arguments, _v1.SessionRunArgs):
            raise UserError(
                f"the hook {type(self._hook).__name__} returned {type(arguments).__name__} from "
                "before_run; return tf.compat.v1.train.SessionRunArgs(fetches), or None."
            )
        if arguments is not None and arguments.feed_dict:
            raise UserError(
                f"the hook {type(self._hook).__name__} feeds values in before_run, but "
                "TensorFlow 2 has no feeds; put the values into the features of input_fn, or into "
                "params."
            )
        self._fetches = None if arguments is None else arguments.fetches
        flat = [] if self._fetches is None else keras.tree.flatten(self._fetches)
        others = {i: f for i, f in enumerate(flat) if not (_is_step(f) or self._is_loss(f))}
        self._values = {i: step for i, f in enumerate(flat) if _is_step(f)}
        self._values.update(fetch(others))

    @override
    def after_run(self, step: int, logs: dict[str, float]) -> None:
        results = None
        if self._fetches is not None:
            flat = keras.tree.flatten(self._fetches)
            loss = np.float32(logs.get("loss", np.nan))
            values = [self._values.get(i, loss) for i in range(len(flat))]
            results = keras.tree.pack_sequence_as(self._fetches, values)
        self._hook.after_run(self._context, _v1.SessionRunValues(results, None, None))
        if self._context.stop_requested and self.model is not None:
            self.model.stop_training = True

    @override
    def finish(self) -> None:
        self._hook.end(self._session)

    def _is_loss(self, fetch: Any) -> bool:
        """Whether a fetch is the scalar loss of the spec, which the loop computes anyway."""
        loss = getattr(self._spec, "loss", None)
        return loss is not None and fetch is loss and loss.shape.rank == 0


def _is_step(fetch: Any) -> bool:
    name = fetch if isinstance(fetch, str) else getattr(fetch, "name", "")
    return name.split(":")[0].split("/")[0] == "global_step"
