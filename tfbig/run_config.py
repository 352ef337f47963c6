"""RunConfig: the options of a run, and what it says of the cluster that this task is in."""

import copy
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

from typing_extensions import override

from tfbig.clusters.cluster import Cluster
from tfbig.clusters.find import find_cluster
from tfbig.clusters.tf_config import model_dir_of
from tfbig.errors import UserError

DATA_DISTRIBUTIONS = ("auto", "random", "block", "none")
MODEL_DISTRIBUTIONS = ("replicated", "owner", "owner_gradients", "owner_full")
GRADIENT_AGGREGATIONS = ("mean", "sum")
# Other fields of tf.estimator's RunConfig, and what to use instead.
NOT_HONOURED = {
    "train_distribute": 'tfbig.Estimator(…, strategy="mirrored")',
    "eval_distribute": 'tfbig.Estimator(…, strategy="mirrored"), which is that of evaluation too',
    "experimental_distribute": 'tfbig.Estimator(…, strategy="mirrored")',
    "session_config": "devices=, and TF_NUM_INTRAOP_THREADS for threads: there is no session",
    "keep_checkpoint_every_n_hours": "keep_checkpoint_max",
    "device_fn": "devices=: tfbig places variables",
    "protocol": "nothing: tasks communicate by gRPC",
    "session_creation_timeout_secs": "nothing: there is no session",
    "experimental_max_worker_delay_secs": "nothing: workers start together",
    "checkpoint_save_graph_def": "nothing: checkpoints hold variables, exports hold graphs",
    "master": 'strategy="multi_worker" and TF_CONFIG',
    "num_cores": "devices=",
    "tpu_config": "strategy=",
    "gpu_memory_fraction": "tf.config.experimental.set_memory_growth",
    "cluster": 'strategy="tpu" and devices=',
    "evaluation_master": 'strategy="multi_worker" and TF_CONFIG',
    "service": "nothing: tasks communicate by gRPC",
}
# What programs read of these: nothing of the kind is set.
_UNSET = {
    **dict.fromkeys(
        (
            *("train_distribute", "eval_distribute", "session_config", "device_fn", "protocol"),
            *("session_creation_timeout_secs", "service", "experimental_max_worker_delay_secs"),
        )
    ),
    "keep_checkpoint_every_n_hours": 10000,  # the default of tf.estimator: never
    "checkpoint_save_graph_def": False,
}
KEEP_ALL = 1_000_000_000
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The options of a training run; most of them do not change its results.

    Example:

        config = tfbig.RunConfig(accumulation_steps=4, save_checkpoints_steps=500)
        tfbig.train_distributed(model_fn, input_fn, config=config, max_steps=2000)

    Args:
        data_distribution: "random": a new permutation of all examples in each pass; "block": each
            worker reads one contiguous block, shuffled within itself; both need a Source. "none":
            the data's own order, which input_fn has already sharded. "auto": "random" for a
            Source, "none" for a Dataset.
        model_distribution: "replicated": every replica holds the whole optimizer state and
            updates all weights. "owner": each of N replicas holds and updates 1/N of it (ZeRO
            stage 1, https://arxiv.org/abs/1910.02054), for Keras's optimizers: SGD, Adam, AdamW,
            RMSprop, Adagrad, Adadelta, Adamax, Nadam, Lion, Ftrl, Lamb, Muon, Adafactor, and your
            own with `elementwise = True`. "owner_gradients": its slice of the gradients too (ZeRO
            stage 2). "owner_full": its slice of the weights too (ZeRO stage 3), which are gathered
            block by block, in the forward pass and again in the backward pass; see
            docs/large_models.md.
        gradient_aggregation: "mean" divides the summed gradient by the denominator of the loss
            over the global batch; "sum" does not divide.
        accumulation_steps: micro-batches per update, each with a part of the global batch.
        precision: "float32", "mixed_bfloat16" or "mixed_float16" (Keras dtype policies).
        jit_compile: "auto", True or False: XLA for the training step. The jit_compile of a model's
            `compile` is ignored, because without a GPU Keras replaces "auto" by False.
        remat: True: recompute activations in the backward pass, block by block (Chen et al.,
            2016), which needs less memory and about a third more time. Keras models only.
        prefetched_blocks: for model_distribution="owner_full": how many blocks are gathered before
            the one that computes, and how many have gradients that are still being added up.
        whole_model_bytes: for model_distribution="owner_full": the bytes of a model, with its
            optimizer's state, up to which result.model is a keras.Model, complete in each task;
            a larger one is a SlicedModel. None: the variable TFBIG_WHOLE_MODEL_BYTES, or 2 GiB.
        steps_per_loop: "auto" or the largest number of steps inside one traced loop.
        max_staleness: for strategy="parameter_server". None: asynchronous; each worker updates
            the variables as soon as it has a gradient. 0: synchronous; all workers share each
            global batch, with one update. s: asynchronous, but a gradient is dropped and
            counted if more than s updates were made while it was computed.
        save_checkpoints_steps: steps between two checkpoints; None: by time only.
        save_checkpoints_secs: seconds between two checkpoints; None: by steps only. If neither
            is given, 600 seconds.
        keep_checkpoint_max: number of checkpoints to keep; None or 0: all.
        eval_every_steps: steps between two evaluations; None: one per epoch if the length of
            the data is known, else 1000.
        log_step_count_steps: steps between two log points.
        save_summary_steps: steps between two TensorBoard summaries.
        tf_random_seed: one seed for weights, dropout and shuffles; None draws a seed, which is
            saved in the checkpoint.
        model_dir: the folder of the run, where the argument model_dir of an Estimator or of
            train_distributed is not given. The config of an Estimator has the Estimator's.

    Attributes:
        task_type, task_id, is_chief, num_worker_replicas, num_ps_replicas, cluster_spec,
            global_id_in_cluster, master, evaluation_master: the place of this task in its cluster,
            as in tf.estimator; without a cluster, the chief of one worker.

    Raises:
        UserError: a field has an invalid value; the message lists the valid ones.
    """

    data_distribution: str = "auto"
    model_distribution: str = "replicated"
    gradient_aggregation: str = "mean"
    accumulation_steps: int = 1
    precision: str = "float32"
    jit_compile: bool | Literal["auto"] = "auto"
    remat: bool = False
    prefetched_blocks: int = 1
    whole_model_bytes: int | None = None
    steps_per_loop: int | Literal["auto"] = "auto"
    max_staleness: int | None = None
    save_checkpoints_steps: int | None = None
    save_checkpoints_secs: float | None = None
    keep_checkpoint_max: int | None = 5
    eval_every_steps: int | None = None
    log_step_count_steps: int = 100
    save_summary_steps: int = 100
    tf_random_seed: int | None = None
    model_dir: str | os.PathLike | None = None

    _cluster: ClassVar[Cluster | None] = None
    # The fields of tf.estimator that a subclass takes.
    accepted: ClassVar[tuple[str, ...]] = ()

    @override
    def __new__(cls, *arguments: Any, **fields: Any) -> "RunConfig":
        for name in fields:
            if name in NOT_HONOURED and fields[name] is not None and name not in cls.accepted:
                raise UserError(
                    f"RunConfig({name}=…) is a field of tf.estimator that is not supported; use "
                    f"{NOT_HONOURED[name]}."
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        # As it is now: scripts change TF_CONFIG later.
        object.__setattr__(self, "_cluster", find_cluster())
        folder = model_dir_of(os.environ)
        if folder is not None:
            if self.model_dir is not None and os.fspath(self.model_dir) != folder:
                raise UserError(
                    f"RunConfig.model_dir={self.model_dir!r}, and TF_CONFIG has another model_dir, "
                    f"{folder!r}; write it in one place."
                )
            object.__setattr__(self, "model_dir", folder)
        self.check()

    def check(self) -> None:
        """Checks the values of the fields.

        Raises:
            UserError: one is invalid; the message lists the valid ones.
        """
        _one_of("data_distribution", self.data_distribution, DATA_DISTRIBUTIONS)
        _one_of("model_distribution", self.model_distribution, MODEL_DISTRIBUTIONS)
        _one_of("gradient_aggregation", self.gradient_aggregation, GRADIENT_AGGREGATIONS)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("jit_compile", self.jit_compile, ("auto", True, False))
        _one_of("remat", self.remat, (False, True))
        if self.steps_per_loop != "auto":
            _positive("steps_per_loop", self.steps_per_loop, alternative='"auto"')
        for name in ("prefetched_blocks", "whole_model_bytes"):
            value = getattr(self, name)
            optional = name == "whole_model_bytes"
            if not ((value is None and optional) or (_is_int(value) and value >= 0)):
                other = ", or None" if optional else ""
                raise UserError(
                    f"RunConfig.{name}={value!r}: expected an integer of 0 or more{other}."
                )
        if self.keep_checkpoint_max in (None, 0):  # as in tf.estimator
            object.__setattr__(self, "keep_checkpoint_max", KEEP_ALL)
        for name in (
            "accumulation_steps",
            "keep_checkpoint_max",
            "log_step_count_steps",
            "save_summary_steps",
        ):
            _positive(name, getattr(self, name))
        for name in ("save_checkpoints_steps", "eval_every_steps"):
            if getattr(self, name) is not None:
                _positive(name, getattr(self, name), alternative="None")
        seconds = self.save_checkpoints_secs
        if seconds is None and self.save_checkpoints_steps is None:
            object.__setattr__(self, "save_checkpoints_secs", 600.0)
        elif seconds is not None and not (_is_number(seconds) and seconds > 0):
            raise UserError(
                f"RunConfig.save_checkpoints_secs={seconds!r}: expected seconds above 0, or None."
            )
        staleness = self.max_staleness
        if staleness is not None and not (_is_int(staleness) and staleness >= 0):
            raise UserError(
                f"RunConfig.max_staleness={staleness!r}: expected an integer of 0 or more, or None."
            )
        seed = self.tf_random_seed
        if seed is not None and not (_is_int(seed) and 0 <= seed < 2**31):
            raise UserError(
                f"RunConfig.tf_random_seed={seed!r}: expected an integer from 0 to 2**31 - 1, "
                "or None."
            )
        folder = self.model_dir
        if folder is not None and not (isinstance(folder, (str, os.PathLike)) and str(folder)):
            raise UserError(
                f"RunConfig.model_dir={folder!r}: expected the path of a directory, or None."
            )

    def replace(self, **fields: Any) -> Self:
        """Returns a copy with new values of some fields; a subclass keeps its own attributes.

        Example: `config.replace(save_checkpoints_steps=100)`

        Raises:
            UserError: a field is unknown, or has an invalid value.
        """
        fields = {n: v for n, v in fields.items() if v is not None or n not in NOT_HONOURED}
        check_fields(fields, dataclasses.fields(self))
        if fields.get("save_checkpoints_steps") is not None:
            fields.setdefault("save_checkpoints_secs", None)
        elif fields.get("save_checkpoints_secs") is not None:
            fields.setdefault("save_checkpoints_steps", None)
        new = copy.copy(self)
        for name, value in fields.items():
            object.__setattr__(new, name, value)
        new.check()
        return new

    def __getattr__(self, name: str) -> Any:
        """The fields of tf.estimator that tfbig does not have read as not set."""
        if name in _UNSET:
            return _UNSET[name]
        instead = f"; use {NOT_HONOURED[name]}" if name in NOT_HONOURED else ""
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{instead}")

    @property
    def task_type(self) -> str:
        """The type of this task: "chief", "worker", "ps" or "evaluator"; alone: "worker"."""
        cluster = self._cluster
        return "worker" if cluster is None else cluster.task_type

    @property
    def task_id(self) -> int:
        """The index of this task among the tasks of its type."""
        cluster = self._cluster
        return 0 if cluster is None else cluster.task_index

    @property
    def is_chief(self) -> bool:
        """Whether this task writes checkpoints and exports."""
        return self._cluster is None or self._cluster.is_chief

    @property
    def num_worker_replicas(self) -> int:
        """The number of tasks that train, the chief among them."""
        cluster = self._cluster
        if cluster is None:
            return 1
        return 0 if cluster.task_type == "evaluator" else len(cluster.workers)

    @property
    def num_ps_replicas(self) -> int:
        """The number of parameter servers."""
        return len(self._jobs().get("ps", ()))

    @property
    def global_id_in_cluster(self) -> int | None:
        """The number of this task among all: the chief, the workers, then the servers."""
        cluster = self._cluster
        if cluster is None:
            return 0
        if cluster.task_type == "evaluator":
            return None
        before = len(cluster.workers) if cluster.task_type == "ps" else 0
        return before + (cluster.task_index if cluster.task_type == "ps" else cluster.index)

    @property
    def cluster_spec(self) -> Any:
        """The tf.train.ClusterSpec of the cluster; empty without one."""
        import tensorflow as tf  # this module is imported by commands that do not need it

        return tf.train.ClusterSpec({job: list(tasks) for job, tasks in self._jobs().items()})

    def _jobs(self) -> Mapping[str, tuple[str, ...]]:
        """The jobs of the cluster that this task trains in; an evaluator is in none."""
        cluster = self._cluster
        return {} if cluster is None or cluster.task_type == "evaluator" else cluster.jobs

    @property
    def master(self) -> str:
        """The address of this task as "grpc://host:port"; "" without a cluster."""
        cluster = self._cluster
        return f"grpc://{cluster.address}" if cluster is not None and cluster.address else ""

    @property
    def evaluation_master(self) -> str:
        """An empty string: evaluations run in this process."""
        return ""


_initialize = RunConfig.__init__


@functools.wraps(_initialize)
def _initialize_without_none(config: RunConfig, *arguments: Any, **fields: Any) -> None:
    """Drops the fields of tf.estimator that are None, which ask for nothing."""
    asked = {n: v for n, v in fields.items() if v is not None or n not in NOT_HONOURED}
    _initialize(config, *arguments, **asked)


RunConfig.__init__ = _initialize_without_none  # type: ignore[assignment]


def run_config_from(fields: dict) -> RunConfig:
    """Builds a RunConfig from a mapping, with a check of the field names.

    Example: `run_config_from({"accumulation_steps": 2})`.

    Raises:
        UserError: a field is unknown; the message lists the known ones.
    """
    check_fields(fields)
    return RunConfig(**fields)


def check_fields(names: Iterable[str], fields: Iterable[dataclasses.Field] = ()) -> None:
    """Raises a UserError if a name is not that of a field; it lists them.

    Args:
        names: as given by the user.
        fields: those of a subclass; empty: those of RunConfig.
    """
    known = [field.name for field in fields or dataclasses.fields(RunConfig)]
    unknown = [name for name in names if name not in known]
    for name in unknown:
        if name in NOT_HONOURED:
            raise UserError(
                f"RunConfig({name}=…) is a field of tf.estimator that is not supported; use "
                f"{NOT_HONOURED[name]}."
            )
    if unknown:
        raise UserError(
            f"unknown RunConfig field {', '.join(map(repr, unknown))}; "
            f"the fields are: {', '.join(known)}."
        )


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _one_of(name: str, value: Any, choices: tuple) -> None:
    if not any(
        value is choice or (value == choice and type(value) is type(choice)) for choice in choices
    ):
        listed = ", ".join(repr(choice) for choice in choices)
        raise UserError(f"RunConfig.{name}={value!r}: expected one of {listed}.")


def _positive(name: str, value: Any, alternative: str = "") -> None:
    if not _is_int(value) or value < 1:
        other = f", or {alternative}" if alternative else ""
        raise UserError(f"RunConfig.{name}={value!r}: expected an integer of 1 or more{other}.")
