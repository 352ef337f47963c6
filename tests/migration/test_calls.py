"""Calls whose arguments change, input_fns that return an iterator, placeholders, tf.contrib."""

import textwrap

import pytest

from tests.migration.test_migrate import migrated


def lines(code: str) -> str:
    """The code after migrating, without the imports, which must be all that is left to change."""
    found = migrated(f"import tensorflow as tf\n{textwrap.dedent(code)}")
    assert found.by_hand == []
    return found.text.split("import tensorflow as tf\n")[1]


def advice(code: str) -> str:
    (found,) = migrated(f"import tensorflow as tf\n{textwrap.dedent(code)}").by_hand
    return found.instead


DATASET = [
    "return d.make_one_shot_iterator().get_next()",
    "i = d.make_one_shot_iterator()\nreturn i.get_next()",
    "i = d.make_one_shot_iterator()\nx, y = i.get_next()\nreturn x, y",
    "i = d.make_one_shot_iterator()\nx, y = i.get_next()\nreturn (x, y)",
    "x = d.make_one_shot_iterator().get_next()\nreturn x",
    "return tf.data.make_one_shot_iterator(d).get_next()",
    "i = tf.compat.v1.data.make_one_shot_iterator(d)\nx = i.get_next()\nreturn x",
]


@pytest.mark.parametrize("body", DATASET)
def test_an_input_fn_returns_the_dataset_instead_of_its_next_element(body):
    code = f"def f(d):\n    d = d.batch(3)\n{textwrap.indent(body, '    ')}\n"
    assert lines(code) == "def f(d):\n    d = d.batch(3)\n    return d\n"


def test_a_dataset_of_several_lines_keeps_its_layout_and_the_comments_stay():
    code = """
        def f(name):
            i = (tf.data.TextLineDataset(name)
                 .map(tf.string_to_number)  # floats
                 .make_one_shot_iterator())
            # One batch.
            x = i.get_next()
            return x
        """
    assert lines(code).strip() == (
        "def f(name):\n    return (tf.data.TextLineDataset(name)\n"
        "         .map(tf.compat.v1.string_to_number)  # floats\n         )\n    # One batch."
    )


@pytest.mark.parametrize(
    "body",
    [
        "i = d.make_one_shot_iterator()\nx = i.get_next()\nreturn x + 1",
        "i = d.make_one_shot_iterator()\nx = i.get_next()  # why\nreturn x",
        "i = d.make_one_shot_iterator()\nx, y = i.get_next()\nreturn y, x",
        "i = d.make_one_shot_iterator()\nprint(i)\nreturn i.get_next()",
        "i = d.make_initializable_iterator()\nreturn i.get_next()",
    ],
)
def test_what_does_more_with_the_elements_is_named(body):
    code = f"def f(d):\n{textwrap.indent(body, '    ')}\n"
    assert "what changes its elements becomes a function for Dataset.map" in advice(code)
    assert migrated(code).text == code


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        ("'/tmp/x'", "model_dir='/tmp/x'"),
        ("d, 1, save_summary_steps=5", "model_dir=d, tf_random_seed=1, save_summary_steps=5"),
        ("session_config=tf.ConfigProto(gpu_options=o), model_dir=d", "model_dir=d"),
        ("d, keep_checkpoint_every_n_hours=2, session_config=s", "model_dir=d"),
        ("model_dir=d, session_config=s,", "model_dir=d,"),
        ("session_config=s", ""),
        ("session_config=s,", ""),
        ("train_distribute=None, model_dir=d", "model_dir=d"),
    ],
)
def test_a_run_config_loses_the_fields_without_effect_and_names_the_others(arguments, new):
    assert lines(f"c = tf.estimator.RunConfig({arguments})") == f"c = tfbig.RunConfig({new})"


@pytest.mark.parametrize(
    "arguments",
    ["train_distribute=s", "session_config=f()", "session_config=s,  # why\n   model_dir=d"],
)
def test_a_field_with_an_effect_or_a_comment_is_named(arguments):
    assert advice(f"tf.estimator.RunConfig({arguments})").startswith("leave it out; use ")


def test_the_run_config_of_tpus_keeps_its_own_fields():
    code = "tf.contrib.tpu.RunConfig(cluster=r, master=m, tpu_config=t, session_config=s)"
    assert lines(code) == (
        "tfbig.compat.v1.estimator.tpu.RunConfig(cluster=r, master=m, tpu_config=t)"
    )


@pytest.mark.parametrize("where", ["tf.contrib.tpu", "tf.estimator.tpu"])
def test_a_tpu_estimator_that_would_need_a_tpu_is_named(where):
    new = "tfbig.compat.v1.estimator.tpu.TPUEstimator(f, use_tpu=FLAGS.use_tpu)"
    assert lines(f"{where}.TPUEstimator(f, use_tpu=FLAGS.use_tpu)") == new
    assert advice(f"{where}.TPUEstimator(f, use_tpu=True)").startswith("write use_tpu=False: ")
    assert advice(f"{where}.TPUEstimator(f)").startswith("its use_tpu is True; write use_tpu=False")
    spec = f"{where}.TPUEstimatorSpec(m, eval_metrics=e, scaffold_fn=s, host_call=None)"
    assert "TPUEstimatorSpec(m, eval_metrics=e, scaffold_fn=s, host_call=None)" in lines(spec)
    assert "leave host_call out" in advice(f"{where}.TPUEstimatorSpec(m, host_call=(f, [x]))")


def test_a_placeholder_stays_one_in_a_serving_input_receiver_fn():
    code = """
        def serving():
            x = tf.placeholder(tf.float32, [None, 3])
            y = tf.placeholder_with_default([1.0], [None])
            return tf.estimator.export.ServingInputReceiver({"x": x, "y": y}, {"x": x})
        """
    assert lines(code) == textwrap.dedent(
        """
        def serving():
            x = tf.compat.v1.placeholder(tf.float32, [None, 3])
            y = tf.compat.v1.placeholder_with_default([1.0], [None])
            return tfbig.estimator.export.ServingInputReceiver({"x": x, "y": y}, {"x": x})
        """
    )
    one = "f = lambda: tf.estimator.export.TensorServingInputReceiver(tf.placeholder(t), x)"
    assert "(tf.compat.v1.placeholder(t), x)" in lines(one)
    outside = f"def main():\n    x = tf.placeholder(tf.float32)\n    {one}\n"
    assert "there is nothing to feed" in advice(outside)


def test_a_placeholder_is_a_tensor_spec_for_a_raw_receiver():
    code = "tf.estimator.export.build_raw_serving_input_receiver_fn({'x': tf.placeholder(%s)})"
    new = "tfbig.estimator.export.build_raw_serving_input_receiver_fn({'x': tf.TensorSpec(%s)})"
    given = "tf.float32, [None, 3], name='x'"
    assert lines(code % given) == new % "dtype=tf.float32, shape=[None, 3], name='x'"
    assert advice(code % "tf.float32") == "write tf.TensorSpec([None, …], dtype)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data.shuffle_and_repeat(9)", "tf.data.experimental.shuffle_and_repeat(9)"),
        ("data.parallel_interleave(f, 2)", "tf.data.experimental.parallel_interleave(f, 2)"),
        ("data.make_csv_dataset(p, 3)", "tf.data.experimental.make_csv_dataset(p, 3)"),
        ("data.TextLineDataset(p)", "tf.data.TextLineDataset(p)"),
        (
            "cluster_resolver.TPUClusterResolver(n, zone=z)",
            "tf.distribute.cluster_resolver.TPUClusterResolver(n, zone=z)",
        ),
        (
            "estimator.stop_if_no_increase_hook(e, 'acc', 9)",
            "tfbig.estimator.stop_if_no_increase_hook(e, 'acc', 9)",
        ),
        (
            "estimator.InMemoryEvaluatorHook(e, f)",
            "tfbig.estimator.experimental.InMemoryEvaluatorHook(e, f)",
        ),
        ("estimator.DNNEstimator(h, [3])", "tfbig.compat.v1.estimator.DNNEstimator(h, [3])"),
        ("estimator.multi_class_head(3, 'w')", "tfbig.estimator.MultiClassHead(3, 'w')"),
        (
            "estimator.regression_head('w', 2)",
            "tfbig.estimator.RegressionHead(weight_column='w', label_dimension=2)",
        ),
        (
            "framework.get_or_create_global_step()",
            "tf.compat.v1.train.get_or_create_global_step()",
        ),
        ("framework.nest.flatten(x)", "tf.nest.flatten(x)"),
        (
            "metrics.streaming_accuracy(p, l, name='a')",
            "tf.compat.v1.metrics.accuracy(predictions=p, labels=l, name='a')",
        ),
        ("metrics.streaming_mean(v)", "tf.compat.v1.metrics.mean(v)"),
        ("lookup.HashTable(i, -1)", "tf.lookup.StaticHashTable(i, -1)"),
        ("layers.layer_norm(x)", "tfbig.compat.v1.contrib.layers.layer_norm(x)"),
        ("layers.flatten(x)", "tfbig.compat.v1.layers.flatten(inputs=x)"),
        ("layers.xavier_initializer()", "tf.compat.v1.glorot_uniform_initializer()"),
        ("layers.xavier_initializer(seed=1)", "tf.compat.v1.glorot_uniform_initializer(seed=1)"),
        ("layers.l2_regularizer(1e-4)", "tf.keras.regularizers.L2(l2=0.5 * 1e-4)"),
        ("layers.l2_regularizer(scale=a + b)", "tf.keras.regularizers.L2(l2=0.5 * (a + b))"),
        ("layers.l1_regularizer(scale=f(2))", "tf.keras.regularizers.L1(l1=f(2))"),
    ],
)
def test_a_function_of_contrib_is_elsewhere(old, new):
    assert lines(f"x = tf.contrib.{old}") == f"x = {new}"


@pytest.mark.parametrize(
    ("old", "instead"),
    [
        ("layers.xavier_initializer(False)", "write tf.compat.v1.glorot_normal_initializer()"),
        ("layers.l2_regularizer(*a)", "write tf.keras.regularizers.L2(scale / 2)"),
        ("metrics.streaming_accuracy", "write tf.compat.v1.metrics.accuracy, and pass its arg"),
        ("estimator.forward_features(e)", "leave it out: predict keeps the order"),
    ],
)
def test_a_call_that_does_not_fit_is_named(old, instead):
    assert advice(f"x = tf.contrib.{old}").startswith(instead)


def test_a_module_of_contrib_under_another_name_is_followed():
    found = migrated(
        "import tensorflow as tf\nfrom tensorflow.contrib import tpu as t, layers as l\n"
        "t.TPUEstimator(f, use_tpu=u)\nl.xavier_initializer()\nl.layer_norm(x)\nl.conv2d(x)\n"
    )
    assert found.text.splitlines()[-4:] == [
        "t.TPUEstimator(f, use_tpu=u)",
        "tf.compat.v1.glorot_uniform_initializer()",
        "tfbig.compat.v1.contrib.layers.layer_norm(x)",
        "l.conv2d(x)",
    ]
    assert "from tfbig.compat.v1.estimator import tpu as t" in found.text
    assert [f.what for f in found.by_hand] == [
        "from tensorflow.contrib import layers", "l.conv2d",
    ]  # fmt: skip
