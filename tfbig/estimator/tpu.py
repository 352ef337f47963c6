"""`tf.estimator.tpu`: TPUEstimator and its specs and configs, on the devices of this machine.

With use_tpu=False, tf.estimator ran such programs on CPUs and GPUs; so does this module. TPUs
themselves are strategy="tpu", which is not built yet.
"""

import contextlib
import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from typing_extensions import override

from tfbig.arguments import check_count
from tfbig.errors import UserError
from tfbig.estimator.estimator import Estimator
from tfbig.placement.strategies import NOT_BUILT
from tfbig.programs.model_fn.spec import EstimatorSpec, ModeKeys
from tfbig.run_config import RunConfig as BaseConfig

__all__ = [
    "CrossShardOptimizer",
    "InputPipelineConfig",
    "RunConfig",
    "TPUConfig",
    "TPUEstimator",
    "TPUEstimatorSpec",
]

_BATCH_SIZE = "batch_size"


class InputPipelineConfig:
    """How input_fn ran on a pod of TPUs. Here input_fn always returns the global batch."""

    PER_SHARD_V1 = 1
    PER_HOST_V1 = 2
    PER_HOST_V2 = 3
    BROADCAST = 4
    SLICED = 5


@dataclasses.dataclass(frozen=True)
class TPUConfig:
    """The part of a config that describes a TPU.

    Example: `RunConfig(tpu_config=TPUConfig(iterations_per_loop=100))`

    Args:
        iterations_per_loop: steps inside one traced loop; it becomes RunConfig.steps_per_loop.
        num_shards, per_host_input_for_training, tpu_job_name, initial_infeed_sleep_secs,
            eval_training_input_configuration, experimental_host_call_every_n_steps,
            experimental_allow_per_host_v2_parallel_get_next: describe a TPU, and have no effect on
            other devices, as in tf.estimator.
        num_cores_per_replica, input_partition_dims, experimental_feed_hook: must be None.

    Raises:
        UserError: an argument has an invalid value.
    """

    iterations_per_loop: int = 2
    num_shards: int | None = None
    num_cores_per_replica: int | None = None
    per_host_input_for_training: Any = True
    tpu_job_name: str | None = None
    initial_infeed_sleep_secs: int | None = None
    input_partition_dims: Any = None
    eval_training_input_configuration: int = InputPipelineConfig.PER_HOST_V1
    experimental_host_call_every_n_steps: int = 1
    experimental_allow_per_host_v2_parallel_get_next: bool = False
    experimental_feed_hook: Any = None

    def __post_init__(self) -> None:
        if self.iterations_per_loop != -1:  # -1: chosen by TensorFlow
            check_count("TPUConfig.iterations_per_loop", self.iterations_per_loop)
        for name in ("num_cores_per_replica", "input_partition_dims", "experimental_feed_hook"):
            if getattr(self, name) is not None:
                raise UserError(
                    f"TPUConfig({name}=…) divides a model over the cores of a TPU, which is not "
                    "supported; leave it out."
                )


@dataclasses.dataclass(frozen=True, init=False)
class RunConfig(BaseConfig):
    """The config of a TPUEstimator: a tfbig.RunConfig with a tpu_config.

    Example: `RunConfig(model_dir="runs/bert", tpu_config=TPUConfig(iterations_per_loop=100))`

    Args:
        tpu_config: a TPUConfig; its iterations_per_loop becomes steps_per_loop.
        evaluation_master, master, cluster: must be None or "": the TPU or cluster is found by
            itself.
        **fields: of tfbig.RunConfig.

    Raises:
        UserError: an argument has an invalid value.
    """

    accepted = ("tpu_config", "evaluation_master", "master", "cluster")
    tpu_config: TPUConfig = TPUConfig()

    def __init__(
        self,
        tpu_config: TPUConfig | None = None,
        evaluation_master: str | None = None,
        master: str | None = None,
        cluster: Any = None,
        **fields: Any,
    ):
        given = {"evaluation_master": evaluation_master, "master": master, "cluster": cluster}
        for name, value in given.items():
            if value:
                raise UserError(
                    f'RunConfig({name}=…) is the address of a TPU, and strategy="tpu" is not '
                    "built yet; leave it out, and write use_tpu=False."
                )
        if tpu_config is not None and not isinstance(tpu_config, TPUConfig):
            raise UserError(f"RunConfig(tpu_config={tpu_config!r}): expected a TPUConfig.")
        if tpu_config is not None and tpu_config.iterations_per_loop > 0:
            fields.setdefault("steps_per_loop", tpu_config.iterations_per_loop)
        super().__init__(**fields)
        object.__setattr__(self, "tpu_config", tpu_config or TPUConfig())


class TPUEstimatorSpec(EstimatorSpec):
    """An EstimatorSpec with metrics and a scaffold as functions, as TPUEstimator needed them.

    Example:

        return TPUEstimatorSpec(mode, loss=loss, eval_metrics=(metric_fn, [labels, logits]))

    Args:
        mode, predictions, loss, train_op, export_outputs, training_hooks, evaluation_hooks,
            prediction_hooks: as for EstimatorSpec.
        eval_metrics: (metric_fn, tensors): metric_fn takes the list of tensors as arguments, or the
            dict as keywords, and returns the eval_metric_ops.
        scaffold_fn: returns a tf.compat.v1.train.Scaffold. It is called inside model_fn.
        host_call: must be None; write tf.compat.v1.summary in model_fn.
        **fields: the other fields of EstimatorSpec.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        mode: str,
        predictions: Any = None,
        loss: Any = None,
        train_op: Any = None,
        eval_metrics: Any = None,
        export_outputs: Mapping[str, Any] | None = None,
        scaffold_fn: Callable | None = None,
        host_call: Any = None,
        training_hooks: Any = None,
        evaluation_hooks: Any = None,
        prediction_hooks: Any = None,
        **fields: Any,
    ):
        if host_call is not None:
            raise UserError(
                "TPUEstimatorSpec(host_call=…) ran a function beside a TPU; write its summaries, "
                "tf.compat.v1.summary.scalar(name, tensor), in model_fn, and leave host_call out."
            )
        if eval_metrics is not None and mode == ModeKeys.EVAL:
            fields["eval_metric_ops"] = _metrics_of(eval_metrics)
        if scaffold_fn is not None:
            scaffold = scaffold_fn()
            if scaffold is None:
                raise UserError(
                    "TPUEstimatorSpec.scaffold_fn returned None; return "
                    "tf.compat.v1.train.Scaffold()."
                )
            fields["scaffold"] = scaffold
        super().__init__(
            mode,
            predictions=predictions,
            loss=loss,
            train_op=train_op,
            export_outputs=export_outputs,
            training_hooks=training_hooks,
            evaluation_hooks=evaluation_hooks,
            prediction_hooks=prediction_hooks,
            **fields,
        )

    def as_estimator_spec(self) -> EstimatorSpec:
        """Returns the spec itself, which is an EstimatorSpec."""
        return self


def _metrics_of(given: Any) -> Mapping[str, Any]:
    if not isinstance(given, (tuple, list)) or len(given) != 2 or not callable(given[0]):
        raise UserError(
            f"eval_metrics={given!r}: expected (metric_fn, tensors), tensors being a list or a "
            "dict of the arguments of metric_fn."
        )
    function, tensors = given
    return function(**tensors) if isinstance(tensors, Mapping) else function(*tensors)


class TPUEstimator(Estimator):
    """An Estimator that passes a batch size to input_fn and model_fn, as params["batch_size"].

    Example:

        estimator = TPUEstimator(
            model_fn, config=RunConfig(model_dir="runs/bert"), use_tpu=False,
            train_batch_size=32, eval_batch_size=8, predict_batch_size=8)
        estimator.train(input_fn, max_steps=1000)      # params["batch_size"] is 32

    Args:
        model_fn, model_dir, params, warm_start_from, strategy, devices: as for Estimator.
        config: a RunConfig of this module, or a tfbig.RunConfig.
        use_tpu: must be False: TPUs are not built yet. False trains on CPUs and GPUs.
        train_batch_size, eval_batch_size, predict_batch_size: the global batch sizes of `train`,
            `evaluate` and `predict`; None: params has no batch_size.
        batch_axis: must be None: examples are rows.
        eval_on_tpu, export_to_tpu, export_to_cpu: have no effect without a TPU.
        embedding_config_spec: must be None.

    Raises:
        UserError: an argument has an invalid value.
    """

    def __init__(
        self,
        model_fn: Callable,
        model_dir: Any = None,
        config: Any = None,
        params: Any = None,
        use_tpu: bool = True,
        train_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        predict_batch_size: int | None = None,
        batch_axis: Any = None,
        eval_on_tpu: bool = True,
        export_to_tpu: bool = True,
        export_to_cpu: bool = True,
        warm_start_from: Any = None,
        embedding_config_spec: Any = None,
        **placement: Any,
    ):
        del eval_on_tpu, export_to_tpu, export_to_cpu
        if use_tpu and "tpu" in NOT_BUILT:
            raise UserError(
                'TPUEstimator(use_tpu=True): strategy="tpu" is not built yet; write '
                "use_tpu=False, which trains on this machine's CPUs or GPUs."
            )
        if use_tpu:
            placement.setdefault("strategy", "tpu")
        others = {"batch_axis": batch_axis, "embedding_config_spec": embedding_config_spec}
        for name, value in others.items():
            if value is not None:
                raise UserError(f"TPUEstimator({name}=…) is not supported; leave it out.")
        sizes = {
            ModeKeys.TRAIN: ("train_batch_size", train_batch_size),
            ModeKeys.EVAL: ("eval_batch_size", eval_batch_size),
            ModeKeys.PREDICT: ("predict_batch_size", predict_batch_size),
        }
        for name, size in sizes.values():
            check_count(name, size)
        self._sizes = {mode: size for mode, (_, size) in sizes.items()}
        if isinstance(params, Mapping) and _BATCH_SIZE in params:
            raise UserError(
                f"{_BATCH_SIZE!r} is a reserved key but existed in params; pass train_batch_size=, "
                "eval_batch_size= and predict_batch_size=."
            )
        super().__init__(
            _with_batch_size(model_fn, self._sized),
            model_dir, config, params, warm_start_from, **placement,
        )  # fmt: skip

    def _sized(self, params: Any, mode: str) -> Any:
        """Returns the params with the batch size of a mode, in place of the old one."""
        size = self._sizes[mode]
        if size is None:
            return params
        params = copy.copy(params)
        with getattr(params, "unlocked", contextlib.nullcontext)():  # of a ConfigDict
            params[_BATCH_SIZE] = size
        return params

    @override
    def params_for(self, input_fn: Callable, mode: str) -> Any:
        if self._sizes[mode] is not None and "params" not in inspect.signature(input_fn).parameters:
            raise UserError(
                "input_fn does not include params argument, required by TPUEstimator to pass batch "
                'size as params["batch_size"]; write def input_fn(params), or leave the batch size '
                "out."
            )
        return self._sized(self.params, mode)


def _with_batch_size(model_fn: Callable, sized: Callable[[Any, str], Any]) -> Callable:
    """Wraps a model_fn so that its params have the batch size of its mode."""
    takes = inspect.signature(model_fn).parameters
    if "params" in takes and "mode" not in takes:
        raise UserError(
            "model_fn takes params but not mode, on which the batch size in params depends; write "
            "def model_fn(features, labels, mode, params)."
        )

    @functools.wraps(model_fn)
    def sized_model_fn(*arguments: Any, **keywords: Any) -> Any:
        if "params" in keywords:
            keywords["params"] = sized(keywords["params"], keywords["mode"])
        return model_fn(*arguments, **keywords)

    return sized_model_fn


def CrossShardOptimizer(
    optimizer: tf.compat.v1.train.Optimizer, **keywords: Any
) -> tf.compat.v1.train.Optimizer:
    """Returns the optimizer itself: the loop aggregates the gradients of all replicas.

    Args:
        optimizer: of tf.compat.v1.train.
        **keywords: those of tf.compat.v1.tpu.CrossShardOptimizer, of which group_assignment must
            be None.

    Raises:
        UserError: group_assignment is given.
    """
    if keywords.get("group_assignment") is not None:
        raise UserError("CrossShardOptimizer(group_assignment=…) is not supported; leave it out.")
    return optimizer
