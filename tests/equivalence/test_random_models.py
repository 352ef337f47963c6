"""Random small models train as a loop written by hand does, or are refused by name.

Each description (random_models.py) is trained by train_distributed on one device or mirrored, with
or without accumulation, and by a loop that knows no tfbig and takes each global batch whole
(random_runs.py). Weights, losses and metrics must agree. The number of models and the first seed
are settable, for a longer search:

    TFBIG_RANDOM_MODELS=500 TFBIG_RANDOM_SEED=7 pytest tests/equivalence/test_random_models.py

A failure shows the simplest model that was found, as JSON. Write it into random_found.json, and it
is checked first in each run.
"""

import json
import os
import pathlib

import pytest

from tests.equivalence import random_runs

MODELS = int(os.environ.get("TFBIG_RANDOM_MODELS", "12"))
SEED = int(os.environ.get("TFBIG_RANDOM_SEED", "1"))
FOUND = json.loads(pathlib.Path(__file__).with_name("random_found.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 3])
def test_random_models_train_as_a_loop_written_by_hand_does(in_process, replicas):
    fitting = {2: (1, 2), 3: (3,)}[replicas]
    found = [d for d in FOUND if d["run"]["replicas"] in fitting]
    examples = max(MODELS // 2, 1)

    result = in_process(
        random_runs.search, replicas, examples, SEED, found, timeout=300 + 30 * examples
    )

    assert not result["failure"], result["failure"]
    assert result["tried"] >= (len(found) + examples) // 2
