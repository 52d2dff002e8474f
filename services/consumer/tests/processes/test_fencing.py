"""A worker that was frozen for longer than its leases changes nothing when it wakes up."""

import json
import signal
from pathlib import Path

import asyncpg
import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Services
from taskflow_testing.waiting import eventually


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_that_a_frozen_worker_still_writes_reaches_the_job(
    services: Services, tmp_path: Path
) -> None:
    await services.start_scheduler()
    frozen = await services.start_consumer(handlers="fault_jobs", log_flush_seconds=0.2)
    async with services.client() as http:
        jobs = JobClient(http)
        marks = tmp_path / "marks"
        ends_late = await jobs.submit("fault.waits", {"path": str(marks), "seconds": 1.5})
        writes_late = await jobs.submit("fault.writes_late", {"path": str(marks), "seconds": 4.0})

        async def both_run() -> bool:
            return marks.exists() and len(marks.read_text().splitlines()) == 2

        await eventually(both_run)
        await jobs.log_has(writes_late, "attempt_said=1")
        frozen.signal(signal.SIGSTOP)
        # Its leases run out twice over: both jobs run elsewhere, to their end.
        await services.start_consumer(handlers="fault_jobs", log_flush_seconds=0.2)
        done = [await jobs.completes(job, timeout=60) for job in (ends_late, writes_late)]
        before = [await _row(services, job["id"]) for job in done]
        frozen.signal(signal.SIGCONT)

        async def all_is_refused() -> bool:
            refused = len(frozen.events("job_outcome_refused"))
            return refused + len(frozen.events("job_lost")) >= 2

        await eventually(all_is_refused, timeout=30)
        await eventually(lambda: _is_heard_of(services, frozen.pid))
        assert await frozen.terminate() == 0  # with it, whatever it had still to write

        assert [await _row(services, job["id"]) for job in done] == before
        for job in done:
            assert (await jobs.get(job))["attempt"] == 2
            outcomes = [attempt["outcome"] for attempt in await jobs.attempts(job)]
            assert outcomes == ["lost", "completed"]
        assert before[1]["result"] == '"attempt 2"'
        assert json.loads(before[1]["checkpoint"]) == {"attempt": 2}
        assert before[1]["progress_percent"] == 2

        refusals = frozen.events("job_outcome_refused")
        assert refusals
        assert [line["refused"] for line in refusals] == list(range(1, len(refusals) + 1))

        # What the late attempt logs stands under its own number, in whole lines.
        for number in (1, 2):
            answer = await http.get(
                writes_late["links"]["logs"],
                params={"attempt": number},
                headers={"Accept": "application/x-ndjson"},
            )
            lines = [json.loads(line) for line in answer.text.splitlines()]
            said = {line["attempt_said"] for line in lines if line["message"] == "by"}
            assert said == {number}


async def _row(services: Services, job_id: str) -> asyncpg.Record:
    connection = await asyncpg.connect(services.servers.database_url)
    try:
        row = await connection.fetchrow("SELECT * FROM jobs WHERE id = $1", job_id)
    finally:
        await connection.close()
    assert row is not None
    return row


async def _is_heard_of(services: Services, pid: int) -> bool:
    """Whether the worker that is this process has been heard of since it woke up."""
    connection = await asyncpg.connect(services.servers.database_url)
    try:
        return bool(
            await connection.fetchval(
                "SELECT heartbeat_at > clock_timestamp() - interval '2 s' FROM workers"
                " WHERE pid = $1",
                pid,
            )
        )
    finally:
        await connection.close()
