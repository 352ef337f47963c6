"""Advice for the names of TF1 that must be replaced by hand."""

from collections.abc import Sequence

from tfbig.compat.gone import gone_estimator, gone_rnn
from tfbig.migration.contrib_by_hand import CONTRIB

_SESSION = (
    "there are no sessions: tfbig.train_distributed, or tfbig.Estimator's train, evaluate and "
    "predict, run the model_fn"
)
_QUEUE = "there are no queues: read with a tf.data.Dataset, or a tfbig.data.Source, in input_fn"
_ITERATOR = (
    "return the Dataset itself from input_fn, without iterator and get_next(); what changes its "
    "elements becomes a function for Dataset.map"
)
_INITIALIZE = "leave it out: variables and tables are initialized when they are made"
_PARTITIONER = (
    "leave partitioners out: a variable is one piece; RunConfig(model_distribution='owner') "
    "spreads the optimizer's state"
)
_STRATEGY = 'leave it out, and pass strategy= ("mirrored", "multi_worker") and devices='
_SAVER = "leave it out: RunConfig(save_checkpoints_steps=, keep_checkpoint_max=) says it"
_MERGED = "leave it out: RunConfig(save_summary_steps=) writes all summaries of the model_fn"
_PLACEHOLDER = (
    "there is nothing to feed: take tensors from features, which input_fn's Dataset gives; in a "
    "serving_input_receiver_fn write tf.compat.v1.placeholder(dtype, shape)"
)
_V1 = "leave it out: tfbig needs TensorFlow 2's behaviour, and TF1 code works in model_fn"

_ADVICE = {
    **dict.fromkeys(("Session", "InteractiveSession", "get_default_session"), _SESSION),
    **dict.fromkeys(
        (
            *("train.MonitoredTrainingSession", "train.MonitoredSession", "train.Supervisor"),
            *("train.SingularMonitoredSession", "train.ChiefSessionCreator"),
            *("train.WorkerSessionCreator", "train.SessionManager", "train.basic_train_loop"),
        ),
        _SESSION,
    ),
    **dict.fromkeys(("placeholder", "placeholder_with_default"), _PLACEHOLDER),
    "sparse_placeholder": (
        "there is nothing to feed: a tf.io.VarLenFeature of tf.io.parse_example is a SparseTensor"
    ),
    **dict.fromkeys(
        (
            *("global_variables_initializer", "local_variables_initializer", "tables_initializer"),
            *("initialize_all_variables", "initialize_local_variables", "initialize_all_tables"),
            *("variables_initializer", "report_uninitialized_variables"),
        ),
        _INITIALIZE,
    ),
    **dict.fromkeys(
        (
            *("FIFOQueue", "PaddingFIFOQueue", "RandomShuffleQueue", "PriorityQueue", "QueueBase"),
            *("queue", "TextLineReader", "TFRecordReader", "WholeFileReader", "IdentityReader"),
            *("FixedLengthRecordReader", "LMDBReader", "train.batch", "train.batch_join"),
            *("train.maybe_batch", "train.shuffle_batch", "train.shuffle_batch_join"),
            *("train.string_input_producer", "train.slice_input_producer"),
            *("train.range_input_producer", "train.input_producer", "train.limit_epochs"),
            *("train.QueueRunner", "train.add_queue_runner", "train.queue_runner"),
            *("train.start_queue_runners", "train.Coordinator", "train.match_filenames_once"),
        ),
        _QUEUE,
    ),
    **dict.fromkeys(("data.make_one_shot_iterator", "data.make_initializable_iterator"), _ITERATOR),
    **dict.fromkeys(
        (
            *("fixed_size_partitioner", "variable_axis_size_partitioner"),
            *("min_max_variable_partitioner", "create_partitioned_variables"),
        ),
        _PARTITIONER,
    ),
    **dict.fromkeys(
        ("train.SyncReplicasOptimizer", "train.replica_device_setter", "train.Server",
         "train.ClusterSpec"),
        _STRATEGY,
    ),
    "distribute": _STRATEGY,
    "train.Saver": _SAVER,
    "summary.FileWriter": _MERGED,
    "summary.merge": _MERGED,
    "summary.merge_all": _MERGED,
    **dict.fromkeys(
        ("disable_v2_behavior", "disable_eager_execution", "disable_resource_variables",
         "disable_v2_tensorshape", "disable_control_flow_v2", "disable_tensor_equality"),
        _V1,
    ),
    "enable_eager_execution": "leave it out: it is TensorFlow 2's own way",
    "enable_v2_behavior": "leave it out: it is TensorFlow 2's own way",
    "keras.estimator.model_to_estimator": (
        "pass the compiled keras.Model to tfbig.train_distributed as it is"
    ),
    "train.VocabInfo": (
        "leave it out: rows of an embedding are not moved to their index in another vocabulary; "
        "keep the vocabulary"
    ),
    "train.FeedFnHook": "leave it out: input_fn gives all values",
    "train.GlobalStepWaiterHook": "leave it out: workers start together",
    "train.ProfilerHook": "write keras.callbacks.TensorBoard(profile_batch=…)",
    "py_func": "write tf.numpy_function(…) in input_fn; in model_fn use TensorFlow's operations",
    "examples": "write keras.datasets, tfbig.datasets or tfbig.data.TfdsSource",
    "python": "TensorFlow's private modules change with each version; use a public name",
    **CONTRIB,
    "contrib.distribute": _STRATEGY,
    "contrib.estimator.replicate_model_fn": _STRATEGY,
    "contrib.estimator.TowerOptimizer": _STRATEGY,
}  # fmt: skip
_REMOVABLE = frozenset(
    name for name, text in _ADVICE.items() if text == _V1 or text.endswith("TensorFlow 2's own way")
)
SESSION_HOOK = (
    "a hook that uses the session cannot work: fetch tensors in before_run "
    "(SessionRunArgs), or write a keras.callbacks.Callback"
)
PARTITIONER = _PARTITIONER
ITERATOR = _ITERATOR
PLACEHOLDER = _PLACEHOLDER


def advice(names: Sequence[str]) -> str | None:
    """The advice for `tf.<names>`, or None: no manual change is needed.

    Example: `advice(["contrib", "slim", "conv2d"])`.
    """
    if names[0] == "estimator" and len(names) > 1:
        found = gone_estimator(".".join(names[1:3])) or gone_estimator(names[1])
        return found or _ADVICE.get(f"train.{names[1]}")
    if names[0] == "nn" and len(names) > 1:
        return gone_rnn(".".join(names[1:3]))
    if tuple(names[:2]) == ("distribute", "cluster_resolver"):
        return None  # the cluster= of a TPUEstimator's RunConfig
    for length in range(len(names), 0, -1):
        found = _ADVICE.get(".".join(names[:length]))
        if found is not None:
            return found
    return None


def is_left_out(names: Sequence[str]) -> bool:
    """Whether a statement that only calls `tf.<names>` can be removed."""
    return ".".join(names) in _REMOVABLE
