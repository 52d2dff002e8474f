"""Time-outs, and handlers that don't obey when they are told to stop."""

import asyncio
import random
import threading
import time
from collections.abc import Iterator

import pytest

from taskflow import JobContext, JobStopped, SyncJobContext, job
from taskflow.jobs.outcomes import OutcomeKind
from taskflow_consumer.middleware.stop import StopReason

from .harness import Harness, until


class Blocker:
    """A `def` job that blocks until the test lets it go, and notes what its context says then."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.told: list[object] = []

        @job("block")
        def block(payload: dict[str, str], ctx: SyncJobContext) -> str:
            self.go.wait(30)
            self.told.append(ctx.cancelled)
            ctx.progress(99)
            ctx.log.info("late")
            try:
                ctx.checkpoint.save(1)
            except JobStopped as error:
                self.told.append(type(error).__name__)
            return "too late"

        self.job = block


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    blocker = Blocker()
    yield blocker
    blocker.go.set()


async def test_an_async_handler_that_takes_too_long_is_stopped(harness: Harness) -> None:
    cleaned_up = []

    @job("long")
    async def long() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cleaned_up.append(True)

    executor = harness.executor([long])
    claimed = harness.claim("long", timeout_seconds=0.2)
    started = time.monotonic()
    outcome = await harness.run(executor, claimed)
    assert 0.2 <= time.monotonic() - started < 3
    assert outcome.kind is OutcomeKind.RETRYABLE
    assert outcome.error is not None
    assert outcome.error.as_dict() == {
        "type": "timeout",
        "message": "The attempt took longer than 0.2 s.",
        "retryable": True,
    }
    assert cleaned_up == [True]
    await until(lambda: not executor.in_hand)
    assert "stopped: its time is up" in harness.text(claimed)


async def test_the_last_attempt_that_takes_too_long_fails(harness: Harness) -> None:
    @job("long")
    async def long() -> None:
        await asyncio.sleep(30)

    executor = harness.executor([long])
    outcome = await harness.run(executor, harness.claim("long", number=4, timeout_seconds=0.05))
    assert outcome.kind is OutcomeKind.FAILED


@pytest.mark.parametrize(("of_the_job", "seconds"), [(None, "0.1"), (0.3, "0.3")])
async def test_the_jobs_own_time_out_comes_before_its_types(
    harness: Harness, of_the_job: float | None, seconds: str
) -> None:
    @job("long", timeout_seconds=0.1)
    async def long() -> None:
        await asyncio.sleep(30)

    executor = harness.executor([long])
    outcome = await harness.run(executor, harness.claim("long", timeout_seconds=of_the_job))
    assert outcome.error is not None
    assert outcome.error.message == f"The attempt took longer than {seconds} s."


async def test_the_lease_has_a_deadline_while_the_handler_runs_and_none_after_it(
    harness: Harness,
) -> None:
    @job("quick")
    async def quick() -> None:
        return None

    harness.recorder.gate.clear()
    executor = harness.executor([quick])
    claimed = harness.claim("quick", timeout_seconds=5)
    executor.start(claimed)
    assert claimed.attempt in harness.leases.held
    await until(lambda: "job_completed" in harness.events())
    deadlines = [seconds for kind, seconds in harness.leases.history if kind == "hold"]
    assert deadlines == [None, pytest.approx(5 + 0.3 + 10), None]
    assert harness.leases.held == {claimed.attempt: None}


async def test_a_thread_that_takes_too_long_is_recorded_at_once_and_keeps_its_slot(
    harness: Harness, blocker: Blocker
) -> None:
    executor = harness.executor([blocker.job], concurrency=2, stop_grace_seconds=10)
    claimed = harness.claim("block", timeout_seconds=0.1)
    started = time.monotonic()
    outcome = await harness.run(executor, claimed)
    assert time.monotonic() - started < 5  # the grace is for those who can clean up
    assert outcome.error is not None
    assert outcome.error.type == "timeout"
    assert "keeps its slot" in harness.text(claimed)
    assert claimed.attempt not in harness.leases.held
    assert (executor.free, executor.lingering) == (1, 1)
    reports = len(harness.progress.reports)
    blocker.go.set()
    await until(lambda: executor.free == 2)
    assert executor.lingering == 0
    assert blocker.told == [True, "JobStopped"]
    assert harness.checkpoints.saved == []
    assert len(harness.progress.reports) == reports
    assert [outcome.kind for outcome in harness.recorder.of(claimed)] == [OutcomeKind.RETRYABLE]
    assert harness.events()[-2:] == ["handler_goes_on", "handler_ended_late"]
    # What it logged to the end is kept.
    assert "late" in harness.text(claimed)
    assert harness.logs.by_job[claimed.attempt.job_id].is_closed


async def test_a_thread_that_looks_at_its_context_gets_time_to_save_its_work(
    harness: Harness,
) -> None:
    @job("polite")
    def polite(payload: dict[str, str], ctx: JobContext) -> str:
        while not ctx.cancelled:
            time.sleep(0.005)
        sync: SyncJobContext = ctx  # type: ignore[assignment]
        sync.checkpoint.save("page 3")
        return "ignored"

    executor = harness.executor([polite])
    claimed = harness.claim("polite")
    executor.start(claimed)
    await until(harness.events)
    executor.cancel(claimed.attempt.job_id, 1, StopReason.SHUTDOWN)
    assert (await harness.outcome(claimed)).kind is OutcomeKind.RELEASED
    assert harness.checkpoints.saved == ['"page 3"']
    await until(lambda: not executor.in_hand)
    assert "regardless" not in harness.text(claimed)


async def test_a_thread_that_ends_in_the_time_to_clean_up_has_done_its_work_at_shutdown(
    harness: Harness,
) -> None:
    go = threading.Event()

    @job("unaware")
    def unaware() -> str:
        go.wait(30)
        return "all of it"

    executor = harness.executor([unaware], stop_grace_seconds=10)
    claimed = harness.claim("unaware")
    executor.start(claimed)
    await until(harness.events)
    executor.cancel(claimed.attempt.job_id, 1, StopReason.SHUTDOWN)
    go.set()
    outcome = await harness.outcome(claimed)
    assert (outcome.kind, outcome.result_json) == (OutcomeKind.COMPLETED, '"all of it"')


async def test_draining_does_not_wait_for_a_thread_that_does_not_end(
    harness: Harness, blocker: Blocker
) -> None:
    executor = harness.executor([blocker.job])
    timed_out = harness.claim("block", timeout_seconds=0.05)
    await harness.run(executor, timed_out)
    running = harness.claim("block")
    executor.start(running)
    started = time.monotonic()
    await executor.drain(0.1)
    assert time.monotonic() - started < 3
    assert (await harness.outcome(running)).kind is OutcomeKind.RELEASED
    left = [line for line in harness.service_lines if line["event"] == "job_left_behind"]
    assert [line["recorded"] for line in left] == [True, True]
    blocker.go.set()
    await until(lambda: len(blocker.told) == 4)


async def test_a_handler_that_swallows_its_cancelling_does_not_hold_the_outcome(
    harness: Harness,
) -> None:
    release = asyncio.Event()

    @job("stubborn")
    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "ignored"

    executor = harness.executor([stubborn])
    claimed = harness.claim("stubborn", timeout_seconds=0.1)
    try:
        outcome = await harness.run(executor, claimed)
        assert outcome.error is not None
        assert outcome.error.type == "timeout"
        assert (executor.free, executor.lingering) == (3, 1)
    finally:
        release.set()
    await until(lambda: not executor.in_hand)
    assert len(harness.recorder.of(claimed)) == 1


async def test_what_has_not_ended_when_draining_gives_up_is_cancelled_once_more(
    harness: Harness,
) -> None:
    cancels: list[float] = []

    @job("slow-to-end")
    async def slow_to_end() -> None:
        while len(cancels) < 2:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                cancels.append(time.monotonic())

    executor = harness.executor([slow_to_end], stop_grace_seconds=30)
    executor.start(harness.claim("slow-to-end"))
    await until(harness.events)
    await asyncio.sleep(0)
    await executor.drain(0, release_seconds=0.1)
    await until(lambda: len(cancels) == 2)
    assert harness.recorder.outcomes == []


async def test_a_handler_that_returns_instead_of_stopping_is_not_believed(
    harness: Harness,
) -> None:
    @job("sly")
    async def sly() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            return "half of the work"
        return "all of it"

    executor = harness.executor([sly])
    claimed = harness.claim("sly")
    executor.start(claimed)
    await until(harness.events)
    await asyncio.sleep(0)
    executor.cancel(claimed.attempt.job_id, 1, StopReason.CANCEL_REQUESTED)
    assert (await harness.outcome(claimed)).kind is OutcomeKind.CANCELLED


async def test_what_breaks_while_it_cleans_up_is_said_in_the_jobs_log(harness: Harness) -> None:
    @job("broken")
    async def broken() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            raise LookupError("while cleaning up")

    executor = harness.executor([broken])
    claimed = harness.claim("broken", timeout_seconds=0.05)
    outcome = await harness.run(executor, claimed)
    assert outcome.error is not None
    assert outcome.error.type == "timeout"
    assert "while cleaning up" in harness.text(claimed)


async def test_a_time_out_of_the_handlers_own_is_its_own_affair(harness: Harness) -> None:
    @job("own")
    async def own() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(30)

    executor = harness.executor([own])
    outcome = await harness.run(executor, harness.claim("own", timeout_seconds=20))
    assert outcome.error is not None
    assert outcome.error.type == "TimeoutError"


async def test_cancel_against_time_out_against_the_end_leaves_one_outcome_each(
    harness: Harness,
) -> None:
    """Every job ends within a few milliseconds of being told to stop; whoever wins, wins once."""
    chance = random.Random(20)

    @job("async-race")
    async def async_race(payload: dict[str, float]) -> str:
        await asyncio.sleep(payload["seconds"])
        return "returned"

    @job("thread-race")
    def thread_race(payload: dict[str, float]) -> str:
        time.sleep(payload["seconds"])
        return "returned"

    executor = harness.executor([async_race, thread_race], concurrency=40)
    jobs = []
    for number in range(300):
        await until(lambda: executor.free)
        claimed = harness.claim(
            "async-race" if number % 3 else "thread-race",
            {"seconds": chance.uniform(0, 0.01)},
            timeout_seconds=chance.choice([None, chance.uniform(0.001, 0.01)]),
        )
        executor.start(claimed)
        jobs.append(claimed)
        # A busy machine may let a cancel win each of its races; a fourth of the jobs have none.
        if not number % 4:
            continue
        asyncio.get_running_loop().call_later(
            chance.uniform(0, 0.01),
            executor.cancel,
            claimed.attempt.job_id,
            1,
            chance.choice([StopReason.CANCEL_REQUESTED, StopReason.LEASE_LOST]),
        )
    await until(lambda: not executor.in_hand)
    counts = {len(harness.recorder.of(claimed)) for claimed in jobs}
    assert counts == {0, 1}  # none where the lease was lost
    kinds = {outcome.kind for _, outcome in harness.recorder.outcomes}
    assert kinds == {OutcomeKind.COMPLETED, OutcomeKind.CANCELLED, OutcomeKind.RETRYABLE}
    assert harness.leases.held == {}
    assert all(log.is_closed for log in harness.logs.by_job.values())
