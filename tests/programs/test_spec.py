"""What a model_fn returns is checked when it is made."""

import keras
import pytest

import tfbig
from tfbig.errors import NotBuiltError, UserError

TRAIN, EVAL, PREDICT = (
    tfbig.ModeKeys.TRAIN,
    tfbig.ModeKeys.EVAL,
    tfbig.ModeKeys.PREDICT,
)
SGD = keras.optimizers.SGD


def test_the_modes_have_the_names_that_estimators_gave_them():
    assert (TRAIN, EVAL, PREDICT) == ("train", "eval", "infer")


def test_each_mode_needs_its_own_fields_and_no_more():
    assert tfbig.EstimatorSpec(TRAIN, loss=1.0, optimizer=SGD()).loss == 1.0
    assert tfbig.EstimatorSpec(EVAL, loss=1.0).optimizer is None
    assert tfbig.EstimatorSpec(PREDICT, predictions=[2.0]).predictions == [2.0]


@pytest.mark.parametrize(
    ("mode", "arguments", "message"),
    [
        (
            "training",
            {},
            "EstimatorSpec(mode='training'): expected ModeKeys.TRAIN, EVAL or PREDICT; pass the "
            "mode that model_fn was given.",
        ),
        (
            TRAIN,
            {"optimizer": SGD()},
            "EstimatorSpec for mode 'train' has no loss; pass loss=<scalar or [n]>.",
        ),
        (EVAL, {}, "EstimatorSpec for mode 'eval' has no loss; pass loss=<scalar or [n]>."),
        (
            TRAIN,
            {"loss": 1.0},
            "EstimatorSpec for mode 'train' has no optimizer; pass optimizer=keras.optimizers."
            "Adam(…) or another Keras optimizer.",
        ),
    ],
)
def test_what_a_mode_needs_is_asked_for(mode, arguments, message):
    with pytest.raises(UserError) as raised:
        tfbig.EstimatorSpec(mode, **arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("train_op", object(), "pass optimizer=<a Keras optimizer> and the loop applies the grad"),
        ("training_hooks", [object()], "pass callbacks= to train_distributed"),
        ("export_outputs", {"a": 1}, "pass predictions="),
    ],
)
def test_fields_of_tensorflow_1_say_what_to_use_instead(name, value, instead):
    with pytest.raises(NotBuiltError) as raised:
        tfbig.EstimatorSpec(TRAIN, loss=1.0, optimizer=SGD(), **{name: value})
    message = str(raised.value)
    assert message.startswith(f"EstimatorSpec({name}=…) is not built yet; ") and instead in message
