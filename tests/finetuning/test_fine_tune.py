"""tfbig.fine_tune: a saved model with a new head, layers frozen and joining, rates by depth."""

import functools
import os

import keras
import numpy as np
import pytest

import tfbig
from tests import harness
from tests.finetuning import tuned_runs
from tests.finetuning.tuned_runs import STAGED, pretrained, source, tune
from tests.training.small_runs import (
    assert_same_variables,
    checkpoint,
    checkpoint_steps,
    saved_variables,
)
from tfbig.errors import UserError


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("pretrained") / "digits.keras")
    pretrained().save(path)
    return path


def weights(model) -> dict[str, np.ndarray]:
    return {
        f"{layer.name}/{variable.name}": variable.numpy()
        for layer in model.layers
        for variable in layer.variables
    }


@pytest.mark.slow
def test_a_new_head_learns_other_classes_on_a_frozen_backbone(path):
    recipe = tfbig.Recipe(head=5, freeze="backbone", learning_rate=0.03)
    result = tune(path, recipe, steps=400)
    assert result.metrics["accuracy"] > 0.85  # by the features of other digits
    before, after = weights(pretrained()), weights(result.model)
    kept = [name for name in after if not name.startswith("head/")]
    assert len(kept) == 7  # the statistics of the normalization too
    for name in kept:
        np.testing.assert_array_equal(after[name], before[name])
    assert result.model.output_shape == (None, 5)


def test_all_of_a_model_is_tuned_as_it_was_compiled_without_a_recipe(path):
    result = tfbig.fine_tune(path, lambda: source(5), max_steps=20)
    before, after = weights(pretrained()), weights(result.model)
    assert before.keys() == after.keys()
    assert not any(np.array_equal(before[name], after[name]) for name in before)
    assert isinstance(result.model.optimizer, keras.optimizers.SGD)


def test_a_model_fn_makes_the_model_of_the_loaded_one_and_of_params(path):
    def model_fn(loaded, params):
        loaded.layers[0].trainable = False
        model = keras.Sequential([*loaded.layers[:-1], keras.layers.Dense(params["classes"])])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
        return model

    result = tfbig.fine_tune(
        path, lambda: source(5), model_fn=model_fn, params={"classes": 7}, max_steps=20
    )
    assert result.model.output_shape == (None, 7)
    np.testing.assert_array_equal(
        weights(result.model)["first/kernel"], weights(pretrained())["first/kernel"]
    )


@pytest.mark.slow
def test_layers_join_at_their_steps_and_what_is_frozen_keeps_its_bits(path):
    before = weights(pretrained())
    for steps, joined in (
        (20, {"head"}),
        (40, {"head", "second"}),
        (60, {"head", "second", "first"}),
    ):
        after = weights(tune(path, tfbig.Recipe(**STAGED), steps=steps).model)
        changed = {n.split("/")[0] for n in after if not np.array_equal(after[n], before.get(n))}
        assert changed == joined


def test_a_rate_that_falls_with_depth_is_that_of_the_first_step(path):
    """Plain SGD's first step is the rate times the gradient, so two runs differ by the decay."""
    plain = dict(optimizer={"name": "sgd"}, learning_rate=0.01)
    before = weights(pretrained())
    even, falling = (
        weights(tune(path, tfbig.Recipe(rate_decay=decay, **plain), steps=1).model)
        for decay in (1.0, 0.5)
    )
    for name, factor in (("old_head/kernel", 1), ("second/kernel", 0.5), ("first/kernel", 0.125)):
        np.testing.assert_allclose(
            falling[name] - before[name], factor * (even[name] - before[name]), atol=2e-7
        )


@pytest.mark.slow
@pytest.mark.parametrize("step", [10, 20, 50])
def test_a_run_resumes_to_the_bit_in_every_stage(path, step, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    tune(path, tfbig.Recipe(**STAGED), model_dir=whole)
    os.makedirs(resumed / "checkpoints")
    os.rename(checkpoint(whole, step), checkpoint(resumed, step))
    tune(path, tfbig.Recipe(**STAGED), model_dir=resumed)
    end = checkpoint_steps(whole)[-1]
    assert end == checkpoint_steps(resumed)[-1] == 60
    assert_same_variables(saved_variables(whole, end), saved_variables(resumed, end))


@pytest.mark.slow
def test_two_replicas_give_what_one_device_gives(path, tmp_path):
    expected = tune(path, tfbig.Recipe(**STAGED)).model.get_weights()
    found = harness.call(tuned_runs.weights_on_two_replicas, tmp_path, path, timeout=240)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(one), other, atol=1e-5)


@pytest.mark.slow
def test_two_workers_give_what_one_device_gives(path, tmp_path):
    first, second = harness.call_workers(
        tuned_runs.weights_on_workers, tmp_path, path, str(tmp_path), workers=2, timeout=240
    )
    assert first == second
    lora = tfbig.Recipe(head=5, lora_rank=4, learning_rate=0.05)
    for name, recipe in {"staged": tfbig.Recipe(**STAGED), "lora": lora}.items():
        for one, other in zip(first[name], tune(path, recipe).model.get_weights(), strict=True):
            np.testing.assert_allclose(np.array(one), other, atol=1e-5)
    assert (tmp_path / "lora" / "adapters.npz").exists()


def test_the_log_has_a_table_of_what_is_trained(path, caplog):
    caplog.set_level("INFO", "tfbig")
    tune(path, tfbig.Recipe(**STAGED), steps=1)
    text = next(m for m in caplog.messages if m.startswith("layer "))
    assert [line.split() for line in text.splitlines()] == [
        "layer parameters trained".split(),
        "first 3,072 0 all from step 40 on, at 0.125 of the rate".split(),
        "normal 192 0".split(),
        "second 1,568 0 all from step 20 on, at 0.5 of the rate".split(),
        "head 165 165".split(),
        "all 4,997 165 from the first step on".split(),
    ]


@pytest.mark.slow
def test_a_number_is_predicted_with_a_head_for_regression(path):
    images, labels = tuned_runs.examples(5)
    data = tfbig.data.ArraySource((images, labels[:, None].astype("float32"))).batch(32)
    recipe = tfbig.Recipe(head="regression", learning_rate=0.01)
    result = tfbig.fine_tune(
        path, lambda: data, recipe=recipe, max_steps=200, eval_input_fn=lambda: data
    )
    assert result.model.output_shape == (None, 1)
    assert result.metrics["mae"] < 0.6  # of classes 0 to 4; the mean would be off by 1.2


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (dict(head=1), 'Recipe.head=1: expected the number of classes, "regression"'),
        (dict(head="softmax"), "Recipe.head='softmax': expected the number of classes"),
        (dict(rate_decay=0), "Recipe.rate_decay=0: expected a number above 0"),
        (dict(unfreeze={5: "*"}), "Recipe.unfreeze needs frozen layers"),
        (dict(freeze="backbone", unfreeze={0: "*"}), "unfreeze: 0 is not a global step"),
        (dict(freeze=True), 'Recipe.freeze=True: expected "backbone", a number of layers'),
        (dict(freeze=1.5), 'Recipe.freeze=1.5: expected "backbone", a number of layers'),
        (dict(freeze=1, unfreeze=[5]), r"Recipe.unfreeze=\[5\]: expected a dict of patterns"),
        (dict(freeze=-1), "Recipe.freeze=-1: expected 0 layers or more"),
        (dict(lora_rank=0), "Recipe.lora_rank=0: expected a whole number of 1 or more"),
        (dict(lora_rank=2, lora_alpha=0), "Recipe.lora_alpha=0: expected a number above"),
        (dict(lora_alpha=2), "Recipe.lora_alpha needs lora_rank"),
        (dict(lora_layers="*"), "Recipe.lora_layers needs lora_rank"),
        (dict(lora_rank=2, freeze=1), "Recipe.freeze=1 cannot be used with lora_rank"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(recipe, says):
    with pytest.raises(UserError, match=says):
        tfbig.Recipe(**recipe)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (dict(freeze="block*"), r"Recipe.freeze='block\*' matches no layer; there are: first, nor"),
        (dict(freeze=4), "Recipe.freeze=4, but the model has 4 layers with weights"),
        (dict(freeze="*"), r"Recipe.freeze='\*' freezes every layer"),
        (
            dict(freeze=["first"], unfreeze={9: "second"}),
            r"unfreeze\[9\]='second' matches no layer; there are: first",
        ),
        (dict(head=3), "labels has class [34] in example .*, but the model has 3 classes: 0 to 2"),
    ],
)
def test_a_recipe_that_does_not_suit_the_model_is_refused_before_the_first_step(path, recipe, says):
    with pytest.raises(UserError, match=says):
        tune(path, tfbig.Recipe(**recipe))


def test_a_recipe_and_a_model_fn_exclude_each_other(path):
    with pytest.raises(UserError, match="model_fn and recipe were both given"):
        tfbig.fine_tune(path, source, model_fn=lambda m: m, recipe=tfbig.Recipe(head=5))
    with pytest.raises(UserError, match="expected a tfbig.Recipe"):
        tfbig.fine_tune(path, source, recipe={"head": 5})


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_loaded_model_is_tuned_in_the_precision_asked_for(path, precision):
    config = tfbig.RunConfig(tf_random_seed=2, precision=precision)
    recipe = tfbig.Recipe(head=5, learning_rate=0.01)
    result = tfbig.fine_tune(
        path, lambda: source(5), recipe=recipe, max_steps=60, config=config,
        eval_input_fn=lambda: source(5),
    )  # fmt: skip
    types = [layer.compute_dtype for layer in result.model.layers if layer.weights]
    assert types == [precision.removeprefix("mixed_")] * 3 + ["float32"]  # of the output
    whole = tfbig.fine_tune(path, lambda: source(0), max_steps=1, config=config).model
    assert whole.compute_dtype != "float32"
    assert whole.layers[-1].compute_dtype == "float32"  # of a Sequential too
    assert result.metrics["accuracy"] > 0.85
    assert all(weight.dtype == "float32" for weight in result.model.weights)


@pytest.mark.slow
def test_a_graph_that_computes_in_float32_is_refused_another_precision(tmp_path):
    exported = tfbig.export(pretrained(), tmp_path / "export")
    config = tfbig.RunConfig(precision="mixed_bfloat16")
    recipe = tfbig.Recipe(loss="mse")
    with pytest.raises(UserError, match="precision='mixed_bfloat16', but .* can only compute in"):
        tfbig.fine_tune(exported, lambda: source(5), recipe=recipe, max_steps=1, config=config)


@pytest.mark.slow
def test_params_reach_a_model_fn_by_name_or_place_and_nothing_else_does(path):
    given = []

    def build(loaded, *arguments, **keywords):
        given.append((arguments, keywords))
        loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return loaded

    def by_name(loaded, *, params=None):
        return build(loaded, params=params)

    def by_place(loaded, settings):
        return build(loaded, settings)

    def with_default(loaded, rate=0.1):
        return build(loaded, rate=rate)

    partial = functools.partial(with_default, rate=0.5)
    for model_fn in (by_name, by_place, with_default, partial):
        tfbig.fine_tune(path, lambda: source(0), model_fn=model_fn, params={"a": 1}, max_steps=1)
    assert given == [
        ((), {"params": {"a": 1}}),
        (({"a": 1},), {}),
        ((), {"rate": 0.1}),
        ((), {"rate": 0.5}),
    ]
