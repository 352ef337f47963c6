"""The interface between a user's model and the training loop."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.layers.rows import shard_of
from tfbig.programs.metric_sums import NOTHING, UNSEEN, UPDATES
from tfbig.programs.row_updates import table_of
from tfbig.programs.updates import Updates

log = logging.getLogger("tfbig")

# What a loss term is divided by over the global batch when gradient_aggregation="mean".
EXAMPLES = "examples"  # its elements: examples, or tokens when every example has as many
OWN = "own"  # something only the data tell: a mask's sum, the sum of the sample weights
UNDIVIDED = "undivided"  # nothing: the loss's reduction is "sum"
ONCE = "once"  # it is no sum over examples: a regulariser, counted once for each update
SCALAR = "scalar"  # unknown: a scalar taken as the mean over the examples it was computed on


class Batch(NamedTuple):
    """The part of a global batch that one call of a program works on.

    Attributes:
        features, labels, sample_weight: nested structures of tensors of shape [n, …]; labels
            and sample_weight may be None.
        row_weight: float32 [n], 1 for an example and 0 for padding, or None: no padding.
        count: float32 scalar, the number of examples.
        first: int32 scalar, the place of the first row in the global batch.
        whole: whether it is the whole global batch.
    """

    features: Any
    labels: Any
    sample_weight: Any
    row_weight: tf.Tensor | None
    count: tf.Tensor
    first: Any = 0
    whole: bool = True


class Term(NamedTuple):
    """One term of the loss on a batch, not yet divided by anything.

    Attributes:
        kind: one of the kinds above.
        total: scalar, the sum over the batch (ONCE and SCALAR: the value itself).
        denominator: OWN: the scalar that the sum over the global batch is divided by.
        per_row: EXAMPLES: how many elements one example has.
        nominal: OWN: the usual denominator of one example, to keep float16 gradients in range.
        doubt: what the term was computed by and why parts of a batch may not add up to it, the
            beginning of a sentence; or "".
    """

    kind: str
    total: tf.Tensor
    denominator: tf.Tensor | None = None
    per_row: float = 1.0
    nominal: float = 1.0
    doubt: str = ""


class Values(NamedTuple):
    """The values of a program's variables, in the order of the program's lists.

    In the place of a ShardedEmbedding's table stands the variable: it is never read whole.
    """

    trainable: list[tf.Tensor]
    state: list[tf.Tensor]
    metrics: list[tf.Tensor]


class Forward(NamedTuple):
    """What a program computes from a batch.

    Attributes:
        terms: of the loss.
        state, metrics: the new values.
        held: what `Program.update_by_whole` needs of this part of a batch: tensors of shape [n, …].
    """

    terms: list[Term]
    state: list[tf.Tensor]
    metrics: list[tf.Tensor]
    held: Sequence[tf.Tensor] = ()


class Program:
    """A model with its loss, optimizer and metrics, as the loop sees it.

    The loop decides when and where; a program knows neither steps nor replicas. `forward`
    computes a batch and changes nothing but what a subclass says.

    Attributes:
        trainable, state, metric_variables: the model's variables: trained by the optimizer,
            changed by the forward pass (moving statistics, seeds), and those of the metrics.
        optimizer: a Keras optimizer.
        updates: how it is built and applied; set before `build`.
        model: the keras.Model, or None.
        pure: `forward` reads no variable but takes `Values`, so it can be compiled for a part
            of a mirrored model.
        exact_with_padding: examples with row_weight 0 change nothing: no layer mixes the
            examples of a batch, and all losses and metrics are sums that take weights.
        couples_replicas: the forward pass itself reduces over replicas (synchronized batch
            normalisation), so an empty part must stay empty and cannot be compiled alone.
        tables: the lookup tables in use, as far as they are known.
        without_xla: the class of a layer that XLA cannot compile, or None.
        phases: the global steps at which other variables begin to be trained.
        has_convolutions: some layer is a convolution or a maximum over a window, which decides
            how the loop is best compiled.
        per_replica_statistics: some layer normalises over each replica's part of a batch.
        summaries: names of the tensors of TensorFlow 1's summaries in TRAIN mode.
        named: its variables have names of their own, under which a checkpoint holds them.
        in_sequence: by id, the owner's name for each variable of `state` whose new value follows
            from the one before, such as the state of a stateful RNN: it cannot be put together
            from parts of a batch.
        averaged: the paths of state that is updated by rules that tfbig does not know; of the
            parts of a batch the mean is taken, weighted by their examples.
        metric_sums: for each of `metric_variables`, what it adds up over (`metric_sums.py`);
            empty: all add up over the parts of a batch.
    """

    trainable: list
    state: list
    metric_variables: list
    optimizer: Any
    updates: Updates = Updates()
    model: Any = None
    pure: bool = False
    exact_with_padding: bool = False
    couples_replicas: bool = False
    per_replica_statistics: bool = False
    named: bool = False
    has_convolutions: bool = False
    phases: tuple[int, ...] = ()
    tables: Sequence = ()
    without_xla: str | None = None
    summaries: Sequence[str] = ()
    in_sequence: Mapping[int, str] = {}
    averaged: Sequence[str] = ()
    metric_sums: Sequence[str] = ()

    def build(self, spec: Any, run) -> None:
        """Creates all variables.

        Args:
            spec: the batch's structure.
            run: calls a function as the placement will, in a trace, on every replica. It returns
                the types of the operations that were traced.
        """
        raise NotImplementedError

    def check_evaluation(self, spec: Any) -> None:
        """Refuses evaluation batches of a structure that the model cannot take, before training.

        Raises:
            UserError: the message is about eval_input_fn.
        """

    def forward(self, values: Values, batch: Batch, training: bool) -> Forward:
        """Computes the loss terms, the new state and the new metric values of a batch."""
        raise NotImplementedError

    def runs_itself(self, training: bool) -> bool:
        """Whether the model computes and updates by its own method in this mode (`run_step`)."""
        return False

    def select(self, training: bool) -> None:
        """Called before the step of a mode is traced; for programs whose modes differ."""

    def build_evaluation(self, spec: Any, run) -> None:
        """Called before the first evaluation; for programs whose modes differ."""

    def apply(self, gradients: list) -> None:
        """Updates the trainable variables; `gradients` are reduced over replicas already."""
        self.updates.apply(self.optimizer, gradients, self.trainable)

    def learning_rate(self) -> float | None:
        """The learning rate as it is now, or None: it is not known."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def optimizer_config(self) -> Any:
        """What the optimizers of all tasks of a cluster have to agree in, as JSON has it."""
        return keras.saving.serialize_keras_object(self.optimizer)["config"]

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Held around a whole trace, outside the replicas.

        Replicas are threads that take turns within a trace, so what changes Keras for the time
        of a trace must not be entered by each of them.
        """
        with (
            _private_api.losses_of_one_replica(),
            _private_api.reproducible_dropout(),
            _private_api.gradients_already_reduced(self.optimizer),
            _private_api.rows_updated_alone(self.optimizer, table_of),
        ):
            yield

    @property
    def synchronizes(self) -> bool:
        """Whether a layer asks for statistics over all replicas."""
        return self.couples_replicas

    def count_steps(self, step: int) -> None:
        """Sets what counts the steps, where several workers have counted them."""

    def enter(self, step: int) -> None:
        """Trains what is trained from a global step on; what was traced before is stale then."""

    def callback_model(self) -> Any:
        """What callbacks see as `self.model`."""
        return self.model

    def named_variables(self) -> dict[str, tf.Variable]:
        """All variables that a checkpoint holds, by a name that is the same in every run."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with besides its variables, as JSON has it; by name."""
        return {}

    def settle(self) -> None:
        """Called when variables were given other values than those that they were built with."""

    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        """The metrics' values, from their variables as they are now: floats, or lists of them.

        Args:
            loss: of the same examples, for models that report what they compute from it.
        """
        raise NotImplementedError

    def reset_metrics(self) -> None:
        """Sets the metrics' variables to their start."""
        raise NotImplementedError

    @property
    def scales_loss(self) -> bool:
        """Whether the optimizer scales the loss, and skips steps whose gradients overflow."""
        return hasattr(self.optimizer, "inner_optimizer")

    @property
    def needs_whole_batches(self) -> bool:
        """Whether some metric has to be updated by whole batches."""
        return any(kind in (UPDATES, NOTHING) for kind in self.metric_sums)

    @property
    def has_running_metrics(self) -> bool:
        """Whether some metric's values of two spans do not add up to that of both."""
        return any(kind in (NOTHING, UNSEEN) for kind in self.metric_sums)

    def update_by_whole(self, metrics: list, held: list) -> list:
        """The new values of the metrics after a batch, from what its parts have held.

        Args:
            metrics: the values before.
            held: `Forward.held` of all parts, each tensor's rows in the batch's order.
        """
        raise NotImplementedError

    def named_metrics(self, *kinds: str) -> str:
        """The metrics whose variables add up over what `kinds` say, for a message."""
        raise NotImplementedError

    def of_whole_batch(self, metrics: list, examples: tf.Tensor) -> list:
        """What a global batch adds to the metrics, from what its parts have added up to.

        Args:
            metrics: one tensor for each of `metric_variables`.
            examples: float32 scalar, of the global batch.
        """
        return metrics

    def warn_once(self, message: str) -> None:
        """Logs a warning, unless the same was logged before for this program."""
        warned = self.__dict__.setdefault("_warned", set())
        if message not in warned:
            warned.add(message)
            log.warning("%s", message)

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        """Says what is wrong with a batch of NumPy arrays, or None; asked when a step fails."""
        return None

    def read(self) -> Values:
        """Reads all variables, in the present replica."""
        return Values(
            [_value_of(v) for v in self.trainable],
            [_value_of(v) for v in self.state],
            [_value_of(v) for v in self.metric_variables],
        )


def _value_of(variable: Any) -> Any:
    if shard_of(variable) is not None:
        return variable.value if isinstance(variable, keras.Variable) else variable
    return tf.convert_to_tensor(variable)


def split_element(element: Any) -> tuple[Any, Any, Any]:
    """Splits what an input_fn yields into (features, labels, sample_weight)."""
    if isinstance(element, tuple) and len(element) <= 3 and element:
        return (*element, *(None,) * (3 - len(element)))
    return element, None, None


def plain_values(results: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics' results as JSON has them: floats, and lists of floats.

    Args:
        results: tensors or variables by name.
    """
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in results.items()}
    return {name: np.asarray(array, float).tolist() for name, array in arrays.items()}
