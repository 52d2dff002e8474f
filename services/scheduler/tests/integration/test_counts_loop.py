import asyncio
from uuid import UUID

import asyncpg

from taskflow.db.pool import Database
from taskflow.db.roles import DatabaseRole
from taskflow.jobs.quotas import JOB_BYTES, Usage
from taskflow.jobs.usage import FOLD_FROM, read_usage
from taskflow_scheduler.loops.counts import FoldCounts, MendCounts
from taskflow_testing.clients import open_pool
from taskflow_testing.jobs import TENANT, Jobs
from taskflow_testing.waiting import eventually

STRAY = UUID("00000000-0000-7000-8000-00000000000b")

_WAITS_FOR_LONGER = """
SELECT EXISTS (SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'
                 AND clock_timestamp() - query_start > interval '2 s')
"""


async def test_many_rows_become_one(jobs: Jobs, database: Database) -> None:
    for _ in range(FOLD_FROM):
        await jobs.submit()
    assert not await FoldCounts(database).round()
    assert await jobs.connection.fetchval("SELECT count(*) FROM tenant_usage") == 1
    assert (await read_usage(jobs.connection, [TENANT]))[TENANT].waiting_jobs == FOLD_FROM


async def test_drift_is_mended(jobs: Jobs, database: Database) -> None:
    await jobs.submit()
    await jobs.connection.execute(
        "INSERT INTO tenant_usage (tenant_id, waiting_jobs, completed_jobs) VALUES ($1, 3, 1)",
        STRAY,
    )
    await jobs.connection.execute("DELETE FROM tenant_usage WHERE tenant_id = $1", TENANT)
    loop = MendCounts(database)

    assert not await loop.round()
    assert not await loop.round()

    assert loop.mended == 2
    usage = await read_usage(jobs.connection, [TENANT, STRAY])
    assert usage == {TENANT: Usage(1, JOB_BYTES + len('{"text": "hello"}')), STRAY: Usage()}


async def test_a_look_at_all_jobs_may_take_longer_than_other_statements(
    jobs: Jobs, clean_database: str
) -> None:
    await jobs.submit()
    await jobs.connection.execute("DELETE FROM tenant_usage")
    hasty = {"statement_timeout_seconds": 0.5, "acquire_timeout_seconds": 5.0}

    async def waits_for_longer() -> bool:
        return bool(await jobs.connection.fetchval(_WAITS_FOR_LONGER))

    holder = await asyncpg.connect(clean_database)
    try:
        async with open_pool(
            clean_database, DatabaseRole.SCHEDULER, pool_size=1, **hasty
        ) as database:
            loop = MendCounts(database)
            async with holder.transaction():
                await holder.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
                round_ = asyncio.create_task(loop.round())
                await eventually(waits_for_longer)
            await round_
    finally:
        await holder.close()

    assert loop.mended == 1
