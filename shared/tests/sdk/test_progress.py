"""Reports of progress: as many as one likes go in, few come out, and the last one always does."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskflow.sdk.progress import LatestProgress

Reports = list[tuple[float, str | None]]


class Schedule:
    """Keeps what it is to run later until the test says so."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.due: list[Callable[[], None]] = []

    def __call__(self, delay_seconds: float, callback: Callable[[], None]) -> None:
        self.delays.append(delay_seconds)
        self.due.append(callback)

    def run(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


def _subject(interval: float = 60.0) -> tuple[LatestProgress, Schedule, Reports]:
    reports: Reports = []
    schedule = Schedule()
    return (
        LatestProgress(interval, schedule, lambda *report: reports.append(report)),
        schedule,
        reports,
    )


def test_the_first_report_goes_at_once_and_the_newest_of_the_next_after_the_interval() -> None:
    progress, schedule, reports = _subject()
    progress.report(10, "begun")
    assert schedule.delays == [0.0]
    schedule.run()
    for percent in range(20, 60):
        progress.report(percent)
    assert len(schedule.delays) == 2
    assert 59 < schedule.delays[1] <= 60
    assert reports == [(10, "begun")]
    schedule.run()
    assert reports == [(10, "begun"), (59, None)]


def test_a_flush_passes_on_what_waits_and_nothing_twice() -> None:
    progress, schedule, reports = _subject()
    progress.report(1)
    progress.flush()
    progress.flush()
    schedule.run()
    assert reports == [(1, None)]
    progress.report(2)
    assert len(schedule.due) == 1


@given(st.lists(st.one_of(st.floats(0, 100), st.just("run"), st.just("flush")), max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_last_report_arrives_last_and_once(steps: list[Any]) -> None:
    progress, schedule, reports = _subject()
    sent = [step for step in steps if not isinstance(step, str)]
    for step in steps:
        if step == "run":
            schedule.run()
        elif step == "flush":
            progress.flush()
        else:
            progress.report(step)
    progress.flush()
    schedule.run()
    passed_on = [percent for percent, _ in reports]
    assert passed_on[-1:] == sent[-1:]
    remaining = iter(sent)
    assert all(percent in remaining for percent in passed_on)  # in their order


@pytest.mark.parametrize(
    "percent", [-0.1, 100.1, float("nan"), float("inf"), True, "5", None, 10**400]
)
def test_odd_percents_are_refused(percent: Any) -> None:
    progress, schedule, _ = _subject()
    with pytest.raises(ValueError, match="progress takes a percent within 0 and 100"):
        progress.report(percent)
    assert schedule.due == []


def test_a_message_is_made_storable_and_short() -> None:
    progress, schedule, reports = _subject()
    progress.report(0, "a\x00b" + "x" * 1000)
    schedule.run()
    ((_, message),) = reports
    assert message is not None
    assert message.startswith("a\ufffdb")
    assert len(message) == 500


def test_many_threads_may_report() -> None:
    reports: Reports = []

    def later(delay_seconds: float, callback: Callable[[], None]) -> None:
        timer = threading.Timer(delay_seconds, callback)
        timer.daemon = True
        timer.start()

    progress = LatestProgress(0.05, later, lambda *report: reports.append(report))
    started = time.monotonic()

    def work() -> None:
        for number in range(2000):
            progress.report(number / 20)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    progress.report(100)
    progress.flush()
    assert reports[-1][0] == 100
    assert len(reports) <= (time.monotonic() - started) / 0.05 + 3
