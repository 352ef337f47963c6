"""Every private name of Keras and TensorFlow in use, with its reason and the test guarding it.

All are of TensorFlow 2.21 and Keras 3.15, to which setup.cfg pins; tests/test_private_api.py
checks that each still is what is described here.
"""

from tfbig._private_api.cluster import (
    abort_collectives,
    has_started,
    leave_health_to_others,
    make_own_initial_values,
)
from tfbig._private_api.losses import (
    compiled_losses,
    compiled_metrics,
    keras_mask,
    loss_values,
    losses_of_one_replica,
    metric_function,
    reported_metrics,
    same_rank,
    substituted_losses,
    update_padded_metrics,
)
from tfbig._private_api.models import (
    as_not_compiled,
    automatic_names,
    build_compiled,
    compile_arguments,
    current_keras_path,
    flatten_layers,
    is_plain_functional,
    keras_variable_of,
    output_spec,
    overrides,
)
from tfbig._private_api.operations import (
    deserialize_iterator,
    reproducible_dropout,
    serialize_iterator,
    variables_as_constants,
)
from tfbig._private_api.optimizers import (
    gradients_already_reduced,
    learning_rate,
    put_averages_in_place,
    reduce_no_more,
    without_weight_decay,
)
from tfbig._private_api.recomputation import (
    Node,
    functional_graph,
    graph_nodes,
    graph_run_by,
    is_recorded,
    layer_contexts,
    set_keras_mask,
    sublayers,
)

__all__ = [
    "Node",
    "abort_collectives",
    "as_not_compiled",
    "automatic_names",
    "build_compiled",
    "compile_arguments",
    "compiled_losses",
    "compiled_metrics",
    "current_keras_path",
    "flatten_layers",
    "functional_graph",
    "gradients_already_reduced",
    "graph_nodes",
    "graph_run_by",
    "has_started",
    "is_plain_functional",
    "is_recorded",
    "keras_mask",
    "keras_variable_of",
    "layer_contexts",
    "learning_rate",
    "leave_health_to_others",
    "loss_values",
    "losses_of_one_replica",
    "make_own_initial_values",
    "metric_function",
    "output_spec",
    "overrides",
    "put_averages_in_place",
    "reduce_no_more",
    "reported_metrics",
    "reproducible_dropout",
    "same_rank",
    "deserialize_iterator",
    "serialize_iterator",
    "set_keras_mask",
    "sublayers",
    "substituted_losses",
    "update_padded_metrics",
    "variables_as_constants",
    "without_weight_decay",
]
