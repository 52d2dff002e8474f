import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from taskflow.db.pool import Database, open_database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.finishing import finish
from taskflow.jobs.outcomes import completed
from taskflow.sdk.errors import JobStopped
from taskflow.sealing.ring import SealingKeyRing
from taskflow_consumer.notes import CheckpointWriter, ProgressWriter
from taskflow_testing.jobs import Jobs
from taskflow_testing.tcp_proxy import TcpProxy


@pytest.fixture
async def proxy(clean_database: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(clean_database) as proxy:
        yield proxy


@pytest.fixture
async def database(proxy: TcpProxy) -> AsyncIterator[Database]:
    database = await open_database(
        proxy.url,
        role=DatabaseRole.CONSUMER,
        application_name="test",
        pool_size=2,
        statement_timeout_seconds=2,
        acquire_timeout_seconds=1,
    )
    yield database
    await database.close()


@pytest.fixture
async def jobs(clean_database: str) -> AsyncIterator[Jobs]:
    connection = await asyncpg.connect(clean_database)
    yield Jobs(connection)
    await connection.close()


async def test_what_is_settled_is_written(jobs: Jobs, database: Database) -> None:
    writer = ProgressWriter(database)
    running = [(await jobs.start()).attempt for _ in range(5)]
    for percent in (10.0, 50.0, 100.0):
        for attempt in running:
            writer.report(attempt, percent, f"{percent:.0f} of 100")

    await asyncio.gather(*(writer.settle(attempt) for attempt in running))

    for attempt in running:
        assert (await jobs.row(attempt.job_id))["progress_percent"] == 100.0
    await writer.stop()


async def test_an_attempt_without_a_report_is_settled(jobs: Jobs, database: Database) -> None:
    writer = ProgressWriter(database)
    await asyncio.wait_for(writer.settle((await jobs.start()).attempt), 1)
    await writer.stop()


async def test_progress_delays_nobody_and_arrives_when_the_database_is_back(
    jobs: Jobs, database: Database, proxy: TcpProxy
) -> None:
    writer = ProgressWriter(database)
    attempt = (await jobs.start()).attempt
    proxy.go_down()
    writer.report(attempt, 40.0, None)
    await asyncio.wait_for(writer.settle(attempt), 10)
    proxy.come_back()
    writer.report(attempt, 60.0, None)
    async with asyncio.timeout(20):
        while (await jobs.row(attempt.job_id))["progress_percent"] != 60.0:
            await asyncio.sleep(0.02)
    await writer.stop()


async def test_a_checkpoint_of_a_job_that_moved_on_is_refused(
    jobs: Jobs, database: Database
) -> None:
    writer = CheckpointWriter(database, SealingKeyRing({}))
    job = await jobs.start()
    attempt = job.attempt
    await writer.save(job, '{"page": 1}')
    assert (await jobs.row(attempt.job_id))["checkpoint"] == '{"page": 1}'
    await finish(jobs.connection, [(attempt, completed("1"))])
    with pytest.raises(JobStopped):
        await writer.save(job, '{"page": 2}')
