from pathlib import Path
from typing import Any

import pytest

from taskflow_bench import handlers, page
from taskflow_bench.errors import BenchBroke
from taskflow_bench.measuring import counted
from taskflow_bench.more import render
from taskflow_bench.more.experiment import Extent
from taskflow_bench.more.experiments import EXPERIMENTS, chosen
from taskflow_bench.more.filling import _Times
from taskflow_bench.more.findings import Findings, MoreReport, Section, Table, ratio
from taskflow_bench.more.payloads import noise
from taskflow_bench.more.rates import Rates
from taskflow_bench.report import Used

from .reports import phase, report, turn

DOCS = Path(__file__).parents[3] / "docs"
USED = Used(seconds=1.0, cpu_seconds={})


def more_report(*names: str, scale: float = 1.0) -> MoreReport:
    """A run of these experiments."""
    findings = Findings(
        tables=[
            Table(head=["", "jobs/s", "share"], rows=[["one", 1234.5, 0.125], ["two", None, 12.0]])
        ],
        notes=["It was cold."],
    )
    return MoreReport(
        machine=report(turn("taskflow", 1, 100)).machine,
        sections=[
            Section(experiment=name, date="2031-05-06", seconds=9.0, scale=scale, findings=findings)
            for name in names
        ],
    )


def test_a_section_has_its_table_and_its_notes() -> None:
    run = more_report("knee")
    lines = render.section(run, run.sections[0]).splitlines()
    assert lines[0].startswith("2031-05-06. On 2 cores of A processor")
    assert "| one | 1,234 | 0.12 |" in lines
    assert "| two | - | 12.0 |" in lines
    assert lines[-1] == "- It was cold."


def test_another_scale_is_told() -> None:
    run = more_report("knee", scale=2.0)
    assert "at 2 of the usual numbers" in render.section(run, run.sections[0])


def test_only_what_was_run_is_rendered() -> None:
    titles = [("knee", "The knee"), ("memory", "Memory")]
    assert render.render(more_report("memory"), titles).startswith("### Memory\n")


def test_the_page_has_a_place_for_each_experiment() -> None:
    text = (DOCS / page.PAGE).read_text()
    names = [each.name for each in EXPERIMENTS]
    run = more_report(*names)
    once = render.update(text, run)
    assert once.count("It was cold.") == len(EXPERIMENTS)
    assert render.update(once, run) == once
    for experiment in EXPERIMENTS:
        assert f"\n### {experiment.title}\n" in text
        assert f"`{experiment.name}` {experiment.minutes}" in text


def test_a_section_is_replaced_alone() -> None:
    text = (DOCS / page.PAGE).read_text()
    (begin, end) = render._markers("knee")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    updated = render.update(text, more_report("knee"))
    assert updated.startswith(before)
    assert updated.endswith(after)
    assert "It was cold." in updated


def test_a_page_without_a_place_for_a_section() -> None:
    with pytest.raises(BenchBroke, match="knee"):
        render.update("# Performance\n", more_report("knee"))


def test_a_report_is_read_back_as_it_was_written() -> None:
    written = more_report("knee", "memory")
    assert MoreReport.model_validate_json(written.model_dump_json()) == written


def test_all_experiments_unless_some_are_named() -> None:
    assert chosen([]) == list(EXPERIMENTS)
    assert [each.name for each in chosen(["memory", "startup"])] == ["startup", "memory"]
    with pytest.raises(BenchBroke, match="'speed'"):
        chosen(["speed"])


@pytest.mark.parametrize(("scale", "jobs", "seconds"), [(1.0, 20_000, 15.0), (0.1, 2_000, 1.5)])
def test_a_scale_makes_phases_shorter(scale: float, jobs: int, seconds: float) -> None:
    effort = Extent(scale).effort()
    assert effort.jobs == jobs
    assert effort.seconds == pytest.approx(seconds)


def test_a_small_scale_leaves_something_to_do() -> None:
    effort = Extent(0.00001).effort()
    assert effort.jobs >= 10
    assert effort.seconds >= 1


@pytest.mark.parametrize(
    ("value", "to", "expected"),
    [(3.0, 2.0, 1.5), (None, 2.0, None), (3.0, 0.0, None), ("x", 1.0, None)],
)
def test_a_ratio(value: Any, to: Any, expected: float | None) -> None:
    assert ratio(value, to) == expected


def test_ends_are_counted_when_a_tenth_has_come() -> None:
    found = counted([float(number) for number in range(100)], USED)
    assert (found.jobs, found.seconds) == (89, 89.0)


def test_the_figures_of_one_circumstance() -> None:
    memory = {"api": 60.0, "worker": 50.0, "worker-2": 40.0, "scheduler": 30.0}
    rates = Rates("two", phase(100, generator_cores=0.7), phase(200), phase(50), memory)
    # 1.0, 0.5 and 0.75 s of CPU for 100 jobs.
    assert rates.row == ["two", 100.0, 200.0, 50.0, 22.5, 150.0]
    assert rates.notes == ["two, accepted: the load generator used 0.70 of a core."]


def test_copies_have_ids_and_times_in_order() -> None:
    times = _Times.up_to_now(1_000)
    ids = [times.id_of(number) for number in range(1_000)]
    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert {each.version for each in ids} == {7}
    assert times.at(0).timestamp() * 1_000 == pytest.approx(times.began_ms)
    assert times.at(999) > times.at(0)


def test_noise_is_as_long_as_was_asked_for() -> None:
    assert [len(noise(length)) for length in (1, 1_024, 1_025)] == [1, 1_024, 1_025]
    assert noise(1_024) == noise(1_024)


def test_the_handlers_have_all_kinds() -> None:
    found = {value.job_type.name for value in vars(handlers).values() if hasattr(value, "job_type")}
    kinds = {handlers.kind(number) for number in range(handlers.KINDS)}
    assert found == kinds | {"bench.digest", "bench.lines"}
