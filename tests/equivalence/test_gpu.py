"""The same promise on GPUs; skipped where there is none."""

import functools
import subprocess
import sys

import numpy as np
import pytest

from tests import harness
from tests.equivalence.case import Outcome
from tests.equivalence.cases import CASES
from tests.equivalence.runs import run_on_gpus, run_references

_COUNT = "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')))"
_NAMES = (
    "uneven",
    "last_batch_of_one",
    "global_clipnorm",
    "accumulation_2",
    "synchronized_batch_norm",
    "batch_norm_last_of_one",
    "bfloat16",
    "float16_infinite_gradient",
    "metrics",
    "uneven_jit",
)


@functools.cache
def gpus() -> int:
    """How many GPUs there are; asked in a process of its own, so that none is occupied here."""
    found = subprocess.run(
        [sys.executable, "-c", _COUNT], capture_output=True, text=True, timeout=120
    )
    return int(found.stdout.split()[-1]) if found.returncode == 0 else 0


@pytest.fixture(scope="module", params=[1, 2], ids=["one_gpu", "mirrored_gpus"])
def on_gpus(request, tmp_path_factory):
    if gpus() < request.param:
        pytest.skip(f"needs {request.param} GPU(s), this machine shows {gpus()}")
    folder = tmp_path_factory.mktemp("gpus")
    environment = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(request.param)))}
    harness.call(
        run_on_gpus, folder, str(folder), request.param, _NAMES, timeout=900, **environment
    )
    return folder, request.param


@pytest.mark.slow
@pytest.mark.parametrize("name", _NAMES)
def test_gpus_end_with_the_weights_of_a_plain_loop_on_a_cpu(on_gpus, tmp_path, name):
    folder, replicas = on_gpus
    parts = replicas if CASES[name].parts else 1
    harness.call(run_references, tmp_path, str(tmp_path), [[name, parts]], timeout=120)
    (reference,) = tmp_path.glob(f"*-{parts}.json")
    expected = Outcome.load(reference.with_suffix(""))

    got = Outcome.load(folder / name)

    # TensorFloat-32 is off in these runs; what is left is the order of sums in cuDNN and cuBLAS.
    allowed = max(CASES[name].weights, 1e-4)
    for mine, plain in zip(got.weights, expected.weights, strict=True):
        assert np.max(np.abs(mine - plain), initial=0) <= allowed
    assert got.copies == 0
