"""Scripts of TF1 and tf.estimator, migrated: what changes, what is said, and what stays."""

import ast
import io
import pathlib
import stat
import tokenize

import pytest
import tensorflow as tf
from hypothesis import given, settings, strategies as st

import tfbig
from tests.compat.test_names import NAMES as NAMES_OF_2_15
from tfbig.cli.migrate import main
from tfbig.errors import UserError
from tfbig.migration.migrate import migrate
from tfbig.migration.source import SourceFile

SCRIPTS = pathlib.Path(__file__).parent / "scripts"
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.old"))


def migrated(text: str, path="train.py"):
    return migrate(SourceFile(path, text.encode()))


def comments(text: str) -> list[str]:
    words = tokenize.generate_tokens(io.StringIO(text).readline)
    return [t.string for t in words if t.type == tokenize.COMMENT]


@pytest.mark.parametrize("name", NAMES)
def test_a_script_becomes_the_one_beside_it_and_the_report_says_how(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    old = (SCRIPTS / f"{name}.old").read_bytes()
    (tmp_path / "train.py").write_bytes(old)
    code = main(["tfbig", "migrate", "train.py"])
    assert (tmp_path / "train.py").read_bytes() == old
    report = capsys.readouterr().out
    assert report == (SCRIPTS / f"{name}.report").read_text()
    assert code == 3
    left = main(["tfbig", "migrate", "--write", "train.py"])
    assert left == (3 if "by hand:" in report else 0)
    assert (tmp_path / "train.py").read_text() == (SCRIPTS / f"{name}.new").read_text()
    assert list(tmp_path.iterdir()) == [tmp_path / "train.py"]


@pytest.mark.parametrize("name", NAMES)
def test_migrating_twice_changes_nothing_and_comments_survive(name):
    old = (SCRIPTS / f"{name}.old").read_text()
    once = migrated(old)
    twice = migrated(once.text)
    assert (twice.text, twice.mechanical) == (once.text, [])
    assert [f.instead for f in twice.by_hand] == [f.instead for f in once.by_hand]
    ast.parse(once.text)
    assert comments(once.text) == comments(old)


@pytest.mark.parametrize("name", NAMES)
def test_lines_that_are_not_named_stay_as_they_are(name):
    old = (SCRIPTS / f"{name}.old").read_text()
    found = migrated(old)
    changed = [e.span for f in found.mechanical for e in f.edits]
    places = [place for span in changed for place in (span.start, max(span.start, span.end - 1))]
    named = {f.line for f in found.mechanical} | {old.count("\n", 0, p) + 1 for p in places}
    kept = [line for n, line in enumerate(old.splitlines(), 1) if n not in named]
    new = iter(found.text.splitlines())
    assert len(kept) > 10
    assert all(line in new for line in kept)  # in their order


LINES = [
    "import tensorflow as tf",
    "import tensorflow.compat.v1 as tf",
    "import tensorflow",
    "from tensorflow import estimator",
    "from tensorflow import losses, keras",
    "from tensorflow.estimator import ModeKeys as M",
    "from absl import flags",
    "import tfbig",
    "tf.disable_v2_behavior()",
    "x = tf.layers.dense(x, 3)",
    "x = tensorflow.get_variable('w', [2])",
    "M.TRAIN; estimator.ModeKeys.EVAL",
    "y = losses.softmax_cross_entropy(x, x)",
    "tf.app.run()",
    "c = tf.estimator.RunConfig('/tmp/x', 1, session_config=tf.ConfigProto())",
    "tf.contrib.layers.l2_regularizer(a + b)",
    "def f(d):\n    i = d.make_one_shot_iterator()\n    x = i.get_next()\n    return x",
    "def f():\n    return tf.estimator.export.ServingInputReceiver(tf.placeholder(t), x)",
    "def main(tf): return tf.layers.dense(2)",
    "def f(d):\n    return d.make_one_shot_iterator().get_next()",
    "if x:\n    tf.enable_eager_execution()",
    "class Hook(tf.train.SessionRunHook):\n    def f(self, c): c.session",
    "s = f'{tf.estimator.RunConfig()} {tf.Session}' + \"é\"",
    "n = tf.train.get_global_step() + x.shape[1].value",
    "flags = tf.flags",
    "try:\n    import tensorflow.compat.v1 as tf\nexcept ImportError:\n    import tensorflow as tf",
]


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(["", "  # why é", "\n# next"]))),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_any_script_is_migrated_once_and_for_all(lines, newline, ends):
    old = "\n".join(line + comment for line, comment in lines) + "\n" * ends
    old = old.replace("\n", newline)
    once = migrated(old)
    twice = migrated(once.text)
    assert twice.text == once.text
    assert not twice.mechanical
    ast.parse(once.text)
    assert sorted(comments(once.text)) == sorted(comments(old))
    assert once.text.count("\n") == once.text.count(newline)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("import tensorflow as tf\ntf.get_variable", "tf.compat.v1.get_variable"),
        ("import tensorflow\ntensorflow.get_variable", "tensorflow.compat.v1.get_variable"),
        ("import tensorflow as t\nt.estimator.SessionRunHook", "t.compat.v1.train.SessionRunHook"),
        (
            "import tensorflow.compat.v1 as tf\ntf.estimator.SessionRunHook",
            "tf.train.SessionRunHook",
        ),
        ("import tensorflow.compat.v1 as tf\ntf.get_variable", "tf.get_variable"),
        ("import tensorflow as tf\ntf.compat.v1.layers.dense", "tfbig.compat.v1.layers.dense"),
        ("import tensorflow as tf\ntf.estimator.StopAtStepHook", "tfbig.estimator.StopAtStepHook"),
        ("import tensorflow as tf\ntf.layers", "tfbig.compat.v1.layers"),
        ("import tensorflow as tf\ntf.estimator.tpu", "tfbig.compat.v1.estimator.tpu"),
        (
            "import tensorflow as tf\ntf.estimator.experimental.stop_if_no_decrease_hook",
            "tfbig.estimator.stop_if_no_decrease_hook",
        ),
        (
            "import tensorflow as tf\ntf.estimator.experimental.InMemoryEvaluatorHook",
            "tfbig.estimator.experimental.InMemoryEvaluatorHook",
        ),
        ("import tensorflow as tf\ntf.estimator.MultiHead", "tfbig.estimator.MultiHead"),
        ("import tensorflow as tf\ntf.estimator.add_metrics", "tfbig.estimator.add_metrics"),
        ("import tensorflow as tf\ntf.app.run(main)", "tf.compat.v1.app.run(main)"),
        ("import tensorflow as tf\ntf.app.flags.FLAGS", "absl.flags.FLAGS"),
        # Losses of the canned estimators are sums in TF1, and means in TF2.
        ("import tensorflow as tf\ntf.estimator.DNNClassifier", "tfbig.estimator.DNNClassifier"),
        (
            "import tensorflow as tf\ntf.compat.v1.estimator.DNNClassifier",
            "tfbig.compat.v1.estimator.DNNClassifier",
        ),
        (
            "import tensorflow as tf; tf.to_int32\ntf.estimator.LinearRegressor",
            "tfbig.compat.v1.estimator.LinearRegressor",
        ),
        (
            "import tensorflow as tf\nx = d.make_one_shot_iterator; tf.estimator.BaselineEstimator",
            "x = d.make_one_shot_iterator; tfbig.compat.v1.estimator.BaselineEstimator",
        ),
        ("import tensorflow as tf\ntf.argmax(x, 1)", "tf.argmax(x, 1)"),
        # These mean another thing today, which is TF1's only where the file is of TF1.
        ("import tensorflow as tf\ntf.nn.dropout(x, 0.5)", "tf.nn.dropout(x, 0.5)"),
        (
            "import tensorflow as tf; tf.to_int32\ntf.nn.dropout(x, 0.5)",
            "tf.compat.v1.nn.dropout(x, 0.5)",
        ),
        (
            "import tensorflow as tf; tf.to_int32\ntf.nn.in_top_k(a, b, 5)",
            "tf.compat.v1.nn.in_top_k(a, b, 5)",
        ),
        ("import tensorflow as tf; tf.to_int32\ntf.where(a, b, c)", "tf.compat.v1.where(a, b, c)"),
        ("import tensorflow as tf; tf.to_int32\ntf.where(a)", "tf.where(a)"),
        (
            "import tensorflow as tf; tf.to_int32\ntf.random_normal_initializer()",
            "tf.compat.v1.random_normal_initializer()",
        ),
        (
            "import tensorflow as tf; tf.to_int32\ntf.random_normal_initializer(0.0, 0.1)",
            "tf.random_normal_initializer(0.0, 0.1)",
        ),
        (
            "import tensorflow as tf; tf.to_int32\ntf.losses.mean_squared_error(a, b)",
            "tf.compat.v1.losses.mean_squared_error(a, b)",
        ),
        ("import tensorflow as tf; tf.to_int32\ntf.reduce_sum(x, 1)", "tf.reduce_sum(x, 1)"),
        ("import tensorflow as tf\nx.get_shape()[1].value", "x.get_shape()[1]"),
        ("import tensorflow as tf\ntf = 3; tf.layers.dense", "tf = 3; tf.layers.dense"),
        ("import other as tf\ntf.layers.dense", "tf.layers.dense"),
        ("import tensorflow as tf\nself.tf.layers.dense", "self.tf.layers.dense"),
        ("from tensorflow import layers\nlayers.dense", "layers.dense"),
    ],
)
def test_a_name_becomes_another_one(old, new):
    assert migrated(old).text.splitlines()[-1] == new


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("from tensorflow import estimator as e", "from tfbig import estimator as e"),
        (
            "from tensorflow.compat.v1 import estimator as e",
            "from tfbig.compat.v1 import estimator as e",
        ),
        ("from tensorflow import flags", "from absl import flags"),
        ("from tensorflow.app import run", "from tensorflow.compat.v1.app import run"),
        ("from tensorflow.estimator import Head", "from tfbig.estimator import Head"),
        (
            "from tensorflow.contrib import tpu as contrib_tpu",
            "from tfbig.compat.v1.estimator import tpu as contrib_tpu",
        ),
        (
            "from tensorflow.contrib.data import map_and_batch as m",
            "from tensorflow.data.experimental import map_and_batch as m",
        ),
        ("from tensorflow.app import flags", "from absl import flags"),
        ("from tensorflow import get_variable", "from tensorflow.compat.v1 import get_variable"),
        ("from tensorflow import nn", "from tensorflow import nn"),
        ("import tensorflow.estimator as e", "import tfbig.estimator as e"),
        ("from .tensorflow import estimator", "from .tensorflow import estimator"),
        ("from tensorflow.train import Saver as S", "from tensorflow.train import Saver as S"),
    ],
)  # fmt: skip
def test_an_import_becomes_another_one(line, instead):
    assert migrated(line).text == instead


def test_an_import_that_changes_gets_another_one_before_it():
    old = "from tensorflow import estimator, keras\nimport tensorflow as tf\ntf.layers.dense\n"
    assert migrated(old).text == (
        "import tfbig\nfrom tfbig.compat.v1 import estimator\nfrom tensorflow import keras\n"
        "import tensorflow as tf\ntfbig.compat.v1.layers.dense\n"
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("tf.Session()", "there are no sessions"),
        ("tf.placeholder(tf.float32)", "there is nothing to feed"),
        ("tf.train.shuffle_batch(x)", "there are no queues"),
        ("tf.contrib.anything", "tf.contrib was removed"),
        ("tf.fixed_size_partitioner(3)", "leave partitioners out"),
        ("tf.get_variable('w', [2], partitioner=p)", "leave partitioners out"),
        ("tf.estimator.BoostedTreesClassifier(c)", "use sklearn.ensemble.HistGradientBoosting"),
        ("tf.contrib.estimator.RNNClassifier(c)", "write a model_fn with keras.layers.LSTM"),
        ("tf.contrib.tpu.rewrite(f)", "leave it out: TPUEstimator runs on the CPU or GPU"),
        ("tf.contrib.distribute.MirroredStrategy()", "leave it out, and pass strategy="),
        ("tf.nn.rnn_cell.LSTMCell(3)", r"write keras.layers.LSTMCell\(units\)"),
        ("tf.nn.dynamic_rnn(c, x)", r"write keras.layers.RNN\(cell"),
        ("iterator = d.make_initializable_iterator()", "return the Dataset itself"),
        ("tf.layers.Dense(3)", "write the function tfbig.compat.v1.layers.dense"),
        (
            "tf.estimator.RunConfig(train_distribute=s)",
            r"leave it out; use tfbig.Estimator\(…, strategy=",
        ),
        ("tf.no_such_name", "TensorFlow 2.21 has no no_such_name, neither in tf nor in tf.compat"),
        ("if x:\n    tf.disable_v2_behavior()", "leave it out: tfbig needs TensorFlow 2's"),
    ],
)
def test_what_cannot_work_is_named_with_what_to_use(code, advice):
    found = migrated(f"import tensorflow as tf\n{code}\n").by_hand
    assert len(found) == 1
    with pytest.raises(UserError, match=advice):
        raise UserError(found[0].instead)


def test_the_place_is_that_of_the_code():
    (found,) = migrated("import tensorflow as tf\n\nif x:\n    y = tf.Session()\n").by_hand
    assert (found.line, found.column, found.what) == (4, 9, "tf.Session")


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ('"""Doc."""\nimport os\n\n# TF.\n', "import tensorflow as tf\nimport sys\nx = "),
        ("", "try:\n    import tensorflow as tf\nexcept ImportError:\n    raise\nx = "),
        ("", "from tensorflow import keras  # so\nimport tensorflow as tf; x = "),
        ("x = 1\n", "y = 2; import tensorflow as tf; x = "),
        ('"""Doc."""\nimport os\n', "def f():\n    import tensorflow as tf\n    return "),
        ("", "def f():\n    import tensorflow as tf\n    return "),
    ],
)
def test_the_import_comes_before_that_of_tensorflow_which_it_quiets(head, tail):
    assert migrated(f"{head}{tail}tf.estimator.ModeKeys").text == (
        f"{head}import tfbig\n{tail}tfbig.ModeKeys"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"print 'x'\n", "train.py:1:1: is Python 2 .*convert it to Python 3 first"),
        (b"try:\n  f()\nexcept E, e:\n  pass\n", "train.py:3:8: is Python 2"),
        (b"x = 1\ndef f(:\n", "train.py:2:7: is not Python: invalid syntax"),
        (b"x = '\0'\n", "train.py.*is not Python"),
        (b"\xff\xfe\n", "train.py:.*is not Python"),
    ],
)
def test_what_is_no_python_3_is_an_error_with_its_place(data, message):
    with pytest.raises(UserError, match=message):
        SourceFile("train.py", data)


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffimport tensorflow as tf\r\nx = tf.estimator.ModeKeys  # é\r\n".encode(),
        "# coding: latin-1\nimport tensorflow as tf\nx = 'é', tf.to_int32\n".encode("latin1"),
    ],
)  # fmt: skip
def test_encoding_marks_and_permissions_stay(data, tmp_path):
    path = tmp_path / "train.py"
    path.write_bytes(data)
    path.chmod(0o750)
    link = tmp_path / "link.py"
    link.symlink_to(path)
    source = SourceFile.read(str(link))
    source.write(migrate(source).text)
    changed = path.read_bytes()
    assert changed != data
    assert link.is_symlink()
    back = changed.replace(b"import tfbig\r\n", b"").replace(b"tfbig.", b"tf.estimator.")
    assert back.replace(b"compat.v1.", b"") == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o750


def test_what_replaces_tf_estimator_exists():
    old = "import tensorflow as tf\n" + "".join(f"tf.estimator.{name}\n" for name in NAMES_OF_2_15)
    found = migrated(old)
    places = {"tfbig": tfbig, "tf": tf}
    for finding in found.mechanical[1:]:
        code = found.text.splitlines()[finding.line]  # one line down, after the import
        assert not code.startswith("tf.estimator")
        assert eval(code, places) is not None
    assert len(found.mechanical) > 40
    assert len(found.mechanical) - 1 + len(found.by_hand) == len(NAMES_OF_2_15)
