"""Names, layers, variables and compile arguments of Keras models."""

import collections
import contextlib
import inspect
from collections.abc import Iterator

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.name_scope import current_path
from keras.src.export.export_utils import get_input_signature, make_tf_tensor_spec
from keras.src.models.functional import Functional
from keras.src.trainers.trainer import Trainer
from keras.src.utils.naming import to_snake_case


@contextlib.contextmanager
def automatic_names() -> Iterator[None]:
    """Restarts Keras's automatic names (dense, dense_1, …) inside the block.

    Reason: a model_fn is called in several traces and modes, and its layers must get the same
    names each time, but the counters are global.
    Guard: tests/private_api/test_models.py.
    """
    saved = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", saved)


def current_keras_path() -> str:
    """The path of the open Keras name scopes.

    Reason: a variable creator receives only the last part of a Keras variable's name.
    Guard: tests/programs/test_variable_store.py.
    """
    return current_path()


def keras_variable_of(initial_value) -> keras.Variable | None:
    """The Keras variable for which a tf.Variable is created, from its initial value, or None.

    Reason: only the Keras variable knows its shape in advance and whether its layer is frozen.
    The initial value is a function without arguments that refers to it.
    Guard: tests/programs/test_variable_store.py.
    """
    if not inspect.isfunction(initial_value):
        return None
    owner = inspect.getclosurevars(initial_value).nonlocals.get("self")
    return owner if isinstance(owner, keras.Variable) else None


def build_compiled(model: keras.Model, x, y, sample_weight, y_pred=None) -> None:
    """Builds a compiled model with its losses and metrics from KerasTensors of a batch.

    With `y_pred` the losses are built first, so that errors are the same as in the first step of
    `fit`.

    Reason: `fit` does this on its first batch, but no public method does.
    Guard: tests/programs/test_keras_program.py.
    """
    if y_pred is not None and not getattr(model._compile_loss, "built", True):
        _try_loss(model, x, y, sample_weight, y_pred)
    model._symbolic_build(data_batch=(x, y, sample_weight))


def check_compiled(model: keras.Model, x, y, sample_weight, y_pred) -> None:
    """Calls the losses and metrics of a built model on KerasTensors, without changing variables.

    Reason: no public method computes losses and metrics symbolically.
    Guard: tests/programs/test_compiled_checks.py.
    """
    if model._compile_loss is not None:
        _try_loss(model, x, y, sample_weight, y_pred)
    if model._compile_metrics is not None:
        keras.src.backend.compute_output_spec(
            model.compute_metrics, x, y, y_pred, sample_weight=sample_weight
        )


def _try_loss(model: keras.Model, x, y, sample_weight, y_pred) -> None:
    keras.src.backend.compute_output_spec(
        model._compute_loss, x, y, y_pred, sample_weight=sample_weight, training=False
    )


def compute_loss(model: keras.Model, x, y, y_pred, sample_weight, training: bool):
    """Calls a custom `compute_loss` as `fit` does.

    Reason: Keras omits `training` if the method has no such argument, as before Keras 3.3.
    Guard: tests/programs/test_custom_losses.py.
    """
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def is_plain_functional(model: keras.Model) -> bool:
    """Whether a model is `keras.Model(inputs, outputs)`, which Keras can clone layer by layer.

    A clone of a subclass would lack the methods of the subclass.

    Reason: the class of such a model has no public name.
    Guard: tests/programs/test_rebuilding.py.
    """
    return type(model) is Functional


@contextlib.contextmanager
def treated_as_uncompiled(model: keras.Model) -> Iterator[None]:
    """Makes a model and its nested models appear uncompiled inside the block.

    Reason: clone_model compiles the clone from names, which fails for plain functions and for
    unregistered classes.
    Guard: tests/programs/test_rebuilding.py.
    """
    compiled = [m for m in flatten_layers(model) if getattr(m, "compiled", False)]
    for inner in compiled:
        inner.compiled = False
    try:
        yield
    finally:
        for inner in compiled:
            inner.compiled = True


def compile_arguments(model: keras.Model) -> dict:
    """The arguments of a model's `compile`.

    Reason: the public get_compile_config returns names instead of functions and objects.
    Guard: tests/programs/test_rebuilding.py.
    """
    return dict(model._compile_config.config)


def overrides(model: keras.Model, method: str) -> bool:
    """Whether a model's class overrides a method of Keras's Trainer or Model.

    Reason: the class Trainer, which defines most of these methods, has no public name.
    Guard: tests/private_api/test_models.py.
    """
    plain = {getattr(Trainer, method, None), getattr(keras.Model, method, None)}
    return getattr(type(model), method, None) not in plain


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model, including nested ones.

    Reason: the public `model.layers` lists the outer layers only.
    Guard: tests/private_api/test_models.py.
    """
    return list(model._flatten_layers())


def init_arguments(layer) -> dict | None:
    """The constructor arguments of a layer, with defaults, or None if Keras did not store them.

    Reason: Keras stores plain values for its default get_config. A custom get_config may omit
    some.
    Guard: tests/programs/test_config_checks.py.
    """
    kept = getattr(layer, "_auto_config", None)
    return None if kept is None else dict(kept.config)


def snake_case(name: str) -> str:
    """Keras's automatic name for objects of a class, without a number.

    Reason: names that a user chose may end with a number too, so automatic names must be known.
    Guard: tests/programs/test_renumbering.py.
    """
    return to_snake_case(name)


def direct_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that a layer itself created, without those of nested layers.

    Reason: the public `layer.variables` contains both.
    Guard: tests/programs/test_keras_state.py.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def output_spec(model: keras.Model, features):
    """The KerasTensors that a model returns for KerasTensors, traced in a temporary graph.

    Reason: labels are compared with the outputs before training, and no public function traces a
    subclassed model.
    Guard: tests/private_api/test_models.py.
    """
    return keras.src.backend.compute_output_spec(model, features, training=False)


def trace_symbolically(function, *arguments) -> None:
    """Calls a function with symbolic tensors for its KerasTensors, in a temporary graph.

    Reason: the inputs of a model's metrics are examined with a dynamic batch size.
    Guard: tests/programs/test_metric_inputs.py.
    """
    keras.src.backend.compute_output_spec(function, *arguments)


def set_trainable_flag(layer: keras.layers.Layer, value: bool) -> None:
    """Sets `trainable` of a layer, but not of its weights and nested layers.

    Reason: the public setter sets all of them, so no order of calls can restore the flags of a
    frozen layer whose nested layer is trained and shared.
    Guard: tests/private_api/test_models.py.
    """
    if type(layer).trainable is keras.layers.Layer.trainable:
        layer._trainable = value
    elif layer.trainable != value:
        layer.trainable = value  # the class has a custom setter


def export_signature(model: keras.Model) -> list:
    """The arguments of a model's exported function, as structures of tf.TensorSpecs.

    Reason: an export is tested with a call, and Keras does not expose the arguments of the
    function.
    Guard: tests/serving/test_export_check.py.
    """
    return [
        keras.tree.map_structure(make_tf_tensor_spec, argument)
        for argument in get_input_signature(model)
    ]
