"""Weights in slices: models of all kinds, checkpoints, memory, and use after the training."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbig
from tests import harness
from tests.placement import divided_models, limited_runs, sliced_runs
from tfbig.errors import OutOfMemory, UserError
from tfbig.placement import free_memory
from tfbig.placement.owner import slice_files
from tfbig.placement.placement import Placement
from tfbig.programs.keras.keras_program import KerasProgram
from tfbig.training.out_of_memory import check_memory, explained_out_of_memory

# Models.


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return harness.call(divided_models.found_of_all, folder, 1, "replicated", {}, timeout=200)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "distribution", "config"),
    [
        (2, "owner_full", {}),
        (2, "owner_full", {"accumulation_steps": 2, "remat": True, "prefetched_blocks": 0}),
        (2, "owner_full", {"jit_compile": True, "prefetched_blocks": 3}),
        (2, "owner_gradients", {}),
    ],
    ids=["full", "recomputed", "compiled", "gradients"],
)
def test_all_kinds_of_models_give_the_numbers_of_one_device(
    replicas, distribution, config, reference, tmp_path
):
    arguments = (replicas, distribution, config)
    left = harness.call(divided_models.found_of_all, tmp_path, *arguments, timeout=400)
    assert len(left) == len(divided_models.MODELS) - bool(config) - ("jit_compile" in config)
    for name, got in left.items():
        expected = reference[name]
        assert "error" not in got, (name, got)
        assert [len(v) for v in got["values"]] == [len(v) for v in expected["values"]]
        for mine, theirs in zip(got["values"], expected["values"], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(got["losses"], expected["losses"], rtol=1e-5, err_msg=name)
        assert got["metrics"] == pytest.approx(expected["metrics"], rel=1e-5), name


# Memory.


@pytest.mark.slow
def test_a_model_that_does_not_fit_trains_in_slices(tmp_path):
    """500 MiB are less than a whole model needs, and more than a slice and two blocks."""
    (tmp_path / "out").mkdir()
    expected = harness.call(limited_runs.unlimited, tmp_path, timeout=200)
    got = {}
    for distribution, steps in (("owner", 1), ("owner_full", 1), ("owner_full", 2)):
        files = tmp_path / f"{distribution}{steps}"
        files.mkdir()
        arguments = (distribution, 500, str(tmp_path / "out"), steps)
        got[distribution, steps] = harness.call_workers(
            limited_runs.limited, files, *arguments, workers=4, timeout=300
        )
    alone = "replicated", 500, str(tmp_path), 1, "one_device"
    whole = harness.call(limited_runs.limited, tmp_path, *alone, timeout=200)
    for left, needed in (whole, 651), *((left, 326) for left in got["owner", 1]):
        assert f"gradients and optimizer state need {needed} MiB besides" in left["error"]
        assert re.search(r"TFBIG_MEMORY_BYTES, \d+ MiB of which \d+ MiB are in", left["error"])
        assert 'write model_distribution="owner_full"' in left["error"]
    (first, *_), last = got["owner_full", 1], got["owner_full", 2]
    losses = [*first["losses"], *last[0]["losses"]]
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
    for left in last:
        assert left["kind"] == "SlicedModel"
        assert left["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        np.testing.assert_allclose(left["outputs"], expected["outputs"], atol=1e-4)
    served = harness.call(limited_runs.served, tmp_path, last[0]["export"], timeout=100)
    np.testing.assert_allclose(served, expected["outputs"], atol=1e-4)


def test_free_memory_is_the_smallest_limit(monkeypatch):
    assert free_memory.free_memory().size > 2**20
    with open("/proc/self/status") as status:
        now = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
    monkeypatch.setenv("TFBIG_MEMORY_BYTES", str(now + 2**20))
    free = free_memory.free_memory()
    assert free.size <= 2 * 2**20
    words = r"TFBIG_MEMORY_BYTES, (\d+) MiB of which \d+ MiB are in use,"
    assert abs(int(re.fullmatch(words, free.limit)[1]) - now / 2**20) < 3
    monkeypatch.setenv("TFBIG_MEMORY_BYTES", "1GB")
    with pytest.raises(UserError, match="TFBIG_MEMORY_BYTES='1GB': expected a number of bytes"):
        free_memory.free_memory()


def test_memory_is_checked_before_gradients_and_slots_are_made(monkeypatch):
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000, use_bias=False)])
    model.compile(keras.optimizers.Adam(), "mse")
    program = KerasProgram(model)
    config = tfbig.RunConfig()
    check_memory(program, Placement(), config)
    free = free_memory.Free(11_000_000, "the machine")
    monkeypatch.setattr("tfbig.training.out_of_memory.free_memory", lambda: free)
    expected = "need 11 MiB besides the weights, and the machine leaves 10 MiB"
    with pytest.raises(OutOfMemory, match=expected):
        check_memory(program, Placement(), config)  # 4 MB of gradients, 8 MB of slots
    assert not model.optimizer.built


@pytest.mark.parametrize(
    "error",
    [tf.errors.ResourceExhaustedError(None, None, "{{node x}} OOM when allocating"), MemoryError()],
)
def test_errors_for_lack_of_memory_are_explained(error):
    with (
        pytest.raises(OutOfMemory, match='write model_distribution="owner_full"') as caught,
        explained_out_of_memory(tfbig.RunConfig()),
    ):
        raise error
    assert "remat=True, accumulation_steps=2 or more, or smaller batches" in str(caught.value)


# Checkpoints.


@pytest.mark.parametrize("shape", [(), (7,), (5, 7), (3, 1, 4, 2), (1, 9)])
def test_boxes_cover_each_range_of_elements_once_and_in_order(shape):
    size = int(np.prod(shape))
    whole = np.arange(size).reshape(shape)
    for start in range(size + 1):
        for stop in range(start, size + 1):
            found = [
                whole[tuple(slice(first, first + n) for first, n in box)].ravel()
                for box in slice_files.boxes(shape, start, stop)
            ]
            assert len(found) <= 2 * max(1, len(shape))
            values = np.concatenate(found) if found else np.zeros(0)
            np.testing.assert_array_equal(values, np.arange(start, stop))


def test_the_box_of_a_whole_tensor_has_no_spec():
    assert slice_files.spec_of((5, 7), ((0, 5), (0, 7))) == ""
    assert slice_files.spec_of((5, 7), ((1, 2), (0, 7))) == "5 7 1,2:0,7"
    assert slice_files.spec_of((), ()) == ""


@pytest.mark.slow
def test_each_task_writes_its_slices_and_any_reader_sees_whole_variables(tmp_path):
    left = harness.call_workers(sliced_runs.saved, tmp_path, str(tmp_path / "run"), timeout=150)
    assert [task["wrote"] for task in left] == [["task0"], ["task1"]]
    for task in left:
        assert task["differences"] == []
        assert task["read"] > 20


@pytest.mark.slow
def test_tasks_without_a_common_folder_send_their_slices(tmp_path):
    left = harness.call_workers(sliced_runs.sent, tmp_path, str(tmp_path / "run"), timeout=150)
    assert left[0]["wrote"] == left[1]["wrote"] == []
    assert left[0]["differences"] == []


@pytest.mark.slow
def test_a_task_that_cannot_write_its_slices_fails_on_all_tasks(tmp_path):
    left = harness.call_workers(sliced_runs.disk_full, tmp_path, str(tmp_path / "run"), timeout=150)
    for error in left:
        assert "worker 1" in error
        assert "cannot write its slices: no space" in error
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


# Use.


@pytest.mark.slow
def test_a_model_in_slices_is_evaluated_predicts_and_is_exported_by_all_tasks(tmp_path):
    (first, second) = harness.call_workers(
        sliced_runs.used, tmp_path, str(tmp_path / "export"), timeout=200
    )
    assert first == second
    assert re.fullmatch(r"SlicedModel\('\w+', [\de.-]+ GB on 2 replicas\)", first["shown"])
    assert first["loss"] == pytest.approx(first["evaluated"], rel=1e-6)
    served = harness.call(sliced_runs.served, tmp_path, str(tmp_path / "export"), timeout=100)
    np.testing.assert_allclose(served, first["outputs"], atol=1e-5)
    assert "strategy, devices and options that need the complete model" in first["refused"]


@pytest.mark.slow
def test_a_callback_cannot_read_slices_of_other_tasks(tmp_path):
    left = harness.call_workers(sliced_runs.read_by_callback, tmp_path, timeout=100)
    assert "a callback reads or assigns a variable that is in slices on 2 tasks" in left[0]


@pytest.mark.slow
def test_fine_tuning_in_slices_reads_a_file_and_gives_the_weights_of_one_device(tmp_path):
    left = harness.call(sliced_runs.fine_tuned, tmp_path, str(tmp_path), timeout=200)
    assert left["differences"] == pytest.approx([0.0] * len(left["differences"]), abs=1e-5)
    assert len(left["differences"]) == 4
    assert left["mapped"] >= 2  # variables of the file that were not in memory


@pytest.mark.slow
def test_the_log_says_what_each_replica_holds(in_process):
    first, second = in_process(sliced_runs.log_lines)
    assert first == (
        "owner_full: each of 2 replicas holds 2.04 kB of weights, 2.04 kB of gradients and 4.08 kB "
        "of optimizer state; replicated: 4.08 kB, 4.08 kB and 8.16 kB"
    )
    assert second.startswith("owner_full: weights are gathered in ")


# Refusals.


@pytest.mark.slow
def test_a_table_is_refused(in_process):
    assert "is a table of a ShardedEmbedding" in in_process(sliced_runs.refused)


def test_the_fields_of_the_config_are_checked():
    for field in ("prefetched_blocks", "whole_model_bytes"):
        with pytest.raises(UserError, match=f"RunConfig.{field}=-1: expected an integer of 0"):
            tfbig.RunConfig(**{field: -1})
    assert tfbig.RunConfig(whole_model_bytes=0).whole_model_bytes == 0
