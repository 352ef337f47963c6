"""CI's runs of the numbers contract cover what they are said to cover."""

import dataclasses

from tests.equivalence.case import Case, Where
from tests.equivalence.cases import CASES
from tests.equivalence.grid import ALWAYS, Run, all_runs, chosen, covered, parts_of_name, wanted


def test_ci_covers_each_case_each_variant_and_each_setting_on_each_placement():
    picked = chosen(CASES)
    assert not wanted(CASES) - covered(picked, CASES)
    assert {parts_of_name(run.name) for run in picked} == {parts_of_name(name) for name in CASES}


def test_ci_runs_the_cases_of_always_on_each_of_their_placements():
    picked = chosen(CASES)
    for name in ALWAYS:
        kept = {where for where in CASES[name].placements if where.count < 3 or where.count == 4}
        assert {run.where for run in picked if run.name == name} == kept


def test_each_case_is_run_by_ci_on_replicas_if_it_has_any():
    picked = chosen(CASES)
    for name, case in CASES.items():
        base, _ = parts_of_name(name)
        kinds = {run.where.kind for run in picked if parts_of_name(run.name)[0] == base}
        assert {w.kind for w in case.placements if w.count != 3} - kinds <= {
            "one_device",
            "servers",
        }, name


def test_the_choice_is_a_part_of_the_grid_and_the_same_each_time():
    picked = chosen(CASES)
    assert picked == chosen(CASES)
    assert picked < set(all_runs(CASES))
    assert len(picked) < 0.6 * len(all_runs(CASES))


def test_one_run_is_enough_for_what_two_would_show():
    def case(**fields):
        return Case(None, lambda: ([0] * 8, [0] * 8), batch_size=4, **fields)

    plain = case(replicas=(2,), workers=(2,))
    compiled = dataclasses.replace(plain, config={"jit_compile": True}, workers=())
    two, workers = Where("mirrored", 2), Where("workers", 2)
    assert chosen({"a": plain, "a_jit": compiled}) == {
        Run(two, "a_jit"),
        Run(workers, "a"),
        Run(two, "a"),  # of the variant "" on two replicas
    }
    assert chosen({"a": plain, "b": compiled}) == {
        Run(two, "a"),
        Run(workers, "a"),
        Run(two, "b"),
    }


def test_names_are_split_into_case_and_variant():
    assert parts_of_name("clipnorm_jit_owner") == ("clipnorm", "jit_owner")
    assert parts_of_name("last_batch_of_one") == ("last_batch_of_one", "")
