"""What Keras knows of models, layers and variables and tells by no public name."""

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
    """Starts Keras's automatic names (dense, dense_1, …) anew inside the block.

    Reason: a model_fn is called in several traces and modes, and its layers must find their
    variables by name each time; the counters are global. Guard: test_automatic_names.
    """
    saved = global_state.get_global_attribute("object_name_uids")
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute("object_name_uids", saved)


def current_keras_path() -> str:
    """The path of the Keras name scopes that are open.

    Reason: a variable creator sees only the last part of a Keras variable's name. Guard:
    tests/programs/test_variable_store.py.
    """
    return current_path()


def keras_variable_of(initial_value) -> keras.Variable | None:
    """The Keras variable that a tf.Variable is made for, from what it is made from, or None.

    Reason: it alone knows its shape beforehand, and whether its layer is frozen. Keras hands over
    a function of no arguments that refers to it. Guard: tests/programs/test_variable_store.py.
    """
    if not inspect.isfunction(initial_value):
        return None
    owner = inspect.getclosurevars(initial_value).nonlocals.get("self")
    return owner if isinstance(owner, keras.Variable) else None


def build_compiled(model: keras.Model, x, y, sample_weight, y_pred=None) -> None:
    """Builds a compiled model with its losses and metrics from KerasTensors of a batch.

    With `y_pred` the losses come first, as in the first step of `fit`, so that errors are those
    of `fit`.

    Reason: `fit` does this on its first batch, no public call does. Guard:
    tests/programs/test_keras_program.py.
    """
    if y_pred is not None and not getattr(model._compile_loss, "built", True):
        _try_loss(model, x, y, sample_weight, y_pred)
    model._symbolic_build(data_batch=(x, y, sample_weight))


def try_compiled(model: keras.Model, x, y, sample_weight, y_pred) -> None:
    """Calls a built model's losses and metrics on KerasTensors of a batch; no variable changes.

    Reason: as for build_compiled. Guard: tests/programs/test_compiled_checks.py.
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
    """Calls a model's own `compute_loss` as `fit` does.

    Reason: one that has no argument `training`, as those written before Keras 3.3, is called
    without it. Guard: tests/programs/test_own_losses.py.
    """
    return model._compute_loss(x, y, y_pred, sample_weight, training=training)


def is_plain_functional(model: keras.Model) -> bool:
    """Whether a model is `keras.Model(inputs, outputs)`, which Keras can clone layer by layer.

    A subclass of it would come back without its own methods.

    Reason: that call makes a class that has no public name. Guard:
    tests/programs/test_rebuilding.py.
    """
    return type(model) is Functional


@contextlib.contextmanager
def as_not_compiled(model: keras.Model) -> Iterator[None]:
    """Makes a model, and models nested in it, look uncompiled inside the block.

    Reason: clone_model compiles the clone from names, which plain functions and classes that are
    not registered do not come back from. Guard: tests/programs/test_rebuilding.py.
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
    """The arguments that a model's `compile` was given.

    Reason: the public get_compile_config gives names, as above. Guard:
    tests/programs/test_rebuilding.py.
    """
    return dict(model._compile_config.config)


def overrides(model: keras.Model, method: str) -> bool:
    """Whether a model's class has its own version of one of the Trainer's methods."""
    plain = {getattr(Trainer, method, None), getattr(keras.Model, method, None)}
    return getattr(type(model), method, None) not in plain


def flatten_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers of a model, nested ones too; `model.layers` lists the outer ones only."""
    return list(model._flatten_layers())


def init_arguments(layer) -> dict | None:
    """The arguments that a layer was made with, with defaults; None where Keras kept none.

    Reason: Keras keeps those that are plain values, for configs that it makes up; a config that a
    class writes itself may leave some out. Guard: tests/programs/test_told_arguments.py.
    """
    kept = getattr(layer, "_auto_config", None)
    return None if kept is None else dict(kept.config)


def snake_case(name: str) -> str:
    """The name that Keras gives to parts of a class, before it adds a number.

    Reason: a name that a user chose may end in a number too. Guard:
    tests/programs/test_renumbering.py.
    """
    return to_snake_case(name)


def own_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights that a layer itself has made, without those of the layers in it.

    Reason: `layer.variables` has them all. Guard: tests/programs/test_keras_state.py.
    """
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def output_spec(model: keras.Model, features):
    """The KerasTensors that a model returns for KerasTensors, traced in a scratch graph.

    Reason: labels are compared with outputs before anything is trained. Guard:
    tests/programs/test_keras_program.py.
    """
    return keras.src.backend.compute_output_spec(model, features, training=False)


def traced_symbolically(function, *arguments) -> None:
    """Calls a function with symbolic tensors for its KerasTensors, in a scratch graph.

    Reason: what a model gives to its metrics is looked at with batches of no fixed size. Guard:
    tests/programs/test_fed_metrics.py.
    """
    keras.src.backend.compute_output_spec(function, *arguments)


def set_own_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Sets `trainable` of a layer alone, and leaves its weights and the layers in it as they are.

    Reason: the public setter sets all of those too, so that no order of calls gives the flags of
    a frozen layer whose inner layer is trained and shared with another. Guard:
    test_set_own_trainable.
    """
    if type(layer).trainable is keras.layers.Layer.trainable:
        layer._trainable = value
    elif layer.trainable != value:
        layer.trainable = value  # a setter of its own


def export_signature(model: keras.Model) -> list:
    """The arguments of a model's exported function: structures of tf.TensorSpecs.

    Reason: an export is called before it is said to be done, and Keras tells no one what the
    function takes. Guard: tests/serving/test_export_check.py.
    """
    return [
        keras.tree.map_structure(make_tf_tensor_spec, argument)
        for argument in get_input_signature(model)
    ]
