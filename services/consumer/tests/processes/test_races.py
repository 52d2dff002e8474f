"""Cancel against time-out against the end, for every kind of handler, recorded in PostgreSQL."""

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Services
from taskflow_testing.waiting import eventually

KINDS = ("fault.waits", "fault.thread", "fault.process")
SECONDS = 0.8

_STORIES = """
SELECT jobs.id, jobs.state, jobs.result IS NOT NULL AS has_result, jobs.error ->> 'type' AS error,
       count(*) FILTER (WHERE job_events.target IN ('completed', 'failed', 'cancelled')) AS endings,
       (array_agg(job_events.target ORDER BY job_events.id DESC))[1] AS last
FROM jobs JOIN job_events ON job_events.job_id = jobs.id
GROUP BY jobs.id
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_each_job_has_one_terminal_state(services: Services, tmp_path: Path) -> None:
    consumer = await services.start_consumer(
        handlers="fault_jobs", concurrency=12, heartbeat_seconds=0.3
    )
    chance = random.Random(18)
    async with services.client() as http:
        jobs = JobClient(http)

        async def race(number: int) -> None:
            job = await jobs.submit(
                KINDS[number % len(KINDS)],
                {"path": str(tmp_path / "marks"), "seconds": SECONDS},
                timeout_seconds=SECONDS + chance.uniform(-0.1, 0.3),
                max_attempts=1,
            )
            if number % 2:
                await jobs.reaches(job, "running", "completed", "failed")
                await asyncio.sleep(chance.uniform(0, SECONDS))
                await http.post(f"/api/v1/jobs/{job['id']}/cancel")

        for _ in range(4):
            await asyncio.gather(*(race(number) for number in range(18)))
        connection = await asyncpg.connect(services.servers.database_url)
        try:

            async def all_ended() -> bool:
                left = "SELECT count(*) FROM jobs WHERE finished_at IS NULL"
                return not await connection.fetchval(left)

            await eventually(all_ended, timeout=60)
            stories = await connection.fetch(_STORIES)
        finally:
            await connection.close()
    assert len(stories) == 72
    for story in stories:
        assert (story["endings"], story["last"]) == (1, story["state"]), story
        assert story["has_result"] == (story["state"] == "completed")
        assert (
            story["error"]
            == {"completed": None, "failed": "timeout", "cancelled": "cancelled"}[story["state"]]
        )
    assert {story["state"] for story in stories} == {"completed", "failed", "cancelled"}
    assert consumer.events("job_supervision_failed") == []
