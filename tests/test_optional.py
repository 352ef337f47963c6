"""Optional packages: an error names the extra, and training on arrays needs none of them."""

import configparser
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import tfbig
from tfbig import _optional, data
from tfbig.cli import main as cli
from tfbig.data import cleaning, splitting
from tfbig.errors import UserError
from tfbig.finetuning import load_model

ROOT = pathlib.Path(tfbig.__file__).parents[1]
COLUMNS = {"age": np.array([1.0, 2.0, np.nan], np.float32)}


def read_csv(folder):
    (folder / "a.csv").write_text("a,b\n1,2\n")
    data.CsvSource(folder / "a.csv")


def read_parquet(folder):
    (folder / "a.parquet").write_bytes(b"PAR1")
    data.ParquetSource(folder / "a.parquet")


def read_array_record(folder):
    (folder / "a.array_record").write_bytes(b"x" * 100)
    data.ArrayRecordSource(folder / "a.array_record")


def read_images(folder):
    (folder / "cat").mkdir()
    (folder / "cat" / "a.png").write_bytes(b"x")
    data.ImageFolderSource(folder, image_size=(8, 8)).read(np.array([0]))


def read_tokens(folder):
    (folder / "a.txt").write_text("a text")
    data.TextFolderSource(folder, sequence_length=1, tokenizer=folder / "tokenizer.json")


def clean(folder):
    steps = [cleaning.DropDuplicates()]
    cleaning.Cleaning(steps).fit(data.ArraySource((COLUMNS, np.array([0, 1, 0]))))


@pytest.mark.parametrize(
    ("package", "use", "extra"),
    [
        ("pyarrow", read_csv, "data"),
        ("pyarrow", read_parquet, "data"),
        ("array_record", read_array_record, "data"),
        ("PIL", read_images, "data"),
        ("fsspec", lambda folder: data.CsvSource("memory://a.csv"), "data"),
        ("pandas", clean, "data"),
        ("pandas", lambda folder: splitting.by_time(["2020-01-01", "2021-01-01"]), "data"),
        ("tokenizers", read_tokens, "text"),
        (
            "matplotlib",
            lambda folder: tfbig.evaluate(folder / "m.keras", lambda: None, model_dir=folder),
            "eval",
        ),
        ("keras_hub", lambda folder: load_model("hub:bert_tiny_en_uncased"), "hub"),
    ],
)
def test_without_a_package_the_error_names_the_extra_that_has_it(
    package, use, extra, tmp_path, monkeypatch
):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    name = "pillow" if package == "PIL" else package
    with pytest.raises(UserError, match=rf"the package {name}, .*; write pip install 'tfbig\["):
        use(tmp_path)
    assert _optional.install(package) == f"pip install 'tfbig[{extra}]'"


def test_without_libcst_migrate_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    for name in [n for n in sys.modules if n.startswith(("libcst", "tfbig.migration"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "libcst", None)
    assert cli.main(["tfbig", "migrate", str(tmp_path / "a.py")]) == 1
    assert capsys.readouterr().err == (
        "error: tfbig migrate needs the package libcst, which is not installed; write pip install "
        "'tfbig[migrate]'.\n"
    )


def test_each_package_is_in_the_extra_that_its_error_names():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    owners = importlib.metadata.packages_distributions()
    for package, extra in _optional.EXTRAS.items():
        project = (owners.get(package) or [package])[0]
        for name in (extra, "all"):
            listed = [p.replace("_", "-") for p in re.findall(r"^[\w-]+", extras[name], re.M)]
            assert project.replace("_", "-") in listed, (package, name)


@pytest.mark.slow
def test_training_on_arrays_needs_no_optional_package(tmp_path):
    # scikit-learn, which is no optional package, brings scipy.
    blocked = sorted(set(_optional.EXTRAS) - {"scipy"})
    code = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
import keras, numpy as np, tfbig

def model_fn():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model

arrays = np.ones([8, 4], np.float32), np.zeros([8], np.int64)
input_fn = lambda: tfbig.data.ArraySource(arrays).batch(4)
result = tfbig.train_distributed(
    model_fn, input_fn, eval_input_fn=input_fn, model_dir={str(tmp_path)!r}, max_steps=3)
assert tfbig.evaluate(result.model, input_fn)["loss"] > 0
print(result.global_step)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "3"
