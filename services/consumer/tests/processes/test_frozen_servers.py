"""Servers that answer no more for a while: what runs goes on, and nothing runs twice."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from taskflow_testing.job_client import JobClient
from taskflow_testing.services import Services
from taskflow_testing.waiting import eventually

from .conftest import Proxies

POOL_SIZE = 10
AMQP_CONNECTIONS = 2
FROZEN_SECONDS = 6.0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["database", "broker", "s3"])
async def test_all_jobs_complete_in_their_first_attempt_and_no_connection_is_left(
    services: Services,
    proxies: Proxies,
    through_proxies: dict[str, Any],
    tmp_path: Path,
    server: str,
) -> None:
    await services.start_scheduler(lease_seconds=15, heartbeat_seconds=1)
    consumer = await services.start_consumer(
        **through_proxies,
        handlers="fault_jobs",
        concurrency=8,
        lease_seconds=15,
        heartbeat_seconds=1,
        database_statement_timeout_seconds=2,
        s3_timeout_seconds=2,
        log_spool_dir=tmp_path / "spool",
        log_flush_seconds=0.3,
    )
    frozen = {"database": proxies.database, "broker": proxies.broker, "s3": proxies.s3}[server]
    marks = tmp_path / "marks"
    async with services.client() as http:
        jobs = JobClient(http)
        payload = {"path": str(marks), "seconds": 3.0}
        submitted = [await jobs.submit("fault.waits", payload) for _ in range(6)]
        for job in submitted:
            await jobs.reaches(job, "running")
        frozen.freeze()
        short = {**payload, "seconds": 1.0}
        submitted += [await jobs.submit("fault.waits", short) for _ in range(20)]
        await asyncio.sleep(FROZEN_SECONDS)
        frozen.thaw()
        for job in submitted:
            assert (await jobs.completes(job, timeout=90))["attempt"] == 1
            await jobs.log_has(job, "ended", timeout=30)

    begun = Counter(line.split()[0] for line in marks.read_text().splitlines())
    assert begun == {job["id"]: 1 for job in submitted}
    assert consumer.is_running
    await eventually(lambda: _few_are_open(services, proxies), timeout=30)


async def _few_are_open(services: Services, proxies: Proxies) -> bool:
    """Whether the consumer holds no more connections than it should."""
    connection = await asyncpg.connect(services.servers.database_url)
    try:
        of_consumer = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'taskflow-consumer'"
        )
        of_heartbeat = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'taskflow-heartbeat'"
        )
    finally:
        await connection.close()
    open_amqp = len(proxies.broker._connections)
    return of_consumer <= POOL_SIZE and of_heartbeat == 1 and open_amqp == AMQP_CONNECTIONS
