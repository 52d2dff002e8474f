"""Slots, supervision, cancelling and draining."""

import asyncio
import time
from typing import Any

import pytest

from taskflow import JobContext, job
from taskflow.jobs.attempts import ClaimedJob
from taskflow.jobs.finishing import Recorded, Stale
from taskflow.jobs.outcomes import Attempt, Outcome, OutcomeKind, completed
from taskflow_consumer.middleware.stop import StopReason

from .harness import Harness, until


class Gate:
    """Jobs that wait until they are let go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.cleaned_up = 0

        @job("wait")
        async def wait() -> str:
            self.entered += 1
            try:
                await self.open.wait()
            finally:
                self.cleaned_up += 1
            return "done"

        self.job = wait


@pytest.fixture
async def gate() -> Gate:
    return Gate()


async def test_a_job_is_run_recorded_and_let_go(harness: Harness) -> None:
    @job("greet")
    async def greet(payload: dict[str, str], ctx: JobContext) -> dict[str, Any]:
        ctx.log.info("greeting", name=payload["name"])
        return {"said": f"hello {payload['name']}", "attempt": ctx.attempt, "id": ctx.job_id}

    executor = harness.executor([greet])
    claimed = harness.claim("greet", {"name": "you"}, number=2)
    outcome = await harness.run(executor, claimed)
    assert outcome == completed(
        f'{{"said":"hello you","attempt":2,"id":"{claimed.attempt.job_id}"}}'
    )
    await until(lambda: not executor.in_hand)
    assert harness.leases.held == {}
    assert harness.leases.history == [("hold", None), ("drop", None)]
    (line,) = harness.lines(claimed)
    assert (line.level, line.message, line.logger) == ("info", "greeting", "job")
    assert line.fields == {"name": "you"}
    assert harness.logs.by_job[claimed.attempt.job_id].is_closed


async def test_the_service_log_has_a_line_for_the_end_and_one_for_who_looks_for_a_fault(
    harness: Harness,
) -> None:
    @job("pick")
    async def pick(payload: dict[str, str]) -> None:
        if payload["end"] == "fail":
            raise ValueError("with a secret")

    executor = harness.executor([pick])
    good = harness.claim("pick", {"end": "well"})
    await harness.run(executor, good)
    await harness.run(executor, harness.claim("pick", {"end": "fail"}))
    await harness.run(executor, harness.claim("pick", {"end": "fail"}, number=4))
    assert harness.events() == [
        "job_started",
        "job_completed",
        "job_started",
        "job_will_retry",
        "job_started",
        "job_failed",
    ]
    completed = harness.service_lines[1]
    assert completed["job_id"] == str(good.attempt.job_id)
    assert (completed["attempt"], completed["type"]) == (1, "pick")
    assert completed["seconds"] >= 0
    assert harness.service_lines[3]["error"] == "ValueError"
    assert "secret" not in str(harness.service_lines)


async def test_slots_are_counted_and_it_is_told_when_one_is_free(
    harness: Harness, gate: Gate
) -> None:
    executor = harness.executor([gate.job], concurrency=2)
    freed = asyncio.Event()
    executor.notify_freed(freed.set)
    assert executor.free == 2
    executor.start(harness.claim("wait"))
    executor.start(harness.claim("wait"))
    assert executor.free == 0
    await until(lambda: gate.entered == 2)
    assert not freed.is_set()
    gate.open.set()
    await asyncio.wait_for(freed.wait(), 5)
    await until(lambda: executor.free == 2)


async def test_a_slot_is_free_as_soon_as_its_handler_is_over(harness: Harness) -> None:
    @job("quick")
    async def quick() -> None:
        return None

    def completed() -> int:
        return harness.events().count("job_completed")

    harness.recorder.gate.clear()
    executor = harness.executor([quick], concurrency=2)
    executor.start(harness.claim("quick"), harness.claim("quick"))
    await until(lambda: completed() == 2)
    assert (executor.free, executor.in_hand) == (2, 2)
    executor.start(harness.claim("quick"))
    await until(lambda: completed() == 3)
    # Four may be in hand for two slots.
    assert (executor.free, executor.in_hand) == (1, 3)
    executor.start(harness.claim("quick"))
    await until(lambda: completed() == 4)
    assert (executor.free, executor.in_hand) == (0, 4)
    freed = asyncio.Event()
    executor.notify_freed(freed.set)
    harness.recorder.gate.set()
    await asyncio.wait_for(freed.wait(), 5)
    await until(lambda: not executor.in_hand)
    assert executor.free == 2


async def test_a_claim_too_many_is_run_all_the_same(harness: Harness, gate: Gate) -> None:
    executor = harness.executor([gate.job], concurrency=1)
    jobs = [harness.claim("wait") for _ in range(3)]
    for claimed in jobs:
        executor.start(claimed)
    assert executor.free == 0
    await until(lambda: gate.entered == 3)
    gate.open.set()
    for claimed in jobs:
        assert (await harness.outcome(claimed)).kind is OutcomeKind.COMPLETED
    await until(lambda: executor.free == 1)


async def test_the_end_of_whoever_started_a_job_does_not_end_the_job(
    harness: Harness, gate: Gate
) -> None:
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")

    async def subscriber() -> None:
        executor.start(claimed)
        await asyncio.sleep(60)

    task = asyncio.create_task(subscriber())
    await until(lambda: gate.entered)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    gate.open.set()
    assert (await harness.outcome(claimed)).result_json == '"done"'


async def test_a_refused_outcome_is_said_and_nothing_more(harness: Harness, gate: Gate) -> None:
    harness.recorder.refuses = True
    gate.open.set()
    executor = harness.executor([gate.job])
    await harness.run(executor, harness.claim("wait"))
    await until(lambda: not executor.in_hand)
    assert harness.events()[-1] == "job_outcome_refused"
    assert len(harness.recorder.outcomes) == 1


async def test_a_defect_in_recording_costs_one_job_and_is_said(
    harness: Harness, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def record(attempt: Attempt, outcome: Outcome) -> Recorded | Stale:
        raise RuntimeError("a defect")

    executor = harness.executor([gate.job])
    gate.open.set()
    with monkeypatch.context() as patch:
        patch.setattr(harness.recorder, "record", record)
        executor.start(harness.claim("wait"))
        await until(lambda: not executor.in_hand)
    assert harness.leases.held == {}
    assert harness.events()[-1] == "job_supervision_failed"
    assert (await harness.run(executor, harness.claim("wait"))).kind is OutcomeKind.COMPLETED


@pytest.mark.parametrize(
    ("reason", "kinds"),
    [
        (StopReason.CANCEL_REQUESTED, [OutcomeKind.CANCELLED]),
        (StopReason.SHUTDOWN, [OutcomeKind.RELEASED]),
        (StopReason.LEASE_LOST, []),
    ],
)
async def test_a_job_that_is_told_to_stop_cleans_up_and_ends(
    harness: Harness, gate: Gate, reason: StopReason, kinds: list[OutcomeKind]
) -> None:
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")
    executor.start(claimed)
    await until(lambda: gate.entered)
    assert executor.cancel(claimed.attempt.job_id, 1, reason)
    await until(lambda: not executor.in_hand)
    assert gate.cleaned_up == 1
    assert [outcome.kind for outcome in harness.recorder.of(claimed)] == kinds
    assert harness.leases.held == {}
    assert "stopped: " in harness.text(claimed)
    assert "Traceback" not in harness.text(claimed)


async def test_a_stop_for_another_attempt_or_job_is_passed_over(
    harness: Harness, gate: Gate
) -> None:
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait", number=2)
    executor.start(claimed)
    await until(lambda: gate.entered)
    assert not executor.cancel(claimed.attempt.job_id, 1, StopReason.LEASE_LOST)
    assert not executor.cancel(harness.claim("wait").attempt.job_id, 2, StopReason.CANCEL_REQUESTED)
    gate.open.set()
    assert (await harness.outcome(claimed)).kind is OutcomeKind.COMPLETED
    await until(lambda: not executor.in_hand)
    assert not executor.cancel(claimed.attempt.job_id, 2, StopReason.CANCEL_REQUESTED)


async def test_a_stop_while_the_outcome_is_recorded_changes_nothing(
    harness: Harness, gate: Gate
) -> None:
    harness.recorder.gate.clear()
    gate.open.set()
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")
    executor.start(claimed)
    await until(lambda: "job_completed" in harness.events())
    executor.cancel(claimed.attempt.job_id, 1, StopReason.LEASE_LOST)
    # The lease is kept for as long as the outcome waits.
    assert claimed.attempt in harness.leases.held
    harness.recorder.gate.set()
    assert (await harness.outcome(claimed)).kind is OutcomeKind.COMPLETED
    await until(lambda: claimed.attempt not in harness.leases.held)


async def test_the_first_reason_to_stop_stands(harness: Harness) -> None:
    cleaning = asyncio.Event()

    @job("slow-to-end")
    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaning.set()
            await asyncio.sleep(0.05)

    executor = harness.executor([slow_to_end])
    claimed = harness.claim("slow-to-end")
    executor.start(claimed)
    await until(harness.events)
    await asyncio.sleep(0)
    executor.cancel(claimed.attempt.job_id, 1, StopReason.CANCEL_REQUESTED)
    await asyncio.wait_for(cleaning.wait(), 5)
    executor.cancel(claimed.attempt.job_id, 1, StopReason.SHUTDOWN)
    assert (await harness.outcome(claimed)).kind is OutcomeKind.CANCELLED


async def test_draining_waits_for_what_runs(harness: Harness, gate: Gate) -> None:
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")
    executor.start(claimed)
    await until(lambda: gate.entered)
    draining = asyncio.create_task(executor.drain(30))
    await asyncio.sleep(0)
    gate.open.set()
    started = time.monotonic()
    await asyncio.wait_for(draining, 5)
    assert time.monotonic() - started < 2
    assert (await harness.outcome(claimed)).kind is OutcomeKind.COMPLETED


async def test_what_the_grace_does_not_suffice_for_is_released(
    harness: Harness, gate: Gate
) -> None:
    executor = harness.executor([gate.job])
    jobs = [harness.claim("wait") for _ in range(3)]
    for claimed in jobs:
        executor.start(claimed)
    await until(lambda: gate.entered == 3)
    started = time.monotonic()
    await executor.drain(0.2)
    assert 0.2 <= time.monotonic() - started < 3
    for claimed in jobs:
        assert [outcome.kind for outcome in harness.recorder.of(claimed)] == [OutcomeKind.RELEASED]
    assert gate.cleaned_up == 3
    assert harness.leases.held == {}


async def test_a_job_that_comes_after_draining_began_is_handed_back_unrun(
    harness: Harness, gate: Gate
) -> None:
    executor = harness.executor([gate.job])
    running, late = harness.claim("wait"), harness.claim("wait")
    executor.start(running)
    await until(lambda: gate.entered)
    draining = asyncio.create_task(executor.drain(30))
    await asyncio.sleep(0)
    executor.start(late)
    assert (await harness.outcome(late)).kind is OutcomeKind.RELEASED
    assert gate.entered == 1
    gate.open.set()
    await asyncio.wait_for(draining, 5)


async def test_a_second_call_of_drain_may_shorten_the_first(harness: Harness, gate: Gate) -> None:
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")
    executor.start(claimed)
    await until(lambda: gate.entered)
    first = asyncio.create_task(executor.drain(300))
    await asyncio.sleep(0)
    await asyncio.wait_for(executor.drain(0), 5)
    await asyncio.wait_for(first, 5)
    await asyncio.wait_for(executor.drain(300), 5)
    assert [outcome.kind for outcome in harness.recorder.of(claimed)] == [OutcomeKind.RELEASED]


async def test_draining_ends_in_bounded_time_though_nothing_can_be_recorded(
    harness: Harness, gate: Gate
) -> None:
    harness.recorder.gate.clear()
    executor = harness.executor([gate.job])
    claimed = harness.claim("wait")
    executor.start(claimed)
    await until(lambda: gate.entered)
    await asyncio.wait_for(executor.drain(0, release_seconds=0.3), 3)
    assert harness.recorder.outcomes == []
    (left,) = [line for line in harness.service_lines if line["event"] == "job_left_behind"]
    assert left["recorded"] is False
    assert executor.free == 4
    assert harness.logs.by_job[claimed.attempt.job_id].is_closed


async def test_an_executor_without_work_drains_at_once(harness: Harness, gate: Gate) -> None:
    await asyncio.wait_for(harness.executor([gate.job]).drain(300), 1)


async def test_hundreds_of_jobs_each_get_their_own_outcome(harness: Harness) -> None:
    @job("double")
    async def double(payload: dict[str, int], ctx: JobContext) -> int:
        ctx.log.info("doubling", number=payload["number"])
        await asyncio.sleep(0)
        return 2 * payload["number"]

    executor = harness.executor([double], concurrency=50)
    jobs: list[tuple[int, ClaimedJob]] = []
    for number in range(500):
        await until(lambda: executor.free)
        claimed = harness.claim("double", {"number": number})
        executor.start(claimed)
        jobs.append((number, claimed))
    for number, claimed in jobs:
        assert (await harness.outcome(claimed)).result_json == str(2 * number)
        assert [line.fields["number"] for line in harness.lines(claimed)] == [number]
