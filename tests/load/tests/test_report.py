import pytest

from taskflow_bench.report import COLUMNS, Figure, Phase, Report, Used, figure

from .reports import report, turn


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], Figure(3, 3, 3)), ([9.0, 1.0, 2.0], Figure(2, 1, 9)), ([1.0, 2.0], Figure(1.5, 1, 2))],
)
def test_a_figure_is_the_median_and_the_range(values: list[float], expected: Figure) -> None:
    assert figure(values) == expected


def test_the_figures_of_a_turn() -> None:
    found = {name: column(turn("taskflow", 1, 300)) for name, column in COLUMNS.items()}
    assert found == {
        "accepted/s": 300,
        "drained/s": 600,
        "both at once, completed/s": 150,
        "POST to completed p50 ms": 51,
        "p99 ms": 100,
        "API + worker MiB": 100,
        "peak MiB": 120,
    }


def test_what_a_phase_used() -> None:
    used = Used(seconds=4.0, cpu_seconds={"api": 2.0, "worker": 1.0})
    found = Phase(jobs=1_000, seconds=3.0, used=used)
    assert found.used.cores == 0.75
    assert found.cpu_ms_per_job == {"api": 2.0, "worker": 1.0}


def test_a_phase_without_jobs() -> None:
    found = Phase(jobs=0, seconds=0.0, used=Used(seconds=1.0, cpu_seconds={}))
    assert (found.per_second, found.cpu_ms_per_job) == (0.0, {})


def test_a_report_is_read_back_as_it_was_written() -> None:
    written = report(turn("celery", 1, 10), turn("taskflow", 1, 100))
    assert Report.model_validate_json(written.model_dump_json()) == written
