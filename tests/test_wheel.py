"""What is in the wheel: it is built, installed without a clone around it, and trains."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import tfbig

ROOT = pathlib.Path(tfbig.__file__).parents[1]
FILES = ("setup.py", "setup.cfg", "MANIFEST.in", "README.md", "LICENSE")


def run(*words, cwd, **environment):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "clone"
    copy.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for name in ("tfbig", "configs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignore)
    pip = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", str(folder), str(copy), cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_says_where_the_project_lives_and_what_it_runs_on(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    assert {"tfbig/py.typed", "tfbig/configs/digits_mlp.py"} <= set(names)
    assert not any(name.startswith(("tests/", "configs/", "build/")) for name in names)
    assert [line for line in lines if line.startswith("Project-URL: Source, https://")]
    for version in ("3.11", "3.12", "3.13"):
        assert f"Classifier: Programming Language :: Python :: {version}" in lines
    assert "Classifier: Typing :: Typed" in lines


@pytest.mark.slow
def test_an_installed_wheel_trains_by_the_name_of_a_config(wheel, tmp_path):
    target = tmp_path / "site"
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target))
    run(*install, str(wheel), cwd=tmp_path)
    code = "import tfbig; print(tfbig.__file__)"
    assert run("-c", code, cwd=tmp_path, PYTHONPATH=str(target)).startswith(str(target))
    words = ("-m", "tfbig", "train", "--config=digits_mlp", "--max_steps=200")
    assert "accuracy" in run(*words, "--model_dir=run", cwd=tmp_path, PYTHONPATH=str(target))
