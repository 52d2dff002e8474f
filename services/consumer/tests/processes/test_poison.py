"""Jobs that kill their workers, and the others that ran there."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import ServiceProcess, Services

INNOCENTS = 60
POISONOUS = 4


@asynccontextmanager
async def kept_running(services: Services, count: int) -> AsyncIterator[list[int]]:
    """So many consumers, each started again when it dies; the exit codes of the dead."""
    codes: list[int] = []

    async def keep(process: ServiceProcess) -> None:
        while True:
            codes.append(await process.wait(timeout=120))
            process = await start()

    async def start() -> ServiceProcess:
        return await services.start_consumer(handlers="fault_jobs", concurrency=10)

    keepers = [asyncio.create_task(keep(await start())) for _ in range(count)]
    try:
        yield codes
    finally:
        for keeper in keepers:
            keeper.cancel()
        for keeper in keepers:
            with suppress(asyncio.CancelledError):
                await keeper


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_poison_is_stopped_and_innocents_that_ran_beside_it_complete(
    services: Services, tmp_path: Path
) -> None:
    await services.start_scheduler()
    marks = tmp_path / "marks"
    async with services.client() as http, kept_running(services, 2) as codes:
        jobs = JobClient(http)
        payload = {"path": str(marks), "seconds": 0.2}
        long = [
            await jobs.submit("fault.waits", {**payload, "seconds": 6.0}, max_attempts=2)
            for _ in range(6)
        ]
        poison = [await jobs.submit("fault.kills", payload) for _ in range(POISONOUS)]
        short = [await jobs.submit("fault.waits", payload) for _ in range(INNOCENTS)]
        for innocent in [*long, *short]:
            await jobs.completes(innocent, timeout=100)
        for guilty in poison:
            failed = await jobs.reaches(guilty, "failed", timeout=100)
            assert failed["error"]["type"] == "worker_lost"
            attempts = await jobs.attempts(guilty)
            assert attempts[0]["outcome"] == "lost"

    begun = Counter(line.split()[0] for line in marks.read_text().splitlines())
    assert all(begun[guilty["id"]] <= 4 for guilty in poison), begun
    assert set(codes) == {3}
    # Each took one worker along; from then on it killed nothing but its own process.
    assert len(codes) <= POISONOUS
    connection = await asyncpg.connect(services.servers.database_url)
    try:
        over = await connection.fetch("SELECT id FROM jobs WHERE attempt > attempt_limit")
        gaps = await connection.fetch(
            "SELECT job_id FROM job_attempts GROUP BY job_id HAVING max(number) <> count(*)"
        )
    finally:
        await connection.close()
    assert (over, gaps) == ([], [])
