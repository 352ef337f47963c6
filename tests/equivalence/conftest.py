"""Runs the cases that are asked for, those of one placement in one process."""

import pathlib

import pytest

from tests import harness
from tests.equivalence.case import Outcome
from tests.equivalence.cases import CASES
from tests.equivalence.runs import parts_of, reference_name, run_cases, run_references


class Outcomes:
    """What the runs left; a placement's process is started when its first case is asked for.

    Args:
        selected: the (replicas, name) of all cases that this session's tests are about.
        folder: of the processes' files.
    """

    def __init__(self, selected: set[tuple[int, str]], folder: pathlib.Path):
        self._selected, self._folder = sorted(selected), folder
        self._failed: dict[pathlib.Path, str] = {}

    def of(self, replicas: int, name: str) -> Outcome:
        """What train_distributed left on so many replicas."""
        folder = self._folder / f"replicas{replicas}"
        names = [case for count, case in self._selected if count == replicas]
        self._run(folder, run_cases, replicas, names)
        return self._read(folder, name)

    def expected(self, replicas: int, name: str) -> Outcome:
        """What the plain loop left."""
        folder = self._folder / "reference"
        wanted = {
            reference_name(case, parts_of(CASES[case], count)): [
                case,
                parts_of(CASES[case], count),
            ]
            for count, case in self._selected
        }
        self._run(folder, run_references, list(wanted.values()))
        return self._read(folder, reference_name(name, parts_of(CASES[name], replicas)))

    def _run(self, folder: pathlib.Path, function, *arguments) -> None:
        if folder.exists():
            return
        folder.mkdir()
        try:
            harness.call(
                function, folder, str(folder), *arguments, timeout=90 + 20 * len(arguments[-1])
            )
        except harness.ProcessFailed as error:
            self._failed[folder] = str(error)

    def _read(self, folder: pathlib.Path, name: str) -> Outcome:
        error = folder / f"{name}.txt"
        if error.exists():
            pytest.fail(error.read_text(), pytrace=False)
        if not (folder / f"{name}.json").exists():
            pytest.fail(self._failed[folder][-5000:], pytrace=False)
        return Outcome.load(folder / name)


@pytest.fixture(scope="session")
def outcomes(request, tmp_path_factory) -> Outcomes:
    selected = {
        (item.callspec.params["replicas"], item.callspec.params["name"])
        for item in request.session.items
        if {"replicas", "name"} <= set(getattr(getattr(item, "callspec", None), "params", ()))
    }
    return Outcomes(selected, tmp_path_factory.mktemp("equivalence"))
