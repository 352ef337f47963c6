"""The names of tf.contrib that are elsewhere now, with the same arguments."""

from collections.abc import Sequence

from tfbig.compat.names import CANNED, IN_ESTIMATOR, STOPPING
from tfbig.migration import tensorflow_names
from tfbig.migration.names import Rename

_TPU = (
    *("CrossShardOptimizer", "InputPipelineConfig", "RunConfig", "TPUConfig", "TPUEstimator"),
    "TPUEstimatorSpec",
)
_EXPERIMENTAL = (
    *("InMemoryEvaluatorHook", "call_logit_fn", "dnn_logit_fn_builder"),
    *("linear_logit_fn_builder", "make_stop_at_checkpoint_step_hook"),
)
# Functions of contrib.estimator, the classes that took their place, and their arguments.
_HEADS = {
    "binary_classification_head": ("BinaryClassHead", ()),
    "logistic_regression_head": ("LogisticRegressionHead", ()),
    "multi_class_head": ("MultiClassHead", ()),
    "multi_head": ("MultiHead", ()),
    "multi_label_head": ("MultiLabelHead", ()),
    "poisson_regression_head": (
        "PoissonRegressionHead",
        ("weight_column", "label_dimension", "loss_reduction", "compute_full_loss", "name"),
    ),
    "regression_head": (
        "RegressionHead",
        (
            *("weight_column", "label_dimension", "loss_reduction", "loss_fn", "inverse_link_fn"),
            "name",
        ),
    ),
}
# From contrib.framework to tf.compat.v1.train.
_FRAMEWORK = (
    *("assert_global_step", "create_global_step", "get_global_step", "get_or_create_global_step"),
    *("init_from_checkpoint", "list_variables", "load_checkpoint", "load_variable"),
)
_LOOKUP = {
    "HashTable": "StaticHashTable",
    **{
        name: name for name in ("KeyValueTensorInitializer", "TextFileIndex", "TextFileInitializer")
    },
}
_WEIGHTED = ("predictions", "labels", "weights", "metrics_collections", "updates_collections")
# contrib.metrics.streaming_<name>, which takes predictions before labels.
_METRICS = (
    *("accuracy", "precision", "recall", "mean_absolute_error", "mean_squared_error"),
    *("root_mean_squared_error", "false_negatives", "false_positives", "true_negatives"),
    "true_positives",
)


def moved(parts: Sequence[str]) -> Rename | None:
    """The new name of `tf.<parts>`, or None.

    Example: `moved(["contrib", "data", "map_and_batch"]).new == "data.experimental.map_and_batch"`.

    Args:
        parts: the parts of a name, of which the first is "contrib".
    """
    if len(parts) == 2 and parts[1] in _FOLDERS:
        return _FOLDERS[parts[1]]
    if len(parts) < 3:
        return None
    folder, name = parts[1], parts[2]
    if folder in _FINDERS:
        return _FINDERS[folder](name)
    return _FUNCTIONS.get(f"{folder}.{name}")


def _data(name: str) -> Rename | None:
    if tensorflow_names.exists(("data", "experimental", name), v1=False):
        return Rename(3, f"data.experimental.{name}", in_tf=True)
    if tensorflow_names.exists(("data", name), v1=False):  # of TF 1.3
        return Rename(3, f"data.{name}", in_tf=True)
    return None


def _tpu(name: str) -> Rename | None:
    if name in _TPU:
        return Rename(3, f"tfbig.compat.v1.estimator.tpu.{name}")
    return Rename(3, f"tpu.{name}", in_v1=True) if name == "bfloat16_scope" else None


def _cluster_resolver(name: str) -> Rename | None:
    found = tensorflow_names.exists(("distribute", "cluster_resolver", name), v1=False)
    return Rename(3, f"distribute.cluster_resolver.{name}", in_tf=True) if found else None


def _estimator(name: str) -> Rename | None:
    if name in CANNED:
        return Rename(3, f"tfbig.compat.v1.estimator.{name}")
    if name in STOPPING or name in IN_ESTIMATOR:
        return Rename(3, f"tfbig.estimator.{name}")
    if name in _EXPERIMENTAL:
        return Rename(3, f"tfbig.estimator.experimental.{name}")
    if name in _HEADS:
        new, positional = _HEADS[name]
        return Rename(3, f"tfbig.estimator.{new}", positional=positional)
    return None


def _framework(name: str) -> Rename | None:
    if name in _FRAMEWORK:
        return Rename(3, f"train.{name}", in_v1=True)
    return Rename(3, name, in_tf=True) if name in ("argsort", "is_tensor", "nest", "sort") else None


def _metrics(name: str) -> Rename | None:
    if name == "streaming_mean":
        return Rename(3, "metrics.mean", in_v1=True)
    kind = name.removeprefix("streaming_")
    if kind == name or kind not in _METRICS:
        return None
    positional = (*_WEIGHTED, "name")
    return Rename(3, f"metrics.{kind}", in_v1=True, positional=positional)


def _lookup(name: str) -> Rename | None:
    return Rename(3, f"lookup.{_LOOKUP[name]}", in_tf=True) if name in _LOOKUP else None


_FOLDERS = {
    "cluster_resolver": Rename(2, "distribute.cluster_resolver", in_tf=True),
    "tpu": Rename(2, "tfbig.compat.v1.estimator.tpu"),
}
_FINDERS = {
    "cluster_resolver": _cluster_resolver,
    "data": _data,
    "estimator": _estimator,
    "framework": _framework,
    "lookup": _lookup,
    "metrics": _metrics,
    "tpu": _tpu,
}
_XAVIER = Rename(
    3,
    "glorot_uniform_initializer",
    in_v1=True,
    positional=("uniform", "seed", "dtype"),
    accepts=("seed", "dtype"),
    otherwise="write tf.compat.v1.glorot_normal_initializer(), for uniform=False",
)
_SCALAR = Rename(
    3,
    "summary.scalar",
    in_v1=True,
    positional=("name", "tensor", "family", "step"),
    accepts=("name", "tensor", "family"),
    otherwise="write tf.compat.v1.summary.scalar(name, tensor), which knows the step",
)
_FUNCTIONS = {
    "summary.scalar": _SCALAR,
    "summary.histogram": _SCALAR._replace(
        new="summary.histogram",
        renamed=(("tensor", "values"),),
        otherwise="write tf.compat.v1.summary.histogram(name, values), which knows the step",
    ),
    "layers.layer_norm": Rename(3, "tfbig.compat.v1.contrib.layers.layer_norm"),
    "layers.optimize_loss": Rename(3, "tfbig.compat.v1.contrib.layers.optimize_loss"),
    "layers.xavier_initializer": _XAVIER,
    "layers.xavier_initializer_conv2d": _XAVIER,
    "layers.flatten": Rename(
        3,
        "tfbig.compat.v1.layers.flatten",
        positional=("inputs", "outputs_collections", "scope"),
        accepts=("inputs",),
        otherwise="write tfbig.compat.v1.layers.flatten(inputs)",
    ),
    "layers.l1_regularizer": Rename(
        3,
        "keras.regularizers.L1",
        in_tf=True,
        positional=("scale", "scope"),
        accepts=("scale",),
        renamed=(("scale", "l1"),),
        otherwise="write tf.keras.regularizers.L1(scale)",
    ),
    "layers.l2_regularizer": Rename(
        3,
        "keras.regularizers.L2",
        in_tf=True,
        positional=("scale", "scope"),
        accepts=("scale",),
        renamed=(("scale", "l2"),),
        first="0.5 * {}",
        otherwise="write tf.keras.regularizers.L2(scale / 2)",
    ),
}
