from taskflow_bench.contestants import PROBE, TASKFLOW
from taskflow_bench.table import line, render

from .reports import report, turn

RUN = report(
    turn("celery", 1, 100),
    turn(TASKFLOW, 1, 1_000),
    turn(PROBE, 1, 2_000),
    turn("celery", 2, 120),
    turn(TASKFLOW, 2, 1_200),
    turn(PROBE, 2, 2_000),
    turn("celery", 3, 90),
    turn(TASKFLOW, 3, 1_100, generator_cores=0.62),
    turn(PROBE, 3, 2_000),
)


def rows_with(text: str, title: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in row.strip("|").split("|")]
        for row in text.splitlines()
        if row.startswith(f"| {title}")
    ]


def test_medians_with_their_range() -> None:
    (figures, _) = rows_with(render(RUN), "TaskFlow, every feature on |")
    assert figures[1:5] == ["1,100 (1,000-1,200)", "2,200 (2,000-2,400)", "550 (500-600)", "51.0"]


def test_each_contestant_has_a_row_of_figures_and_one_of_costs() -> None:
    (_, costs) = rows_with(render(RUN), "FastAPI + Celery")
    # 1.0, 0.5 and 0.75 s for 100 jobs, in 2.5 s.
    assert costs[1:] == ["10.00", "5.00", "7.50", "22.50", "0.90", "0.10"]


def test_ratios_are_those_of_medians_in_this_run() -> None:
    text = render(RUN)
    assert rows_with(text, "accepted/s to Celery's") == [
        ["accepted/s to Celery's", "11.00", "10", "yes"]
    ]
    assert rows_with(text, "drained/s to the full probe's") == [
        ["drained/s to the full probe's", "0.55", "0.8", "no"]
    ]


def test_ratios_need_those_that_they_are_of() -> None:
    assert "ratio" not in render(report(turn("celery", 1, 100)))
    assert "Celery's" not in render(report(turn(TASKFLOW, 1, 100), turn(PROBE, 1, 100)))


def test_a_busy_generator_is_told() -> None:
    assert "- taskflow, round 3, accepted: the load generator used 0.62 of a core" in render(RUN)
    assert "was busy" not in render(report(turn("celery", 1, 100)))


def test_where_and_when_is_told() -> None:
    text = render(RUN)
    parts = ["2031-05-06", "3 interleaved rounds", "2 cores of A processor", "9,876 requests/s"]
    assert all(part in text for part in parts)


def test_a_line_for_a_turn() -> None:
    assert line(turn("celery", 1, 100)).startswith("celery: accepted/s 100, drained/s 200, both")
