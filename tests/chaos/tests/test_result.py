from pathlib import Path

import pytest

from taskflow_chaos.result import Result, percentile
from taskflow_chaos.scorecard import render, row, update, update_file
from taskflow_testing.versions import Versions


def result_of(scenario: str, **changes: object) -> Result:
    values: dict[str, object] = {
        "scenario": scenario,
        "title": "Consumers killed",
        "fault": "kill -9",
        "asserts": "a | b",
        "run_at": "2026-01-31T10:00:00+00:00",
        "seed": 7,
        "jobs": 5000,
        "full_jobs": 5000,
        "failures": [],
        "faults": {"kill": 60},
        "statuses": {"202": 5000, "503": 2},
        "states": {"completed": 5000},
        "seconds": 165.4,
        "versions": Versions(postgresql="18.6", rabbitmq="3.10.8", python="3.13.0", cores=2),
    }
    return Result.model_validate(values | changes)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([3.0], 0.99, 3.0),
        ([4.0, 1.0, 3.0, 2.0], 0.5, 2.0),
        ([float(number) for number in range(1, 101)], 0.99, 99.0),
        ([float(number) for number in range(1, 101)], 1.0, 100.0),
        ([1.0, 2.0], 0.0, 1.0),
    ],
)
def test_percentile(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


def test_a_row_says_what_was_measured_and_no_more() -> None:
    cells = [cell.strip() for cell in row(result_of("C1")).replace("\\|", "/").split("|")[1:-1]]
    assert cells[:6] == ["C1", "Consumers killed: a / b", "passed", "5,000", "7", "60 x kill"]
    assert "- / - ms" in cells
    assert "5,000 x 202, 2 x 503" in cells
    measured = row(
        result_of("C1", worst_recovery_seconds=17.63, recovery_means="from x to y", republished=3)
    )
    assert "17.6 s (from x to y)" in measured
    assert "| 3 (-) |" in measured


def test_what_failed_is_seen_to_have_failed() -> None:
    assert "**FAILED**" in row(result_of("C1", failures=["I1 is violated"]))


def test_one_run_changes_its_own_row_alone(tmp_path: Path) -> None:
    path = tmp_path / "scorecard.md"
    for scenario in ("C10", "C2", "C1"):
        update_file(path, result_of(scenario))
    before = path.read_text().splitlines()
    update_file(path, result_of("C2", seed=99))
    after = path.read_text().splitlines()
    rows = [line for line in after if line.startswith("| C")]
    assert [line.split()[1] for line in rows] == ["C1", "C2", "C10"]
    changed = [line for line in after if line not in before]
    assert changed == [row(result_of("C2", seed=99))]


def test_an_update_of_nothing_is_the_whole_page() -> None:
    result = result_of("C5")
    assert update("", result) == render({"C5": row(result)})


def test_a_result_can_be_read_again(tmp_path: Path) -> None:
    result = result_of("C1", failures=["x"])
    path = result.write(tmp_path / "chaos")
    assert path.name == "C1.json"
    assert Result.model_validate_json(path.read_text()) == result
