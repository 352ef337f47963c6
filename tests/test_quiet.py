"""Starting TensorFlow is quiet, and hides nothing but known chatter."""

import subprocess
import sys

import pytest

RUN = """
import tfbig
import keras
import numpy as np

def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model

x = np.zeros([8, 4], np.float32)
tfbig.train_distributed(
    build, lambda: tfbig.data.ArraySource((x, x[:, :2])).batch(4), max_steps=3,
    strategy="mirrored", devices=2, model_dir={model_dir!r},
)
"""


def stderr_of(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_run_on_two_replicas_writes_nothing_to_standard_error(tmp_path):
    """Nor does one on one device: that is the README's."""
    assert stderr_of(RUN.format(model_dir=str(tmp_path))) == ""


def test_what_is_not_known_chatter_is_shown_after_the_import():
    code = (
        "import os\n"
        "from tfbig import _quiet\n"
        "with _quiet._filtered_stderr():\n"
        "    os.write(2, b'I0000 00:00 1 port.cc:153] oneDNN custom operations are on.\\n')\n"
        "    os.write(2, b'W0000 something is wrong\\n')\n"
    )
    assert stderr_of(code) == "W0000 something is wrong\n"


@pytest.mark.slow
def test_warnings_are_shown_but_not_the_settings_that_a_chief_logs_as_it_connects():
    code = (
        "import tfbig, tensorflow as tf\n"
        "tf.get_logger().warning('a warning')\n"
        "from absl import logging\n"
        "logging.use_absl_handler()\n"
        "logging.set_verbosity(logging.INFO)\n"
        "logging.info('default session config: %s', 'a\\nb')\n"
        "logging.info('look here')\n"
    )
    written = stderr_of(code)
    assert "default session config" not in written
    assert "] look here" in written
    assert "a warning" in written


def test_a_failing_import_raises_its_own_error():
    code = (
        "import sys, tfbig\n"
        "sys.path[:] = []\n"
        "try:\n"
        "    import tensorflow\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error, file=sys.stderr)\n"
    )
    assert stderr_of(code) == "No module named 'tensorflow'\n"
