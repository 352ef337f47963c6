"""Recomputing blocks takes less memory, with and without XLA, also in a resumed run."""

import pathlib
import re

import numpy as np
import pytest

from tests import harness


def train(config: dict, *, layers=6, width=64, length=128, batch=16, steps=2, **keywords):
    """Trains the language model on noise."""
    import tfbig

    shape = [2 * batch, length + 1]
    tokens = np.random.RandomState(0).randint(0, 256, shape).astype("int32")
    sizes = {"layers": layers, "width": width, "sequence_length": length, "dropout": 0.1}
    return tfbig.train_distributed(
        lambda: tfbig.models.transformer_lm.build(sizes),
        lambda: tfbig.data.ArraySource((tokens[:, :-1], tokens[:, 1:])).batch(batch),
        max_steps=steps,
        config=tfbig.RunConfig(tf_random_seed=1, **config),
        **keywords,
    )


def train_compiled(remat: bool) -> None:
    train({"remat": remat, "jit_compile": True}, layers=4)


def bytes_under_xla(remat: bool, folder: pathlib.Path) -> int:
    """What XLA itself plans for the loop: no measurement."""
    folder.mkdir()
    flags = f"--xla_dump_to={folder / 'dump'}"
    harness.call(train_compiled, folder, remat, timeout=300, XLA_FLAGS=flags)
    reports = (folder / "dump").glob("*memory-usage-report.txt")
    found = [re.match(r"Total bytes used: (\d+)", report.read_text()) for report in reports]
    return max(int(match[1]) for match in found)


@pytest.mark.slow
def test_a_compiled_step_needs_half_the_memory_at_most(tmp_path):
    with_remat, without = (bytes_under_xla(remat, tmp_path / str(remat)) for remat in (True, False))
    assert with_remat < without / 2


def peaks_as_a_graph() -> list[float]:
    """The process's peak in MB after a run that recomputes, and after one that does not."""
    found = []
    for remat in (True, False):
        train({"remat": remat, "jit_compile": False}, length=256)
        # Not getrusage's, which begins with the peak of the process that has started this one.
        status = pathlib.Path("/proc/self/status").read_text()
        found.append(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)
    return found


@pytest.mark.slow
def test_a_step_as_a_graph_needs_less_memory(in_process):
    with_remat, without = in_process(peaks_as_a_graph, timeout=300)
    assert without - with_remat > 150


def weights(model_dir: str | None, steps: int) -> list:
    result = train(
        {"remat": True, "jit_compile": False, "save_checkpoints_steps": 2},
        layers=1, width=8, length=8, batch=4, steps=steps, model_dir=model_dir,
    )  # fmt: skip
    return [v.numpy() for v in result.model.variables]


@pytest.mark.slow
def test_a_run_that_recomputes_is_resumed_bit_for_bit(tmp_path):
    whole = weights(None, 5)
    weights(str(tmp_path / "run"), 2)
    for mine, expected in zip(weights(str(tmp_path / "run"), 5), whole, strict=True):
        np.testing.assert_array_equal(mine, expected)
