import os

import pytest

from taskflow_bench import gauges
from taskflow_bench.contestants import CONTESTANTS, PROBE, TASKFLOW, chosen
from taskflow_bench.errors import BenchBroke
from taskflow_bench.machine import processor
from taskflow_bench.rounds import order
from taskflow_bench.targets import GATE, OF_PROBE, RATES, of_probe, verdicts

from .reports import report, turn


def test_cpu_of_a_process_whose_name_may_hold_anything() -> None:
    rest = " ".join(str(number) for number in range(4, 30))
    assert gauges.cpu_ticks(f"12 (a) b (c) R {rest}") == 14 + 15 + 16 + 17


def test_memory_is_the_proportional_share() -> None:
    assert gauges.pss_kib("5500-7ff [rollup]\nRss:   900 kB\nPss:   512 kB\nPss_Anon: 1 kB") == 512
    assert gauges.pss_kib("") == 0


def test_this_process_uses_cpu_and_memory() -> None:
    memory = gauges.Memory()
    memory.look({"us": os.getpid()})
    assert memory.looks["us"][0] > 1
    assert gauges.cpu_seconds({"us": os.getpid()})["us"] > 0


def test_a_process_that_is_gone_uses_nothing() -> None:
    memory = gauges.Memory()
    memory.look({"gone": 2**22 + 1})
    assert memory.looks == {}
    assert gauges.cpu_seconds({"gone": 2**22 + 1}) == {"gone": 0.0}


def test_each_round_begins_with_the_next_one() -> None:
    assert list(order("abc", 2)) == [(1, "a"), (1, "b"), (1, "c"), (2, "b"), (2, "c"), (2, "a")]


def test_everybody_unless_some_are_named() -> None:
    assert chosen([]) == list(CONTESTANTS)
    assert [each.name for each in chosen([TASKFLOW, "celery"])] == ["celery", TASKFLOW]
    with pytest.raises(BenchBroke, match="'rq'"):
        chosen(["rq"])


def test_the_model_of_the_processor() -> None:
    assert processor("processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags : x") == "A CPU @ 2 GHz"
    assert processor("CPU architecture: 8\n") == ""


def test_the_best_peer_is_the_best_for_each_rate_and_no_probe() -> None:
    run = report(
        turn("celery", 1, 100), turn("taskiq", 1, 200), turn(PROBE, 1, 500), turn(TASKFLOW, 1, 400)
    )
    found = {each.what: each.ratio for each in verdicts(run)}
    assert found["accepted/s to Celery's"] == 4
    assert found["drained/s to the best peer's"] == 2
    assert found["accepted/s to the full probe's"] == 0.8
    assert all(each.is_met for each in of_probe(run, OF_PROBE))


def test_the_gate_needs_the_probe() -> None:
    assert of_probe(report(turn(TASKFLOW, 1, 400)), GATE) == []


def test_the_gate_is_below_the_goal() -> None:
    assert GATE.keys() == OF_PROBE.keys() == RATES.keys()
    assert all(GATE[name] < OF_PROBE[name] for name in RATES)
