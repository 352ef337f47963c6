"""The package: cheap to import, and every public name is there or says that it is not built."""

import re
import subprocess
import sys

import pytest

import tfbig

API = """
    train_distributed fine_tune evaluate predict cross_validate export TrainResult RunConfig Recipe
    Estimator EstimatorSpec ModeKeys TrainSpec EvalSpec train_and_evaluate LatestExporter
    FinalExporter BestExporter WarmStartSettings stop_if_higher_hook stop_if_lower_hook
    stop_if_no_decrease_hook stop_if_no_increase_hook callbacks compat data datasets errors
    estimator layers models
""".split()
HEAVY = ("tensorflow", "keras", "tensorflow_datasets", "sklearn", "numpy", "rich", "absl")


def python(code):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_importing_tfbig_imports_nothing_heavy():
    assert python(f"import sys, tfbig; print(*[m for m in {HEAVY} if m in sys.modules])") == []


def test_training_and_data_load_neither_tfds_nor_scikit_learns_data():
    code = (
        "import sys, tfbig; tfbig.train_distributed; tfbig.data; tfbig.datasets.digits; "
        "tfbig.datasets.text; tfbig.models.mlp; "
        "print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules, "
        "'sklearn.datasets' in sys.modules)"  # Keras itself imports sklearn
    )
    assert python(code) == ["True", "False", "False"]


@pytest.mark.parametrize("name", API)
def test_a_public_name_is_found_and_listed(name):
    assert getattr(tfbig, name) is getattr(tfbig, name)
    assert name in dir(tfbig)
    assert name in tfbig.__all__


def test_the_public_functions_and_classes_have_a_docstring_with_an_example():
    for name in API[: API.index("callbacks")]:
        value = getattr(tfbig, name)
        assert value.__name__ == name
        assert value.__doc__, name
        assert len(value.__doc__.splitlines()[0]) > 20, name
    assert "Example" in tfbig.train_distributed.__doc__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(tfbig, "train_distribted")


def test_the_estimator_name_of_training_is_the_same_function():
    assert tfbig.estimator.train is tfbig.train_distributed


def test_there_is_a_version_and_the_installed_one_is_the_same():
    assert re.fullmatch(r"\d+\.\d+\.\d+", tfbig.__version__)
    from importlib import metadata

    assert metadata.version("tfbig") == tfbig.__version__
