"""Runs the cases that are asked for, those of one placement in one process."""

import pathlib

import pytest

from tests import harness
from tests.equivalence.case import Outcome, Where
from tests.equivalence.cases import CASES
from tests.equivalence.runs import (
    parts_of,
    reference_name,
    run_cases,
    run_on_servers,
    run_on_workers,
    run_references,
)


class Outcomes:
    """What the runs left; a placement's process is started when its first case is asked for.

    Args:
        selected: the (placement, name) of all cases that this session's tests are about.
        folder: of the processes' files.
    """

    def __init__(self, selected: set[tuple[Where, str]], folder: pathlib.Path):
        self._selected, self._folder = sorted(selected), folder
        self._failed: dict[pathlib.Path, str] = {}

    def of(self, where: Where, name: str) -> Outcome:
        """What train_distributed left on a placement; of workers, on the first."""
        return self.of_all(where, name)[0]

    def of_all(self, where: Where, name: str) -> list[Outcome]:
        """What it left in each process of a placement."""
        folder = self._folder / str(where)
        names = [case for placement, case in self._selected if placement == where]
        if where.kind == "workers":
            self._run_workers(folder, where.count, names)
            return [self._read(folder, f"{name}-of-worker{i}") for i in range(where.count)]
        if where.kind == "servers":
            self._run_servers(folder, where.count, names)
        else:
            self._run(folder, run_cases, where.count, names)
        return [self._read(folder, name)]

    def expected(self, where: Where, name: str) -> Outcome:
        """What the plain loop left."""
        folder = self._folder / "reference"
        wanted = {
            reference_name(case, parts_of(CASES[case], placement.count)): [
                case,
                parts_of(CASES[case], placement.count),
            ]
            for placement, case in self._selected
        }
        self._run(folder, run_references, list(wanted.values()))
        return self._read(folder, reference_name(name, parts_of(CASES[name], where.count)))

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

    def _run_servers(self, folder: pathlib.Path, workers: int, names: list[str]) -> None:
        if folder.exists():
            return
        folder.mkdir()
        try:
            harness.call_parameter_server(
                run_on_servers, folder, str(folder), names, workers=workers, ps=2,
                timeout=120 + 25 * len(names),
            )  # fmt: skip
        except harness.ProcessFailed as error:
            self._failed[folder] = str(error)

    def _run_workers(self, folder: pathlib.Path, workers: int, names: list[str]) -> None:
        if folder.exists():
            return
        folder.mkdir()
        timeout = 120 + 25 * len(names)
        try:
            harness.call_workers(
                run_on_workers, folder, str(folder), names, workers=workers, timeout=timeout
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
        (item.callspec.params["where"], item.callspec.params["name"])
        for item in request.session.items
        if {"where", "name"} <= set(getattr(getattr(item, "callspec", None), "params", ()))
    }
    return Outcomes(selected, tmp_path_factory.mktemp("equivalence"))
