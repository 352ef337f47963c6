"""Cases of Estimator-style model_fns; nothing here starts TensorFlow."""

from functools import partial

from keras.optimizers import SGD

from tests.equivalence import models, tf1_model_fns, tf1_reference
from tests.equivalence.case import Case
from tests.equivalence.keras_cases import UNEVEN, adam, sgd
from tests.equivalence.model_fns import ModelFn
from tests.equivalence.tf1_model_fns import TF1ModelFn


def _tf1(optimizer, rate: float, *, data=UNEVEN, model_fn=None, **fields) -> Case:
    """A case of a model_fn of TensorFlow 1 code, against TensorFlow 1 itself."""
    return Case(
        None,
        data,
        model_fn=TF1ModelFn(optimizer, rate, **(model_fn or {})),
        reference=tf1_reference.train,
        evaluates=True,
        **fields,
    )


MODEL_FN_CASES = {
    # Estimator-style model_fns.
    "model_fn": Case(None, UNEVEN, model_fn=ModelFn(adam), evaluates=True),
    "model_fn_scalar_loss": Case(
        None, partial(models.digits, 193), model_fn=ModelFn(adam, scalar=True), evaluates=True
    ),
    "model_fn_batch_norm": Case(
        None, UNEVEN, model_fn=ModelFn(sgd, normalize=True), parts=True, evaluates=True
    ),
    "model_fn_batch_norm_last_of_one": Case(
        None, partial(models.digits, 193), model_fn=ModelFn(sgd, normalize=True), parts=True
    ),
    "model_fn_accumulation_2_clipped": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(partial(SGD, 0.5, global_clipnorm=0.05)),
        config={"accumulation_steps": 2},
    ),
    "model_fn_ema": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(partial(SGD, 0.1, use_ema=True, ema_momentum=0.8)),
    ),
    "model_fn_float16": Case(
        None,
        UNEVEN,
        model_fn=ModelFn(sgd),
        config={"precision": "mixed_float16"},
        weights=2e-2,
        losses=1e-2,
    ),
    # Of TensorFlow 1 code.
    "tf1_momentum": _tf1(tf1_model_fns.momentum, 0.1),
    "tf1_adam_last_of_one": _tf1(tf1_model_fns.adam, 0.01, data=partial(models.digits, 193)),
    "tf1_ftrl_accumulation_2": _tf1(tf1_model_fns.ftrl, 0.1, config={"accumulation_steps": 2}),
    "tf1_clipped": _tf1(tf1_model_fns.momentum, 0.5, model_fn={"clip": 0.05}),
    "tf1_clipped_accumulation_2": _tf1(
        tf1_model_fns.adam, 0.01, model_fn={"clip": 0.05}, config={"accumulation_steps": 2}
    ),
    "tf1_batch_norm": _tf1(tf1_model_fns.momentum, 0.1, model_fn={"normalize": True}, parts=True),
    "tf1_batch_norm_accumulation_2": _tf1(
        tf1_model_fns.momentum,
        0.1,
        data=partial(models.digits, 193),
        model_fn={"normalize": True},
        parts=True,
        config={"accumulation_steps": 2},
    ),
    # Both dialects at length: 20 passes of 15 batches, the last of 6.
    "model_fn_300_steps": Case(
        None,
        UNEVEN,
        batch_size=16,
        epochs=20,
        model_fn=ModelFn(adam),
        config={"log_step_count_steps": 50},
        evaluates=True,
    ),
    "tf1_300_steps": _tf1(
        tf1_model_fns.adam,
        0.01,
        batch_size=16,
        epochs=20,
        config={"log_step_count_steps": 50},
    ),
}
