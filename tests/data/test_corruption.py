"""Random damage to the files of every source: an error or an account of all records, always."""

import pytest

from tests.data import corruption, corruption_kinds
from tests.harness import ProcessFailed, call

CASES = 200  # for each kind, each with errors and with bad records left out
ONCE_WRONG = {
    "CsvSource": [1283],  # two quotes that make one text of several lines
    "NpySource": [6, 4837],  # a file that is too long; a header that NumPy fails on
    "ParquetSource": [599, 2811],  # statistics that end the process; row groups that are gone
    "TFRecordSource": [663, 4586],  # cut so that nothing says how many records there were
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(corruption_kinds.KINDS))
def test_damaged_files_are_told_of_and_nothing_is_lost_without_a_word(kind, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    seeds = [*range(CASES), *ONCE_WRONG.get(kind, [])]
    try:
        result = call(corruption.run, tmp_path, kind, seeds, str(work), timeout=300)
    except ProcessFailed as error:
        case = (work / "case.txt").read_text()
        pytest.fail(f"the process did not survive case {case}: {error}")
    assert result["failures"] == []
    outcomes = result["outcomes"]
    assert sum(outcomes.values()) == 2 * len(seeds)
    assert outcomes["BadRecords"] >= CASES // 5
    if not corruption_kinds.KINDS[kind].whole:
        assert outcomes["left out"] >= CASES // 5
