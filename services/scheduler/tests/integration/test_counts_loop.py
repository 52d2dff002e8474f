from uuid import UUID

from taskflow.db.pool import Database
from taskflow.jobs.quotas import JOB_BYTES, Usage
from taskflow.jobs.usage import FOLD_FROM, read_usage
from taskflow_scheduler.loops.counts import FoldCounts, MendCounts
from taskflow_testing.jobs import TENANT, Jobs

STRAY = UUID("00000000-0000-7000-8000-00000000000b")


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
