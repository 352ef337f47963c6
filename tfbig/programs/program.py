"""The interface between a user's model and the training loop."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfbig import _private_api
from tfbig.layers.sharded_tables import shard_of
from tfbig.programs.metric_aggregation import NOT_ADDITIVE, UNKNOWN_KIND, WHOLE_BATCHES
from tfbig.programs.updates import Updates, table_of

log = logging.getLogger("tfbig")

# The denominator of a loss term over the global batch when gradient_aggregation="mean".
EXAMPLES = "examples"  # the number of elements; every example has the same number of them
EXPLICIT = "explicit"  # `Term.denominator`: the sum of a mask or of the sample weights
UNDIVIDED = "undivided"  # none: the loss has reduction="sum"
ONCE = "once"  # none: the term is a regularizer, which is added once per update
SCALAR = "scalar"  # unknown: the scalar is treated as the mean over the examples of its batch


class BatchPart(NamedTuple):
    """A micro-batch: the part of a global batch that one call of a program processes.

    Attributes:
        features, labels, sample_weight: nested structures of tensors of shape [n, …]; labels
            and sample_weight may be None.
        row_weight: float32 [n], 1 for an example and 0 for padding. None: there is no padding.
        count: float32 scalar, the number of examples.
        first: int32 scalar, the index of the first row in the global batch.
        is_whole: whether this is the whole global batch.
    """

    features: Any
    labels: Any
    sample_weight: Any
    row_weight: tf.Tensor | None
    count: tf.Tensor
    first: Any = 0
    is_whole: bool = True


class Term(NamedTuple):
    """One term of the loss on a batch, before any division.

    Attributes:
        kind: one of the kinds above.
        total: scalar, the sum over the batch. For ONCE and SCALAR it is the value itself.
        denominator: for EXPLICIT: a scalar. Its sum over the global batch divides the sum of
            the totals.
        per_row: for EXAMPLES: the number of elements in one example.
        nominal: for EXPLICIT: the usual denominator of one example. It keeps float16 gradients
            in range.
        caveat: why the micro-batches may not add up to the whole batch, as the beginning of a
            sentence; "" if they do.
    """

    kind: str
    total: tf.Tensor
    denominator: tf.Tensor | None = None
    per_row: float = 1.0
    nominal: float = 1.0
    caveat: str = ""


class Values(NamedTuple):
    """The values of a program's variables, in the order of the program's lists.

    A table of a ShardedEmbedding is represented by its variable, because it is never read as a
    whole; a weight that replicas divide by this replica's slice (`DividedWeights`).
    """

    trainable: list[tf.Tensor]
    state: list[tf.Tensor]
    metrics: list[tf.Tensor]


class Forward(NamedTuple):
    """What a program computes from a batch.

    Attributes:
        terms: the terms of the loss.
        state, metrics: the new values of the state and metric variables.
        metric_inputs: tensors of shape [n, …] that `Program.update_whole_batch_metrics` needs of
            this micro-batch.
    """

    terms: list[Term]
    state: list[tf.Tensor]
    metrics: list[tf.Tensor]
    metric_inputs: Sequence[tf.Tensor] = ()


class Program:
    """A model with its loss, optimizer and metrics, as the training loop sees it.

    The loop decides when and where to run. A program does not know steps or replicas. `forward`
    computes a batch and has no side effects unless a subclass documents some.

    Attributes:
        trainable, state, metric_variables: the variables that the optimizer trains, those that
            the forward pass changes (moving statistics, seeds), and those of the metrics.
        optimizer: a Keras optimizer.
        updates: how the optimizer is built and applied. Set it before `build`.
        model: the keras.Model, or None.
        pure: `forward` reads its `Values` argument and no variable, so it can be compiled for
            one replica of a mirrored model.
        exact_with_padding: examples with row_weight 0 change nothing: no layer mixes the
            examples of a batch, and all losses and metrics are weighted sums.
        couples_replicas: the forward pass itself reduces over replicas (synchronized batch
            normalization). Then an empty micro-batch must stay empty and cannot be compiled alone.
        tables: the lookup tables in use, as far as they are known.
        without_xla: the class name of a layer that XLA cannot compile, or None.
        phases: the global steps at which the set of trained variables changes.
        has_convolutions: some layer is a convolution or a max pooling. The loop is compiled
            differently for these.
        per_replica_statistics: some layer normalizes over the examples of each replica.
        summaries: names of the tensors of TensorFlow 1 summaries in TRAIN mode.
        saves_by_name: the variables have stable names, under which a checkpoint stores them.
        sequential_state: by variable id, the owner's name for each variable of `state` whose new
            value depends on its previous value, such as the state of a stateful RNN. Results of
            micro-batches cannot be combined for it.
        averaged_state: the paths of state variables whose update rule is unknown to tfbig. Their
            values after the micro-batches are averaged, weighted by the number of examples.
        summed_state: the names of state variables whose values after the micro-batches cannot be
            combined: integers that the batch changes, and sums and counts over its examples.
        blocks: the variables of each block of the model, by a name; {}: it is not divided.
        metric_kinds: for each of `metric_variables`, how its contributions combine (see
            `metric_aggregation.py`). Empty: all of them add up over micro-batches.
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
    saves_by_name: bool = False
    has_convolutions: bool = False
    phases: tuple[int, ...] = ()
    tables: Sequence = ()
    without_xla: str | None = None
    summaries: Sequence[str] = ()
    sequential_state: Mapping[int, str] = {}
    averaged_state: Sequence[str] = ()
    summed_state: Sequence[str] = ()
    blocks: Mapping[str, list] = {}
    metric_kinds: Sequence[str] = ()

    def build(self, spec: Any, run) -> None:
        """Creates all variables.

        Args:
            spec: the structure of a batch, of tf.TensorSpecs.
            run: traces a function on every replica in the way of the placement. It returns the
                types of the traced operations.
        """
        raise NotImplementedError

    def check_evaluation(self, spec: Any) -> None:
        """Checks before training that the model accepts evaluation batches of this structure.

        Raises:
            UserError: the model does not accept them. The message names eval_input_fn.
        """

    def forward(self, values: Values, batch: BatchPart, training: bool) -> Forward:
        """Computes the loss terms, the new state and the new metric values of a batch.

        Args:
            values: of all variables, before the batch.
            batch: a micro-batch, or the whole global batch.
            training: whether layers run in training mode.
        """
        raise NotImplementedError

    def runs_custom_step(self, training: bool) -> bool:
        """Whether this mode runs the model's own train_step or test_step (`run_custom_step`)."""
        return False

    def select_mode(self, training: bool) -> None:
        """Prepares for tracing a step of one mode. Programs whose modes differ override it."""

    def build_evaluation(self, spec: Any, run) -> None:
        """Prepares for the first evaluation. Programs whose modes differ override it."""

    def apply(self, gradients: list) -> None:
        """Updates the trainable variables from gradients that are already all-reduced."""
        self.updates.apply(self.optimizer, gradients, self.trainable)

    def learning_rate(self) -> float | None:
        """Returns the current learning rate, or None if it is unknown."""
        return float(keras.ops.convert_to_numpy(self.optimizer.learning_rate))

    def optimizer_config(self) -> Any:
        """Returns the configuration that must be equal on all workers, as JSON types."""
        return keras.saving.serialize_keras_object(self.optimizer)["config"]

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """Returns a context to enter once per trace, outside the replicas.

        It changes global state of Keras during the trace. Each replica is traced in a thread of
        its own, so the replicas must not enter it themselves.
        """
        with (
            _private_api.unscaled_losses(),
            _private_api.reproducible_dropout(),
            _private_api.gradients_already_reduced(self.optimizer),
            _private_api.row_wise_updates(self.optimizer, table_of),
        ):
            yield

    @property
    def synchronizes(self) -> bool:
        """Whether a layer requests statistics over all replicas."""
        return self.couples_replicas

    def set_step_count(self, step: int) -> None:
        """Sets the step counter of the program. Several workers may have counted concurrently."""

    def enter_phase(self, step: int) -> None:
        """Selects the variables that are trained from a global step on.

        Functions traced before are stale if the set of variables changes.
        """

    def callback_model(self) -> Any:
        """Returns what callbacks see as `self.model`."""
        return self.model

    def named_variables(self) -> dict[str, tf.Variable]:
        """Returns all variables of a checkpoint, by a name that is the same in every run."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Returns what a checkpoint must match besides its variables: JSON types, by name."""
        return {}

    def refresh_constants(self) -> None:
        """Updates what the model derives from its weights, after they were loaded."""

    def metric_results(self, loss: float | None = None) -> dict[str, Any]:
        """Computes the values of the metrics from their variables: floats, or lists of floats.

        Args:
            loss: the loss on the same examples, for models whose own methods read it.
        """
        raise NotImplementedError

    def reset_metrics(self) -> None:
        """Resets the variables of the metrics to their initial values."""
        raise NotImplementedError

    @property
    def scales_loss(self) -> bool:
        """Whether the optimizer scales the loss, and skips steps whose gradients overflow."""
        return hasattr(self.optimizer, "inner_optimizer")

    @property
    def needs_whole_batches(self) -> bool:
        """Whether some metric has to be updated with whole batches."""
        return any(kind in (WHOLE_BATCHES, NOT_ADDITIVE) for kind in self.metric_kinds)

    @property
    def has_running_metrics(self) -> bool:
        """Whether some metric cannot be summed over two consecutive ranges of steps."""
        return any(kind in (NOT_ADDITIVE, UNKNOWN_KIND) for kind in self.metric_kinds)

    def update_whole_batch_metrics(self, metrics: list, metric_inputs: list) -> list:
        """Returns the values of the metric variables after a global batch.

        Args:
            metrics: the values before the batch.
            metric_inputs: `Forward.metric_inputs` of all micro-batches, concatenated in the
                order of the batch.
        """
        raise NotImplementedError

    def describe_metrics(self, *kinds: str) -> str:
        """Returns the names of the metrics with variables of these kinds, for a message."""
        raise NotImplementedError

    def merge_part_metrics(self, metrics: list, examples: tf.Tensor) -> list:
        """Converts the sums over micro-batches to the metric updates of the global batch.

        Args:
            metrics: the sums over the micro-batches, one tensor per metric variable.
            examples: float32 scalar, the number of examples in the global batch.
        """
        return metrics

    def warn_once(self, message: str) -> None:
        """Logs a warning unless this program has logged the same one before."""
        warned = self.__dict__.setdefault("_warned", set())
        if message not in warned:
            warned.add(message)
            log.warning("%s", message)

    def explain_batch(self, features: Any, labels: Any) -> str | None:
        """Describes the fault in a batch of NumPy arrays after a step has failed, or None."""
        return None

    def read(self) -> Values:
        """Reads all variables in the current replica."""
        return Values(
            [self._value_of(v) for v in self.trainable],
            [self._value_of(v) for v in self.state],
            [self._value_of(v) for v in self.metric_variables],
        )

    def _value_of(self, variable: Any) -> Any:
        weights = self.updates.weights
        if weights is not None and weights.divides(variable):
            return weights.slice_of(variable)
        return _value_of(variable)


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
    """Converts metric results to JSON types: floats and lists of floats.

    Args:
        results: tensors or variables by name.
    """
    arrays = {name: keras.ops.convert_to_numpy(value) for name, value in results.items()}
    return {name: np.asarray(array, float).tolist() for name, array in arrays.items()}
