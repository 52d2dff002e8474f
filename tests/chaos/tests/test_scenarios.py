import re

import pytest

from taskflow_chaos.scenario import GATE, UnknownScenario, all_scenarios, chosen_scenarios


def test_every_scenario_is_found_by_its_number() -> None:
    found = all_scenarios()
    numbers = [int(each.removeprefix("C")) for each in found]
    assert numbers == sorted(numbers)
    assert set(GATE) <= found.keys()


def test_each_module_is_named_for_its_scenario() -> None:
    for each in all_scenarios().values():
        name = each.play.__module__.rpartition(".")[2]
        assert re.match(rf"c{int(each.id[1:]):02d}_[a-z_]+$", name), name


def test_scenarios_are_chosen_by_id() -> None:
    assert [each.id for each in chosen_scenarios(["c5", "C1"])] == ["C5", "C1"]
    assert [each.id for each in chosen_scenarios([])] == list(all_scenarios())


def test_one_that_does_not_exist_is_named() -> None:
    with pytest.raises(UnknownScenario, match="C99"):
        chosen_scenarios(["C1", "C99"])
